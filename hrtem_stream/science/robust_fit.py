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
from hrtem_stream.science.compiled import compiled, stretch

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
    for n_fits in range(_N_REWEIGHTINGS):
        if n_fits > 0:
            surface = np.dot(left, np.dot(coefficients, right_rows))
            _tukey_weights(blocks.ravel(), surface.ravel(), lit.ravel(), weights.reshape(-1))
        _normal_matrix(np.dot(left_pairs, np.dot(weights, right_pairs.T)), matrix)
        stiffness = _STIFFNESS * np.trace(matrix) / (n * n)
        if stiffness == 0.0:
            return
        target = np.dot(left_rows, np.dot(weights * blocks, right_rows.T))
        matrix += stiffness * bending
        _solve_definite(matrix, target.reshape(-1))
        coefficients[:] = target


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
def _solve_definite(matrix: Real, values: Real) -> None:
    """Solve a symmetric, positive definite system in place, by elimination without pivots.

    The upper triangle of the matrix is used up. For so few unknowns it takes half the time of
    LAPACK's general solver.
    """
    n = values.size
    for k in range(n):
        for i in range(k + 1, n):
            share = matrix[k, i] / matrix[k, k]
            _subtract_multiple(
                stretch(matrix, i * n + i, n - i), share, stretch(matrix, k * n + i, n - i)
            )
            values[i] -= share * values[k]
    for k in range(n - 1, -1, -1):
        for i in range(k + 1, n):
            values[k] -= matrix[k, i] * values[i]
        values[k] /= matrix[k, k]


@compiled
def _subtract_multiple(row: Real, factor: float, other: Real) -> None:
    for j in range(row.size):
        row[j] -= factor * other[j]


@compiled
def _tukey_weights(blocks: Real, surface: Real, lit: Mask, weights: Real) -> None:
    """Write the weights; all arrays are flat."""
    least = 1e-6 * np.abs(surface).max()
    residual, deviations = np.empty(blocks.size), np.empty(blocks.size)
    _relative_residual(blocks, surface, least, residual)
    n = 0
    for i in range(blocks.size):
        deviations[n] = abs(residual[i])
        n += lit[i]
    reach = _TUKEY * max(1.4826 * np.median(deviations[:n]), 1e-4)
    _bisquare(residual, 1.0 / reach, weights)
    for i in range(blocks.size):
        weights[i] *= lit[i]


@compiled
def _relative_residual(blocks: Real, surface: Real, least: float, residual: Real) -> None:
    for i in range(blocks.size):
        # Unlike the operator it does not look out for a zero, which would be pixel by pixel.
        residual[i] = np.divide(blocks[i], max(surface[i], least)) - 1.0


@compiled
def _bisquare(residual: Real, scale: float, weights: Real) -> None:
    for i in range(residual.size):
        inside = max(1.0 - (residual[i] * scale) ** 2, 0.0)
        weights[i] = inside * inside
