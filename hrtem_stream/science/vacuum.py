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

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.filters import blur, subtract_local_mean
from hrtem_stream.science.lattice import find_reflections, lattice_image

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_PEAK_THRESHOLD = 1.6
_LATTICE_THRESHOLD = 2.0
_APERTURE_PER_PX = 0.03
"""Twice as wide as for the Bragg filter: sharper in space, since holes are small."""
_LATTICE_SHARE = 0.2
_EXCESS_SHARE = 0.2
_NOISE_SPREAD = 1.2
"""Mean noise power over its lowest tenth, at this averaging."""
_CLEAN_SPREAD = 1.6
_INTENSITY_MARGIN = 0.2
_COLOUR_LIMIT = 2.0
"""Low over high frequencies, 1 for white noise; a detector's blur of it stays below."""
_LEAST_RADIUS_PX = 4


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
    (P, Q) bool. Holes narrower than about 8 px, and a rim of a few pixels, are not found.

    Notes
    -----
    Where the lattice is weaker than the noise of a few hundred pixels, holes are missed rather
    than invented. A hole over more than nine tenths of the clean area is missed.
    """
    contrast = np.where(beam_off, np.float32(0.0), flat - np.float32(1.0))
    centred = subtract_local_mean(contrast, deviation_px=14.0)
    centred[beam_off] = 0.0
    reflections = find_reflections(centred, threshold=_PEAK_THRESHOLD, n_peaks=24)
    if len(reflections) == 0 or reflections[0, 2] <= _LATTICE_THRESHOLD:
        return ~beam_off if _is_noise(centred, ~beam_off) else np.zeros_like(beam_off)
    relative = illumination / np.float32(illumination[~beam_off].mean())
    found = _without_lattice(centred, reflections, relative, ~beam_off)
    found &= np.abs(blur(contrast, deviation_px=4.0)) < _INTENSITY_MARGIN
    return _tidy(found) & ~beam_off


def _without_lattice(
    centred: Image, reflections: NDArray[np.float64], illumination: Image, lit: Mask
) -> Mask:
    """Mark where neither lattice nor texture adds to the noise."""
    lattice = lattice_image(centred, reflections, aperture=_APERTURE_PER_PX)
    residual = centred - lattice
    lattice_power = blur(lattice * lattice, deviation_px=4.0)
    texture_power = blur(residual * residual, deviation_px=4.0) * illumination
    power = blur(centred * centred, deviation_px=4.0)
    coarse = np.s_[::4, ::4]
    sampled = lit[coarse]
    noise = _NOISE_SPREAD * float(np.quantile(texture_power[coarse][sampled], 0.1))
    clean = sampled & (texture_power[coarse] < _CLEAN_SPREAD * noise)
    reference = float(np.quantile(lattice_power[coarse][clean], 0.9))
    return np.asarray(
        (lattice_power < _LATTICE_SHARE * reference)
        & (power < noise / illumination + _EXCESS_SHARE * reference)
    )


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


def _tidy(mask: Mask) -> Mask:
    """Close gaps of a pixel or two and drop whatever is smaller than the least radius."""
    values = mask.astype(np.uint8)
    small = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    size = 2 * _LEAST_RADIUS_PX + 1
    large = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    closed = cv2.morphologyEx(values, cv2.MORPH_CLOSE, small)
    return np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, large), np.bool_)
