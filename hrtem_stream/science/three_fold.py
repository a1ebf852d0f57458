"""What makes the two sublattices of graphene look unequal, measured so that it can be undone.

    W_k(r) = F⁻¹[ F[I](g) exp(-|g - g_k|² / 2 s²) ]      |g_k| = 1/0.213 nm, direction θ + k 120°
    T(θ)   = Σ_r W_0 W_1 W_2                             k = 0, 1, 2; the g_k add up to 0

The phase of T does not depend on where the lattice lies. It is π for a honeycomb of bright atoms, 0
for one of dark atoms. Three-fold astigmatism, or a tilted specimen, adds an odd phase

    α(θ) = a cos 3θ + b sin 3θ,

by which one sublattice fades and the other grows; coma and two-fold astigmatism add nothing. With
exp(-i α(θ) / 3) on each reflection the sublattices are equal again. θ is the direction from the
row axis towards the columns, in radians.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Image = NDArray[np.float32]

_RING = 2 / (3**0.5 * 0.246)
"""|g| of graphene's first ring, in 1/nm."""
_WIDTH = 0.45
"""Deviation s, in 1/nm: neighbours within 0.35 nm have a say."""
_REACH = 3.0
_N_ANGLES = 20
_LEAST_WEIGHT = 0.1
"""Directions with less of the strongest T have no lattice."""
_RIDGE = 1e-3
"""Where one grain tells only one of a and b, the smallest ones are taken."""


def three_fold_phase(
    image: Image, *, pixel_size_nm: float, contrast: int | None = None
) -> tuple[float, float]:
    """Measure a and b of an image of graphene, in radians.

    Parameters
    ----------
    image
        (P, Q) float32 of mean 0, best 0 where there is no graphene.
    pixel_size_nm
        Above 0.
    contrast
        1 for bright atoms, -1 for dark ones; None: whichever is nearer.

    Returns
    -------
    a, b
        0 where there is no lattice at all.

    Notes
    -----
    Beyond 90° the sublattice that fades cannot be told from the middles of the rings, so without a
    given contrast the wrong one is taken for atoms.
    """
    triples = _triples(image, pixel_size_nm)
    weight = np.abs(triples)
    strongest = float(weight.max())
    if not strongest > 0.0:
        return 0.0, 0.0
    if contrast is None:
        contrast = -1 if triples.real.sum() > 0.0 else 1
    alpha = np.angle(-contrast * triples)
    weight = np.where(weight > _LEAST_WEIGHT * strongest, weight / strongest, 0.0)
    theta = 3 * _angles()
    design = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    normal = (design * weight[:, None]).T @ design + _RIDGE * np.eye(2)
    a, b = np.linalg.solve(normal, (design * weight[:, None]).T @ alpha)
    return float(a), float(b)


def three_fold_correction(
    g_row: NDArray[np.floating], g_column: NDArray[np.floating], *, phase: tuple[float, float]
) -> NDArray[np.complex64]:
    """Return the factor for the spectrum at (g_row, g_column) that undoes the phase a, b."""
    theta = 3 * np.arctan2(g_column, g_row)
    alpha = phase[0] * np.cos(theta) + phase[1] * np.sin(theta)
    return np.asarray(np.exp(-1j / 3 * alpha), np.complex64)


def _triples(image: Image, pixel_size_nm: float) -> NDArray[np.complex128]:
    """Return T at `_angles`: each wave from a small part of the spectrum, its carrier left out."""
    shape = [fft.next_fast_len(n) for n in image.shape]
    spectrum = fft.fft2(image, s=shape, workers=1)
    step = 1.0 / (np.array(shape) * pixel_size_nm)
    reach = np.ceil(_REACH * _WIDTH / step).astype(int)
    i, j = (np.arange(-n, n + 1) for n in reach)
    # More than 3 times the reach, so that a product of three waves does not wrap around.
    size = [fft.next_fast_len(4 * int(n) + 2) for n in reach]
    place = np.ix_(i % size[0], j % size[1])
    triples = np.zeros(_N_ANGLES, np.complex128)
    for n, theta in enumerate(_angles()):
        turned = theta + np.arange(3) * 2 * np.pi / 3
        g = _RING * np.stack([np.cos(turned), np.sin(turned)], axis=1)
        middle = np.round(g / step).astype(int)
        middle[2] = -middle[0] - middle[1]
        product = np.ones(size, np.complex128)
        for (g_row, g_column), (row, column) in zip(g, middle, strict=True):
            rows, columns = (i + row) * step[0], (j + column) * step[1]
            passed = np.outer(_window(rows, g_row), _window(columns, g_column))
            passed *= np.outer(*(np.abs(v) < 0.5 / pixel_size_nm for v in (rows, columns)))
            wave = np.zeros(size, np.complex128)
            wave[place] = passed * spectrum[np.ix_((i + row) % shape[0], (j + column) % shape[1])]
            product *= fft.ifft2(wave, workers=1)
        triples[n] = product.sum()
    return triples


def _angles() -> NDArray[np.float64]:
    return np.arange(_N_ANGLES, dtype=np.float64) * (np.pi / 3 / _N_ANGLES)


def _window(g: NDArray[np.float64], middle: float) -> NDArray[np.float64]:
    return np.asarray(np.exp(-0.5 * ((g - middle) / _WIDTH) ** 2))
