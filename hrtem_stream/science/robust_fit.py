"""A Bézier surface fitted by iteratively reweighted least squares, so that outliers lose their say.

    minimise   Σ w (I − B_M C B_Nᵀ)² + ε |second differences of C|²
    w          = lit · (1 − (r / 4s)²)² inside of 4s, 0 outside       Tukey's weights
    r          = I / (B_M C B_Nᵀ) − 1,   s = 1.4826 median |r|

The weights do not separate, but the basis does: the normal matrix is made of products of pairs of
Bernstein polynomials, along columns first and along rows then.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.bezier import bernstein
from hrtem_stream.science.compiled import compiled

Real = NDArray[np.float64]
Mask = NDArray[np.bool_]

_N_REWEIGHTINGS = 4
_TUKEY = 4.0
_STIFFNESS = 1e-3
"""Weight of the penalty that keeps the surface tame where nothing is lit."""


def fit_robustly(blocks: Real, *, lit: Mask, degree: int) -> Real:
    """Fit a surface to the lit blocks, four times over, each time believing outliers less.

    Parameters
    ----------
    blocks
        (P, Q) float64, finite.
    lit
        (P, Q) bool: what is fitted.
    degree
        Of the surface, 0 to 7.

    Returns
    -------
    (degree+1, degree+1) float64, in the units of the blocks; zero where nothing is lit.
    """
    coefficients = np.zeros((degree + 1, degree + 1))
    _reweight(
        np.ascontiguousarray(blocks),
        np.ascontiguousarray(lit),
        bernstein(blocks.shape[0], degree=degree),
        bernstein(blocks.shape[1], degree=degree),
        _bending(degree + 1),
        coefficients,
    )
    return coefficients


@lru_cache(maxsize=8)
def _bending(n: int) -> Real:
    """Return the quadratic form of the squared second differences of (n, n) coefficients."""
    second = np.diff(np.eye(n), 2, axis=0)
    along = second.T @ second
    # The identity makes it definite.
    return np.kron(along, np.eye(n)) + np.kron(np.eye(n), along) + 1e-9 * np.eye(n * n)


@compiled
def _reweight(
    blocks: Real, lit: Mask, left: Real, right: Real, bending: Real, coefficients: Real
) -> None:
    n = coefficients.shape[0]
    left_pairs, right_pairs = _pairs(left), _pairs(right)
    left_rows, right_rows = np.ascontiguousarray(left.T), np.ascontiguousarray(right.T)
    weights = lit.astype(np.float64)
    matrix = np.empty((n * n, n * n))
    for _ in range(_N_REWEIGHTINGS):
        _normal_matrix(np.dot(left_pairs, np.dot(weights, right_pairs.T)), matrix)
        stiffness = _STIFFNESS * np.trace(matrix) / (n * n)
        if stiffness == 0.0:
            return
        target = np.dot(left_rows, np.dot(weights * blocks, right_rows.T))
        solution = np.linalg.solve(matrix + stiffness * bending, target.ravel())
        coefficients[:] = solution.reshape(n, n)
        surface = np.dot(left_rows.T, np.dot(coefficients, right_rows))
        _tukey_weights(blocks, surface, lit, weights)


@compiled
def _pairs(basis: Real) -> Real:
    """Return the products of two basis functions, one row for each pair."""
    samples, n = basis.shape
    pairs = np.empty((n * (n + 1) // 2, samples))
    for k in range(n):
        for m in range(k + 1):
            for i in range(samples):
                pairs[_pair(k, m), i] = basis[i, k] * basis[i, m]
    return pairs


@compiled
def _pair(k: int, m: int) -> int:
    larger, smaller = max(k, m), min(k, m)
    return larger * (larger + 1) // 2 + smaller


@compiled
def _normal_matrix(gram: Real, matrix: Real) -> None:
    """Write the normal matrix, from the weighted sums over the products of pairs."""
    n = int(np.sqrt(matrix.shape[0]))
    for k in range(n):
        for m in range(n):
            for p in range(n):
                for q in range(n):
                    matrix[k * n + p, m * n + q] = gram[_pair(k, m), _pair(p, q)]


@compiled
def _tukey_weights(blocks: Real, surface: Real, lit: Mask, weights: Real) -> None:
    rows, columns = blocks.shape
    least = 1e-6 * np.abs(surface).max()
    residual, deviations = np.empty(blocks.shape), np.empty(blocks.size)
    n = 0
    for i in range(rows):
        for j in range(columns):
            residual[i, j] = blocks[i, j] / max(surface[i, j], least) - 1.0
            if lit[i, j]:
                deviations[n] = abs(residual[i, j])
                n += 1
    reach = _TUKEY * max(1.4826 * np.median(deviations[:n]), 1e-4)
    for i in range(rows):
        for j in range(columns):
            inside = max(1.0 - (residual[i, j] / reach) ** 2, 0.0)
            weights[i, j] = inside * inside if lit[i, j] else 0.0
