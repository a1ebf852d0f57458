"""Even illumination: find it, divide by it, standardise, and say where there is no specimen.

    I(r) = S(r) · (1 + c(r)) + noise            S the illumination, c the contrast of the specimen

S is a Bézier surface (Eq. 1, `bezier`). Dividing by it (Eq. 2) leaves 1 + c, and standardising
(Eq. 3) makes mean 0 and deviation 1 of it. All of it happens on the working image: on block means
instead of detector pixels the result differs by about a thousandth of a deviation.

The published form, a plain fit of degree 2, is `normalise_published`. It fails on raw frames: with
several-fold fall-off degree 2 cannot follow the beam, and hot pixels, holes and the dark outside
of the beam pull it. `normalise_frame` ships: degree 4, fitted robustly to what the beam lights.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.bezier import bernstein, bezier_surface, check_degree, fit_bezier
from hrtem_stream.science.compiled import compiled
from hrtem_stream.science.filters import quantile
from hrtem_stream.science.lattice import Reflections
from hrtem_stream.science.reduction import (
    WORKING_SHAPE,
    Frame,
    check_frame,
    reduce_frame,
)
from hrtem_stream.science.robust_fit import fit_robustly
from hrtem_stream.science.vacuum import find_vacuum

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

DEGREE = 4
_BLOCKS = 32
"""The fit works on this many block means along either axis, or fewer in a small image."""
_DARK_SHARE = 0.08
"""First guess of the beam-off: blocks below this share of the bright ones."""
_OFF_SHARE = 0.3
"""Pixels below this share of the fitted illumination are outside the beam."""
_HOT_DEVIATIONS = 10.0
"""A pixel that differs from its 3x3 median by so many robust deviations is a defect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalisedImage:
    """A working image, evened out and standardised, and what was found on the way."""

    image: Image
    """(P, Q), mean 0 and deviation 1 over the lit pixels; 0 where the beam is off."""
    coefficients: Image
    """(d+1, d+1) Bézier coefficients of the illumination, in detector counts."""
    vacuum: Mask
    """(P, Q), True where the beam meets no specimen."""
    beam_off: Mask
    """(P, Q), True outside the illuminated field."""
    reflections: Reflections
    """(n, 3), what the Bragg filter would find of the image (`bragg.find_lattice`)."""


def normalise_frame(
    frame: Frame, *, degree: int = DEGREE, shape: tuple[int, int] = WORKING_SHAPE
) -> NormalisedImage:
    """Reduce a detector frame, divide it by its illumination and standardise it.

    Parameters
    ----------
    frame
        (M, N) unsigned integers or floats, detector counts.
    degree
        Of the Bézier surface, 0 to 7.
    shape
        (P, Q) of the working image, each side at least 16.

    Raises
    ------
    ValueError
        If the frame cannot be analysed, with the sentence of `reduction.check_frame`.
    """
    if frame.ndim != 2 or frame.size == 0 or frame.dtype.kind not in "uf":
        raise ValueError(check_frame(frame))
    reduced = reduce_frame(frame, shape=shape)
    fault = check_frame(frame, reduced=reduced)
    if fault:
        raise ValueError(fault)
    return normalise_image(reduced, degree=degree)


def normalise_image(reduced: Image, *, degree: int = DEGREE) -> NormalisedImage:
    """Divide a working image by its robustly fitted illumination and standardise it.

    Parameters
    ----------
    reduced
        (P, Q) float32 in detector counts, finite, each side at least 16.
    degree
        Of the Bézier surface, 0 to 7.

    Raises
    ------
    ValueError
        If the image is too small or the degree out of range.
    """
    repaired = repair_defects(reduced)
    coefficients, beam_off = fit_illumination(repaired, degree=degree)
    surface = illumination_surface(coefficients, shape=repaired.shape)
    flat = repaired / surface
    vacuum, reflections = find_vacuum(flat, illumination=surface, beam_off=beam_off)
    return NormalisedImage(
        image=standardise(flat, beam_off=beam_off),
        coefficients=coefficients.astype(np.float32),
        vacuum=vacuum,
        beam_off=beam_off,
        reflections=reflections,
    )


def normalise_published(image: Image, *, degree: int = 2) -> Image:
    """Normalise as published: plain least squares (Eq. 1), divide (Eq. 2), standardise (Eq. 3)."""
    surface = illumination_surface(fit_bezier(image, degree=degree), shape=image.shape)
    return standardise(image / surface, beam_off=np.zeros(image.shape, np.bool_))


def repair_defects(image: Image) -> Image:
    """Replace hot and dead pixels by the median of their 3x3 neighbourhood.

    A defect differs from that median by more than ten robust deviations, taken where there is
    light; no lattice does.
    """
    image = np.ascontiguousarray(image, np.float32)
    median = cv2.medianBlur(image, 3)
    # The median deviation of a sixteenth of the pixels is as good, and costs nothing; the dark
    # outside of the beam says nothing of the deviation within.
    deviations = np.empty(median[::4, ::4].size, np.float32)
    mean, n_lit = _sample_deviations(image, median, deviations)
    deviation = 1.4826 * quantile(deviations[:n_lit], share=0.5) if n_lit else 0.0
    limit = max(_HOT_DEVIATIONS * deviation, 1e-3 * abs(mean))
    repaired: Image = np.empty_like(image)
    _replace(image.ravel(), median.ravel(), np.float32(limit), repaired.ravel())
    return repaired


