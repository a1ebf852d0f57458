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

from hrtem_stream.science.bragg import find_lattice, flatten
from hrtem_stream.science.compiled import compiled, stretch
from hrtem_stream.science.filters import blur, quantile
from hrtem_stream.science.islands import islands_with_core
from hrtem_stream.science.lattice import NO_REFLECTIONS, Reflections, without_lattice

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


def find_vacuum(flat: Image, *, illumination: Image, beam_off: Mask) -> tuple[Mask, Reflections]:
    """Find the holes in an evened image, and the reflections of its lattice on the way.

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
    vacuum
        (P, Q) bool. Holes narrower than about 10 px, and a rim of a few pixels, are not found.
    reflections
        (n, 3), those of the Bragg filter's own search, which it need not repeat.

    Notes
    -----
    Where the lattice has less than three times the power of the noise in its apertures, holes
    are missed rather than invented. A hole over more than nine tenths of the clean area is missed.
    """
    if beam_off.all():
        return np.zeros_like(beam_off), NO_REFLECTIONS
    evenly_lit = not beam_off.any()
    even = flat if evenly_lit else np.where(beam_off, np.float32(1.0), flat)
    centred = flatten(even)
    if not evenly_lit:
        centred[beam_off] = 0.0
    found = find_lattice(centred)
    clear = found[found[:, 2] > _PEAK_THRESHOLD]
    return _vacuum(even, centred, clear, illumination=illumination, beam_off=beam_off), found


def _vacuum(
    even: Image, centred: Image, reflections: Reflections, *, illumination: Image, beam_off: Mask
) -> Mask:
    if len(reflections) < 2 or reflections[0, 2] <= _LATTICE_THRESHOLD:
        empty = float(centred.std()) < _LEAST_CONTRAST or _is_noise(centred, ~beam_off)
        return ~beam_off if empty else np.zeros_like(beam_off)
    residual = without_lattice(centred, reflections, aperture=_APERTURE_PER_PX)
    relative = _coarse(illumination)
    if beam_off.any():
        lit = _coarse(~beam_off) > 0.5
        mean = cv2.mean(relative, mask=lit.view(np.uint8))[0]
    else:
        lit = np.ones(relative.shape, np.bool_)
        mean = cv2.mean(relative)[0]
    relative /= mean or 1.0
    # What two Gaussian apertures a reflection let through of the power of white noise.
    passed = 2.0 * len(reflections) * np.pi * _APERTURE_PER_PX**2
    found = _empty_of_lattice(centred, residual, illumination=relative, lit=lit, passed=passed)
    if not found.any():
        return np.zeros_like(beam_off)
    intensity = blur(_coarse(even), deviation_px=_BLUR_PX)
    found &= np.abs(intensity - np.float32(1.0)) < _INTENSITY_MARGIN
    vacuum = cv2.resize(
        found.view(np.uint8), beam_off.shape[::-1], interpolation=cv2.INTER_NEAREST
    ).view(np.bool_)
    return np.asarray(vacuum & ~beam_off)


def _empty_of_lattice(
    centred: Image, residual: Image, *, illumination: Image, lit: Mask, passed: float
) -> Mask:
    """Mark where neither lattice nor texture adds to the noise, at half the resolution."""
    nowhere = np.zeros_like(lit)
    texture_power, lattice_power, power = _powers(centred, residual)
    texture_power = blur(texture_power, deviation_px=_BLUR_PX)
    lattice_power = blur(lattice_power, deviation_px=_BLUR_PX)
    samples = np.empty(lit[::2, ::2].size, np.float32)
    n = _sample_evened(texture_power, illumination, lit, samples)
    if n == 0:
        return nowhere
    noise = _NOISE_SPREAD * quantile(samples[:n], share=0.1)
    _subtract_noise(lattice_power, illumination, np.float32(passed * noise))
    clean = np.float32(_CLEAN_SPREAD * noise)
    n = _sample_clean(lattice_power, texture_power, illumination, lit, clean, samples)
    if n == 0:
        return nowhere
    reference = quantile(samples[:n], share=0.9)
    if reference < _LEAST_LATTICE * passed * noise:
        return nowhere
    found = lit & (lattice_power < _LATTICE_SHARE * reference)
    if not found.any():
        return nowhere
    excess = blur(power, deviation_px=_BLUR_PX) - np.float32(noise) / illumination
    found &= excess < _EXCESS_SHARE * reference
    core = lattice_power < _CORE_SHARE * reference
    if not (found & core).any():
        return nowhere
    tidy = _tidy(found)
    return islands_with_core(
        tidy.view(np.bool_), core, least_px=_LEAST_AREA, least_share=_CORE_AREA_SHARE
    )


