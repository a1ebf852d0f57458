"""Vacuum: where the beam meets no specimen there is unit intensity and no modulation.

Graphene is a phase object whose mean intensity is one as well, and shot noise modulates vacuum;
what tells them apart is the lattice. So the reflections are taken from the whole frame, where a
weak lattice stands out, and vacuum is where

    A < a A_ref              the lattice has hardly any power:  A = I_B² * Gaussian
    D < T_ref/S + d A_ref    there is little power beyond noise: D = Î² * Gaussian
    |I − 1| < m              the intensity is that of the illumination

with S the illumination, 1 on average, T = S (Î − I_B)² * Gaussian, T_ref its level in the
cleanest part, which is shot noise alone, and A_ref the power of the lattice where T is close to
T_ref. The power of shot noise in an evened image goes with 1/S, hence the factors. A frame
without any lattice is vacuum throughout if its spectrum is that of noise, and none if it has
texture.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.filters import blur, quantile, subtract_local_mean
from hrtem_stream.science.islands import islands_with_core
from hrtem_stream.science.lattice import find_reflections, lattice_image

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_PEAK_THRESHOLD = 1.6
_LATTICE_THRESHOLD = 2.0
_APERTURE_PER_PX = 0.03
"""Twice as wide as for the Bragg filter: sharper in space, since holes are small."""
_LATTICE_SHARE = 0.15
_CORE_SHARE = 0.07
_CORE_AREA_SHARE = 0.25
"""A quarter of a hole has less than this share of the lattice's power."""
_EXCESS_SHARE = 0.2
_LEAST_LATTICE = 3.0
"""Power of the lattice over that of the noise in its apertures; a weaker one may fade by itself."""
_NOISE_SPREAD = 1.2
"""Mean noise power over its lowest tenth, at this averaging."""
_CLEAN_SPREAD = 1.6
_INTENSITY_MARGIN = 0.2
_LOCAL_MEAN_PX = 14.0
_LEAST_CONTRAST = 0.01
"""Deviation of an evened image; a specimen gives several times more, and at a high dose what the
fit of the illumination leaves is not white."""
_COLOUR_LIMIT = 2.0
"""Low over high frequencies, 1 for white noise; a detector's blur of it stays below."""
_BLUR_PX = 2.0
"""Deviation of the Gaussian, at half the resolution: 4 px of the working image."""
_LEAST_WIDTH = 5
_LEAST_AREA = 40
"""Width of the narrowest and area of the smallest hole, at half the resolution."""


def find_vacuum(flat: Image, *, illumination: Image, beam_off: Mask) -> Mask:
    """Find the holes in an evened image.

    Parameters
    ----------
    flat
        (P, Q) float32, image over illumination: 1 on average.
    illumination
        (P, Q) float32, positive, in any unit.
    beam_off
        (P, Q) bool, never vacuum.

    Returns
    -------
    (P, Q) bool. Holes narrower than about 10 px, and a rim of a few pixels, are not found.

    Notes
    -----
    Where the lattice has less than three times the power of the noise in its apertures, holes
    are missed rather than invented. A hole over more than nine tenths of the clean area is missed.
    """
    if beam_off.all():
        return np.zeros_like(beam_off)
    contrast = flat - np.float32(1.0)
    evenly_lit = not beam_off.any()
    if not evenly_lit:
        contrast[beam_off] = 0.0
    centred = subtract_local_mean(contrast, deviation_px=_LOCAL_MEAN_PX)
    if not evenly_lit:
        centred[beam_off] = 0.0
    reflections = find_reflections(centred, threshold=_PEAK_THRESHOLD, n_peaks=24)
    if len(reflections) < 2 or reflections[0, 2] <= _LATTICE_THRESHOLD:
        empty = float(centred.std()) < _LEAST_CONTRAST or _is_noise(centred, ~beam_off)
        return ~beam_off if empty else np.zeros_like(beam_off)
    lattice = lattice_image(centred, reflections, aperture=_APERTURE_PER_PX)
    relative = _coarse(illumination)
    lit = np.ones(relative.shape, np.bool_) if evenly_lit else _coarse(~beam_off) > 0.5
    relative /= cv2.mean(relative, mask=lit.view(np.uint8))[0] or 1.0
    # What two Gaussian apertures a reflection let through of the power of white noise.
    passed = 2.0 * len(reflections) * np.pi * _APERTURE_PER_PX**2
    found = _without_lattice(centred, lattice, illumination=relative, lit=lit, passed=passed)
    if not found.any():
        return np.zeros_like(beam_off)
    found &= np.abs(blur(_coarse(contrast), deviation_px=_BLUR_PX)) < _INTENSITY_MARGIN
    vacuum = cv2.resize(
        found.view(np.uint8), beam_off.shape[::-1], interpolation=cv2.INTER_NEAREST
    ).view(np.bool_)
    return np.asarray(vacuum & ~beam_off)