def fit_illumination(image: Image, *, degree: int = DEGREE) -> tuple[NDArray[np.float64], Mask]:
    """Fit a Bézier surface to what the beam lights, and return it with the mask of the rest.

    Block means are fitted robustly (`robust_fit`), so that contaminants, holes and defects lose
    their say. Dark blocks have none from the start.

    Parameters
    ----------
    image
        (P, Q) float32 in detector counts, finite, each side at least 16.
    degree
        Of the surface, 0 to 7.

    Returns
    -------
    coefficients
        (degree+1, degree+1) float64, in detector counts.
    beam_off
        (P, Q) bool: True where the image lies below three tenths of the illumination.

    Raises
    ------
    ValueError
        If the image is too small or the degree out of range.

    Notes
    -----
    A detector offset that was not subtracted counts as beam: above three tenths of the
    illumination the dark is then taken for a part of it.
    """
    check_degree(degree)
    if image.ndim != 2 or min(image.shape) < 16:
        raise ValueError(f"image must be at least 16 x 16, got shape {image.shape}")
    n_blocks = min(_BLOCKS, image.shape[0] // 2), min(_BLOCKS, image.shape[1] // 2)
    blocks = cv2.resize(image, n_blocks[::-1], interpolation=cv2.INTER_AREA).astype(np.float64)
    bright = quantile(blocks, share=0.9)
    if bright <= 0.0:
        return np.zeros((degree + 1, degree + 1)), np.ones(image.shape, np.bool_)
    lit = blocks > _DARK_SHARE * bright
    surface = fit_robustly(blocks, lit=lit, degree=degree)
    fitted = bezier_surface(surface, shape=n_blocks)
    off = blocks < _OFF_SHARE * fitted
    if (off & lit).any():
        lit &= ~cv2.dilate(off.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
        surface = fit_robustly(blocks, lit=lit, degree=degree)
        fitted = bezier_surface(surface, shape=n_blocks)
    if (blocks > 2.0 * _OFF_SHARE * fitted).all():
        return surface, np.zeros(image.shape, np.bool_)
    return surface, _beam_off(image, surface, bright)


def illumination_surface(coefficients: NDArray[np.floating], *, shape: tuple[int, int]) -> Image:
    """Evaluate the illumination in single precision, nowhere below a thousandth of its peak.

    Where there is no light at all it is 1.

    Parameters
    ----------
    coefficients
        (d+1, d+1), in detector counts.
    shape
        (P, Q) of the working image.

    Returns
    -------
    (P, Q) float32, positive, in detector counts.
    """
    left = bernstein(shape[0], degree=coefficients.shape[0] - 1).astype(np.float32)
    right = bernstein(shape[1], degree=coefficients.shape[1] - 1).astype(np.float32)
    surface = np.asarray(left @ coefficients.astype(np.float32) @ right.T, np.float32)
    peak = float(surface.max())
    if peak <= 0.0:
        return np.ones(shape, np.float32)
    least = np.float32(1e-3 * peak)
    # Hardly any surface comes down to it, and to look takes a fifth of the time of comparing.
    return surface if surface.min() >= least else np.maximum(surface, least)


def standardise(image: Image, *, beam_off: Mask) -> Image:
    """Shift and scale to mean 0 and deviation 1 of the lit pixels (Eq. 3); 0 elsewhere.

    An image without variation becomes zero.
    """
    if not beam_off.any():
        centred = np.subtract(image, np.float32(cv2.mean(image)[0]), dtype=np.float32)
        variance = float(np.vdot(centred, centred)) / centred.size
        centred *= np.float32(1.0 / np.sqrt(variance) if variance > 0.0 else 0.0)
        return centred
    mean, deviation = cv2.meanStdDev(image, mask=(~beam_off).astype(np.uint8))
    scale = 1.0 / deviation.item() if deviation.item() > 0.0 else 0.0
    standardised: Image = ((image - np.float32(mean.item())) * np.float32(scale)).astype(np.float32)
    standardised[beam_off] = 0.0
    return standardised


@compiled
def _sample_deviations(image: Image, median: Image, deviations: Image) -> tuple[float, int]:
    """Write how far each sixteenth pixel is from the median, where that is half of its mean.

    Return that mean and how many pixels those are.
    """
    mean = 0.0
    for i in range(0, median.shape[0], 4):
        for j in range(0, median.shape[1], 4):
            mean += median[i, j]
    mean /= max(deviations.size, 1)
    half, n = np.float32(0.5 * mean), 0
    for i in range(0, median.shape[0], 4):
        for j in range(0, median.shape[1], 4):
            deviations[n] = abs(image[i, j] - median[i, j])
            n += median[i, j] > half
    return mean, n


@compiled
def _replace(image: Image, median: Image, limit: np.float32, repaired: Image) -> None:
    """Write the image, or its median where they differ by more than the limit."""
    for i in range(image.size):
        differs = abs(image[i] - median[i]) > limit
        repaired[i] = median[i] if differs else image[i]


def _beam_off(image: Image, surface: NDArray[np.float64], bright: float) -> Mask:
    """Mark the pixels whose surroundings lie far below the illumination."""
    smooth = cv2.blur(image, (5, 5))
    expected = illumination_surface(surface, shape=image.shape)
    limit = np.maximum(_OFF_SHARE * expected, np.float32(0.1 * _OFF_SHARE * bright))
    off = (smooth < limit).astype(np.uint8)
    # The pixels along the edge of the beam are lit in part.
    return np.asarray(cv2.dilate(off, np.ones((5, 5), np.uint8)), np.bool_)