@compiled
def _sample_evened(power: Image, illumination: Image, lit: Mask, samples: Image) -> int:
    """Write the power of the noise under even illumination, of each fourth pixel that is lit."""
    n = 0
    for i in range(0, power.shape[0], 2):
        for j in range(0, power.shape[1], 2):
            samples[n] = power[i, j] * illumination[i, j]
            n += lit[i, j]
    return n


@compiled
def _sample_clean(
    lattice: Image, texture: Image, illumination: Image, lit: Mask, most: np.float32, samples: Image
) -> int:
    """Write the power of the lattice of each fourth pixel that is lit and hardly has texture."""
    n = 0
    for i in range(0, lattice.shape[0], 2):
        for j in range(0, lattice.shape[1], 2):
            samples[n] = lattice[i, j]
            n += lit[i, j] and texture[i, j] * illumination[i, j] < most
    return n


@compiled
def _subtract_noise(power: Image, illumination: Image, noise: np.float32) -> None:
    """Subtract what the noise adds to a power, in place."""
    n = power.shape[1]
    for i in range(power.shape[0]):
        _subtract_quotient(stretch(power, i * n, n), noise, stretch(illumination, i * n, n))


@compiled
def _subtract_quotient(row: Image, dividend: np.float32, divisors: Image) -> None:
    for j in range(row.size):
        # Unlike the operator it does not look out for a zero, which would be pixel by pixel.
        row[j] -= np.divide(dividend, divisors[j])


def _powers(centred: Image, residual: Image) -> tuple[Image, Image, Image]:
    """Return the powers of residual, lattice and both, at half the resolution."""
    rows, columns = centred.shape
    if rows % 2 or columns % 2:
        lattice = centred - residual
        return _coarse(residual * residual), _coarse(lattice * lattice), _coarse(centred * centred)
    texture, ordered, both = np.empty((3, rows // 2, columns // 2), np.float32)
    _halve_powers(centred, residual, texture, ordered, both)
    return texture, ordered, both


@compiled
def _halve_powers(
    centred: Image, residual: Image, texture: Image, lattice: Image, both: Image
) -> None:
    """Write the mean squares of 2 x 2 pixels: of the residual, of the lattice, of both."""
    n = centred.shape[1]
    sums = np.empty((3, n), np.float32)
    for i in range(texture.shape[0]):
        _add_squares(
            stretch(centred, 2 * i * n, n),
            stretch(centred, (2 * i + 1) * n, n),
            stretch(residual, 2 * i * n, n),
            stretch(residual, (2 * i + 1) * n, n),
            stretch(sums, 0, n),
            stretch(sums, n, n),
            stretch(sums, 2 * n, n),
        )
        _average_pairs(stretch(sums, 0, n), stretch(texture, i * (n // 2), n // 2))
        _average_pairs(stretch(sums, n, n), stretch(lattice, i * (n // 2), n // 2))
        _average_pairs(stretch(sums, 2 * n, n), stretch(both, i * (n // 2), n // 2))


@compiled
def _add_squares(
    upper: Image,
    lower: Image,
    upper_residual: Image,
    lower_residual: Image,
    texture: Image,
    lattice: Image,
    both: Image,
) -> None:
    for j in range(upper.size):
        one, other = upper[j] - upper_residual[j], lower[j] - lower_residual[j]
        texture[j] = upper_residual[j] * upper_residual[j] + lower_residual[j] * lower_residual[j]
        lattice[j] = one * one + other * other
        both[j] = upper[j] * upper[j] + lower[j] * lower[j]


@compiled
def _average_pairs(sums: Image, averages: Image) -> None:
    for j in range(averages.size):
        averages[j] = np.float32(0.25) * (sums[2 * j] + sums[2 * j + 1])


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
