"""The Bragg filter: what is left of an image without its lattice is amorphous.

    1.  Î   = I − local mean
    2.  reflections of Î, from its windowed, |g|-weighted spectrum            Eq. 4
    3.  I_B = what the reflections alone make of Î                            Eq. 5
    4.  E   = | (Î − I_B) * Gaussian | * Gaussian                             Eq. 6, left side
    5.  amorphous where E exceeds M                                           Eq. 6, M_thresh

`bragg_mask_published` is Eq. 4–6 as they stand, with fixed thresholds. `bragg_mask` ships. It
differs where uneven light, low dose and weak lattices need it:

- the local mean is taken off, and a narrow Gaussian leaves out the high frequencies, in which
  there is shot noise but little of a contaminant's texture;
- a reflection has to stand out from its neighbourhood in the spectrum, not from a fixed level;
- the threshold goes with the root of E₀, the level of E in the cleanest part of the frame: the
  geometric mean of a threshold fixed in deviations of the image and one fixed in units of E₀;
- two thresholds, as edges are found: an island holds a pixel above the higher one and extends as
  far as the lower; small islands are dropped and small gaps filled.

References
----------
Sadre, Ophus, Butko, Weber, Microscopy and Microanalysis 27 (2021), Eq. 4–6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.filters import (
    average_magnitude,
    blur,
    noise_deviation,
    quantile,
    subtract_local_mean,
)
from hrtem_stream.science.islands import find_islands
from hrtem_stream.science.lattice import Reflections, find_reflections, without_lattice

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class BraggParameters:
    """What the filter is tuned by, found by cross-validation in `bench/tune_bragg.py`."""

    peak_threshold: float = 1.5
    """G_thresh: least prominence of a reflection over its neighbourhood in the spectrum."""
    lattice_threshold: float = 1.9
    """Least prominence of the strongest reflection; below it there is no lattice at all."""
    n_peaks: int = 24
    """At most so many reflections, counted on both sides of the spectrum."""
    aperture_per_px: float = 0.0156
    """Deviation of the Gaussian apertures, in 1/px."""
    spectrum_blur_px: float = 2.0
    """Deviation of the Gaussian that smooths the spectrum, in its pixels."""
    local_mean_px: float = 10.0
    """Deviation of the Gaussian that makes the local mean."""
    band_limit_px: float = 0.8
    """Deviation of the Gaussian that limits the band of the residual."""
    residual_blur_px: float = 4.0
    """Deviation of the Gaussian that averages the residual."""
    clean_quantile: float = 0.1
    """E₀ is this quantile of E."""
    high_threshold: float = 1.3
    """M_thresh: an island holds a pixel where E exceeds this times the root of E₀."""
    low_threshold: float = 0.85
    """An island extends to where E falls below this times the root of E₀."""
    least_island_px: int = 300
    """Area of the smallest island that is kept, in pixels."""
    largest_gap_px: int = 450
    """Area of the largest gap in an island that is filled, in pixels."""


DEFAULT = BraggParameters()

_LEAST_CLEAN = 0.05
"""No E₀ is taken to be lower: without any noise it would be the error of I_B near the border."""

_TEXTURE_LEVEL = 0.27
_TEXTURE_OVER_NOISE = 0.6
"""With both exceeded by E₀ there is no clean part: clean frames stay below 0.26 and 0.34 of the
noise at the highest frequencies, covered ones above 0.29 and 0.84."""
_CLEAN_OVER_NOISE = 0.25
"""E₀ over that noise where there is nothing but lattice and noise."""


def bragg_mask(
    image: Image,
    *,
    reflections: Reflections | None = None,
    parameters: BraggParameters = DEFAULT,
) -> Mask:
    """Segment a normalised image: True where it is amorphous.

    Parameters
    ----------
    image
        (P, Q) float32, standardised, each side at least 32.
    reflections
        (n, 3), where they are known: `find_lattice` of the image, `flatten`ed. None: they are
        searched for.
    parameters
        See `BraggParameters`; lengths are in pixels of the image, whatever its size.

    Returns
    -------
    (P, Q) bool. All True where there is no lattice: a frame that is covered entirely.

    Raises
    ------
    ValueError
        If the image is not two-dimensional, or too small.

    Notes
    -----
    Grain boundaries and rows of defects a few lattice constants wide pass as graphene; wide ones
    and the rims of holes may be found amorphous. A contaminant so thin that it adds less to the
    residual than the shot noise is missed. Vacuum is neither: take it from the illumination.
    """
    _check(image)
    if reflections is not None and not has_lattice(reflections, parameters=parameters):
        return np.ones(image.shape, np.bool_)
    residual, found = subtract_lattice(image, reflections=reflections, parameters=parameters)
    if not has_lattice(found, parameters=parameters):
        return np.ones(image.shape, np.bool_)
    level = residual_level(residual, parameters=parameters)
    noise = noise_deviation(residual)
    return threshold_level(level, noise=noise, parameters=parameters)


def bragg_residual(image: Image, *, parameters: BraggParameters = DEFAULT) -> Image:
    """Return E, the averaged residual, in deviations of the image, as (P, Q) float32.

    Parameters and errors as for `bragg_mask`. Without a lattice it is the level of the image.
    """
    residual, _ = subtract_lattice(image, parameters=parameters)
    return residual_level(residual, parameters=parameters)


def bragg_mask_published(
    image: Image,
    *,
    peak_threshold: float,
    mask_threshold: float,
    n_peaks: int = 24,
    aperture_per_px: float = 0.0156,
) -> Mask:
    """Segment a normalised image as published (Eq. 4–6), with fixed thresholds.

    Parameters
    ----------
    image
        (P, Q) float32, standardised.
    peak_threshold
        G_thresh: least |g|-weighted, smoothed amplitude of a reflection, as a multiple of the
        mean over the spectrum.
    mask_threshold
        M_thresh, in deviations of the image.
    n_peaks, aperture_per_px
        As published.

    Raises
    ------
    ValueError
        If the image is not two-dimensional, or too small.
    """
    _check(image)
    reflections = find_reflections(
        image, threshold=peak_threshold, n_peaks=n_peaks, background_px=None
    )
    residual = without_lattice(image, reflections, aperture=aperture_per_px)
    return np.asarray(blur(np.abs(residual), deviation_px=5.0) > mask_threshold)


def has_lattice(reflections: Reflections, *, parameters: BraggParameters = DEFAULT) -> bool:
    """Say whether the reflections make a lattice: two directions, and the strongest is clear."""
    return len(reflections) > 1 and bool(reflections[0, 2] > parameters.lattice_threshold)


def flatten(image: Image, *, parameters: BraggParameters = DEFAULT) -> Image:
    """Return Î of a normalised or evened image (step 1), as (P, Q) float32."""
    return subtract_local_mean(image, deviation_px=parameters.local_mean_px)


def find_lattice(flattened: Image, *, parameters: BraggParameters = DEFAULT) -> Reflections:
    """Return the reflections of Î (step 2), (n, 3) float64; its unit does not matter."""
    return find_reflections(
        flattened,
        threshold=parameters.peak_threshold,
        n_peaks=parameters.n_peaks,
        blur_px=parameters.spectrum_blur_px,
    )


def subtract_lattice(
    image: Image,
    *,
    reflections: Reflections | None = None,
    parameters: BraggParameters = DEFAULT,
) -> tuple[Image, Reflections]:
    """Return Î − I_B of a normalised image, and the reflections that made I_B (steps 1 to 3)."""
    _check(image)
    flattened = flatten(image, parameters=parameters)
    if reflections is None:
        reflections = find_lattice(flattened, parameters=parameters)
    residual = without_lattice(flattened, reflections, aperture=parameters.aperture_per_px)
    return residual, reflections


def residual_level(residual: Image, *, parameters: BraggParameters = DEFAULT) -> Image:
    """Return E from Î − I_B (step 4)."""
    limited = blur(residual, deviation_px=parameters.band_limit_px)
    return average_magnitude(limited, deviation_px=parameters.residual_blur_px)


def threshold_level(level: Image, *, noise: float, parameters: BraggParameters = DEFAULT) -> Mask:
    """Return where E is amorphous (step 5).

    Parameters
    ----------
    level
        (P, Q) float32, E.
    noise
        Deviation of the noise at the highest frequencies, `filters.noise_deviation`.
    parameters
        See `BraggParameters`.
    """
    clean = quantile(level[::4, ::4], share=parameters.clean_quantile)
    if clean > _TEXTURE_LEVEL and clean > _TEXTURE_OVER_NOISE * noise:
        # The cleanest part has texture as well, though the lattice shows through everywhere.
        clean = _CLEAN_OVER_NOISE * noise
    root = float(np.sqrt(max(clean, _LEAST_CLEAN)))
    if float(level.max()) <= parameters.high_threshold * root:
        return np.zeros(level.shape, np.bool_)
    return find_islands(
        level,
        low=parameters.low_threshold * root,
        high=parameters.high_threshold * root,
        least_island_px=parameters.least_island_px,
        largest_gap_px=parameters.largest_gap_px,
    )


def _check(image: Image) -> None:
    if image.ndim != 2 or min(image.shape) < 32:
        raise ValueError(f"image must be at least 32 x 32, got shape {image.shape}")
