"""The Bragg filter: what is left of an image without its lattice is amorphous.

    1.  Î  = I − local mean                                 low frequencies say nothing of a lattice
    2.  reflections of Î, found in its spectrum             Eq. 4, `lattice.find_reflections`
    3.  I_B from the reflections alone                      Eq. 5, `lattice.lattice_image`
    4.  E  = | (Î − I_B) * Gaussian | * Gaussian            Eq. 6, the residual, band-limited first
    5.  amorphous where E exceeds a threshold               Eq. 6, M_thresh

`bragg_mask` differs from the published form in three places, each of which gains on frames with
uneven illumination: the local mean is taken off; the residual is limited to the frequencies in
which contaminants have their texture, which leaves out most shot noise; and the threshold follows
the level of E in the cleanest part of the frame, so that it suits any dose and contrast.
`bragg_mask_published` is Eq. 4–6 as they stand.

References
----------
Sadre, Ophus, Butko, Weber, Microscopy and Microanalysis 27 (2021), Eq. 4–6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.filters import blur, subtract_local_mean
from hrtem_stream.science.lattice import find_reflections, lattice_image

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class BraggParameters:
    """What the filter is tuned by. Lengths are in pixels of a 256 x 256 working image."""

    peak_threshold: float = 1.5
    """G_thresh: least prominence of a reflection over its neighbourhood in the spectrum."""
    lattice_threshold: float = 2.0
    """Least prominence of the strongest reflection; without it there is no lattice."""
    n_peaks: int = 24
    """At most so many reflections, counted on both sides of the spectrum."""
    aperture_per_px: float = 0.0156
    """Deviation of the Gaussian apertures, in 1/px."""
    spectrum_blur_px: float = 2.0
    """Deviation of the Gaussian that smooths the spectrum, in its pixels."""
    local_mean_px: float = 14.0
    """Deviation of the Gaussian that makes the local mean."""
    band_limit_px: float = 0.8
    """Deviation of the Gaussian that limits the band of the residual."""
    residual_blur_px: float = 5.0
    """Deviation of the Gaussian that averages the residual."""
    clean_quantile: float = 0.1
    """The level of the cleanest part of a frame is this quantile of the residual."""
    mask_threshold: float = 0.98
    """M_thresh: amorphous where the residual exceeds this times the root of the clean level."""


DEFAULT = BraggParameters()


def bragg_mask(image: Image, *, parameters: BraggParameters = DEFAULT) -> Mask:
    """Segment a normalised image: True where it is amorphous.

    Parameters
    ----------
    image
        (P, Q) float32, standardised, each side at least 32.
    parameters
        See `BraggParameters`.

    Returns
    -------
    (P, Q) bool. All True where there is no lattice at all: a frame that is covered entirely.

    Raises
    ------
    ValueError
        If the image is not two-dimensional, or too small.
    """
    reflections, flattened = _analyse(image, parameters)
    if not has_lattice(reflections, parameters=parameters):
        return np.ones(image.shape, np.bool_)
    residual = _residual(flattened, reflections, parameters)
    clean = float(np.quantile(residual[::4, ::4], parameters.clean_quantile))
    return np.asarray(residual > parameters.mask_threshold * np.sqrt(clean))


def bragg_residual(image: Image, *, parameters: BraggParameters = DEFAULT) -> Image:
    """Return E, the band-limited and averaged residual, in deviations of the image.

    Parameters and errors as for `bragg_mask`. Without a lattice it is the local deviation of the
    image itself.
    """
    reflections, flattened = _analyse(image, parameters)
    return _residual(flattened, reflections, parameters)


def has_lattice(reflections: NDArray[np.float64], *, parameters: BraggParameters = DEFAULT) -> bool:
    """Say whether the reflections make a lattice: the strongest stands out clearly."""
    return bool(len(reflections) > 0 and reflections[0, 2] > parameters.lattice_threshold)


def _analyse(image: Image, parameters: BraggParameters) -> tuple[NDArray[np.float64], Image]:
    """Return the reflections of an image and the image without its local mean."""
    if image.ndim != 2 or min(image.shape) < 32:
        raise ValueError(f"image must be at least 32 x 32, got shape {image.shape}")
    flattened = subtract_local_mean(image, deviation_px=parameters.local_mean_px)
    reflections = find_reflections(
        flattened,
        threshold=parameters.peak_threshold,
        n_peaks=parameters.n_peaks,
        blur_px=parameters.spectrum_blur_px,
    )
    return reflections, flattened


def _residual(
    flattened: Image, reflections: NDArray[np.float64], parameters: BraggParameters
) -> Image:
    lattice = lattice_image(flattened, reflections, aperture=parameters.aperture_per_px)
    limited = blur(flattened - lattice, deviation_px=parameters.band_limit_px)
    return blur(np.abs(limited), deviation_px=parameters.residual_blur_px)