def _without_lattice(
    centred: Image, lattice: Image, *, illumination: Image, lit: Mask, passed: float
) -> Mask:
    """Mark where neither lattice nor texture adds to the noise, at half the resolution."""
    nowhere = np.zeros_like(lit)
    sampled = lit[::2, ::2]
    if not sampled.any():
        return nowhere
    texture_power = (_power(centred - lattice) * illumination)[::2, ::2][sampled]
    noise = _NOISE_SPREAD * quantile(texture_power, share=0.1)
    lattice_power = _power(lattice)
    lattice_power -= np.float32(passed * noise) / illumination
    clean = texture_power < _CLEAN_SPREAD * noise
    if not clean.any():
        return nowhere
    reference = quantile(lattice_power[::2, ::2][sampled][clean], share=0.9)
    if reference < _LEAST_LATTICE * passed * noise:
        return nowhere
    found = lit & (lattice_power < _LATTICE_SHARE * reference)
    if not found.any():
        return nowhere
    found &= _power(centred) - np.float32(noise) / illumination < _EXCESS_SHARE * reference
    core = lattice_power < _CORE_SHARE * reference
    if not (found & core).any():
        return nowhere
    tidy = _tidy(found)
    return islands_with_core(
        tidy.view(np.bool_), core, least_px=_LEAST_AREA, least_share=_CORE_AREA_SHARE
    )


def _power(image: Image) -> Image:
    """Return the power of an image over a Gaussian neighbourhood, at half the resolution."""
    return blur(_coarse(image * image), deviation_px=_BLUR_PX)


def _coarse(image: NDArray[Any]) -> Image:
    """Average over 2 x 2 pixels; a boundary of lattice and hole is no sharper than that."""
    rows, columns = image.shape
    small = cv2.resize(
        image.astype(np.float32, copy=False),
        (columns // 2, rows // 2),
        interpolation=cv2.INTER_AREA,
    )
    return np.asarray(small, np.float32)


def _is_noise(centred: Image, lit: Mask) -> bool:
    """Say whether an image without a lattice is white: as much power at low g as at high g."""
    if not lit.any():
        return False
    low = blur(centred, deviation_px=1.0)
    # [1 -2 1] along both axes passes the corner of the spectrum only; 36 is its gain for noise,
    # 1/(4π) that of the Gaussian.
    step = np.array([1.0, -2.0, 1.0], np.float32)
    high = cv2.sepFilter2D(centred, cv2.CV_32F, step, step)
    low_power = float(np.mean(np.square(low[lit]))) * 4.0 * np.pi
    high_power = float(np.mean(np.square(high[lit]))) / 36.0
    return low_power < _COLOUR_LIMIT * high_power


def _tidy(mask: Mask) -> NDArray[np.uint8]:
    """Close gaps of a pixel or two and drop whatever is narrower than the least width."""
    values = mask.astype(np.uint8)
    narrow = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_LEAST_WIDTH, _LEAST_WIDTH))
    closed = cv2.morphologyEx(values, cv2.MORPH_CLOSE, narrow)
    return np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, wide), np.uint8)
