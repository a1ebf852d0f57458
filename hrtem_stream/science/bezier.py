"""Bézier surfaces over an image: the least-squares fit of Eq. 1 and its evaluation.

A surface of degree d has (d+1, d+1) coefficients c_ij and the value

    S(u, v) = Σ_i Σ_j  c_ij  b_i(u)  b_j(v),        b_i(t) = C(d, i) t^i (1 - t)^(d - i)

with u along the rows and v along the columns, both from 0 to 1 between the outer edges of the
image. Samples lie at pixel centres, so that the coefficients do not depend on how finely the same
field is sampled: those of the working image hold for the detector's pixels too.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.floating] | NDArray[np.integer]

MAX_DEGREE = 7
"""Above it the Bernstein fit gains nothing on illumination and starts to follow the specimen."""


def fit_bezier(image: Real, *, degree: int = 2) -> NDArray[np.float64]:
    """Fit a Bézier surface to an image by least squares (Eq. 1).

    The basis separates, so that the least-squares solution is two small matrix products with the
    pseudo-inverse of the Bernstein matrix: C = B_M⁺ I (B_N⁺)ᵀ.

    Parameters
    ----------
    image
        (M, N), any real dtype, each side longer than `degree`.
    degree
        Degree along either axis, 0 to 7.

    Returns
    -------
    (degree+1, degree+1) float64, in the units of the image.

    Raises
    ------
    ValueError
        If the image is not two-dimensional or too small, or the degree is out of range.

    Notes
    -----
    Every pixel counts alike: one hot pixel or a hole pulls the surface. Where there are such, use
    `illumination.fit_illumination`.

    References
    ----------
    Sadre, Ophus, Butko, Weber, Microscopy and Microanalysis 27 (2021), Eq. 1.
    """
    check_degree(degree)
    if image.ndim != 2:
        raise ValueError(f"image must be two-dimensional, got {image.ndim} dimensions")
    if min(image.shape) <= degree:
        raise ValueError(f"image must be longer than degree {degree}, got shape {image.shape}")
    rows, columns = image.shape
    return _inverse(rows, degree) @ image.astype(np.float64) @ _inverse(columns, degree).T


def bezier_surface(coefficients: Real, *, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Evaluate a Bézier surface at the pixel centres of an image of the given shape.

    Parameters
    ----------
    coefficients
        (d+1, d+1), d from 0 to 7.
    shape
        (M, N), at least one pixel each.

    Returns
    -------
    (M, N) float64, in the units of the coefficients.

    Raises
    ------
    ValueError
        If the coefficients are not square or of too high a degree, or the shape is empty.
    """
    if coefficients.ndim != 2 or coefficients.shape[0] != coefficients.shape[1]:
        raise ValueError(f"coefficients must be square, got shape {coefficients.shape}")
    check_degree(coefficients.shape[0] - 1)
    if min(shape) < 1:
        raise ValueError(f"shape must be at least (1, 1), got {shape}")
    degree = coefficients.shape[0] - 1
    return bernstein(shape[0], degree=degree) @ coefficients @ bernstein(shape[1], degree=degree).T


@lru_cache(maxsize=64)
def bernstein(n_samples: int, *, degree: int) -> NDArray[np.float64]:
    """Return the Bernstein polynomials at pixel centres, (n_samples, degree+1), read-only."""
    t = (np.arange(n_samples) + 0.5) / n_samples
    basis = np.stack(
        [comb(degree, i) * t**i * (1.0 - t) ** (degree - i) for i in range(degree + 1)], axis=1
    )
    basis.flags.writeable = False
    return basis


def check_degree(degree: int) -> None:
    """Raise ValueError unless the degree is from 0 to 7."""
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree must be from 0 to {MAX_DEGREE}, got {degree}")


@lru_cache(maxsize=64)
def _inverse(n_samples: int, degree: int) -> NDArray[np.float64]:
    inverse = np.asarray(np.linalg.pinv(bernstein(n_samples, degree=degree)), np.float64)
    inverse.flags.writeable = False
    return inverse
