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
    weights = lit.astype(np.float64)
    matrix, target = np.empty((n * n, n * n)), np.empty(n * n)
    residual = np.empty(blocks.shape)
    for _ in range(_N_REWEIGHTINGS):
        _normal_equations(blocks, weights, left, right, left_pairs, right_pairs, matrix, target)
        stiffness = _STIFFNESS * np.trace(matrix) / (n * n)
        if stiffness == 0.0:
            return
        matrix += stiffness * bending
        _solve(matrix, target)
        coefficients[:] = target.reshape(n, n)
        _relative_residual(blocks, coefficients, left, right, residual)
        _tukey_weights(residual, lit, weights)


@compiled
def _pairs(basis: Real) -> Real:
    """Return the products of two basis functions, one column for each pair."""
    samples, n = basis.shape
    pairs = np.empty((samples, n * (n + 1) // 2))
    for i in range(samples):
        for k in range(n):
            for m in range(k + 1):
                pairs[i, _pair(k, m)] = basis[i, k] * basis[i, m]
    return pairs


@compiled
def _pair(k: int, m: int) -> int:
    larger, smaller = max(k, m), min(k, m)
    return larger * (larger + 1) // 2 + smaller


@compiled
def _normal_equations(
    blocks: Real,
    weights: Real,
    left: Real,
    right: Real,
    left_pairs: Real,
    right_pairs: Real,
    matrix: Real,
    target: Real,
) -> None:
    n = left.shape[1]
    gram = _project(left_pairs, weights, right_pairs)
    for k in range(n):
        for m in range(n):
            for p in range(n):
                for q in range(n):
                    matrix[k * n + p, m * n + q] = gram[_pair(k, m), _pair(p, q)]
    target[:] = _project(left, weights * blocks, right).ravel()


@compiled
def _project(left: Real, values: Real, right: Real) -> Real:
    """Return leftᵀ values right."""
    along = np.zeros((left.shape[1], values.shape[1]))
    for i in range(values.shape[0]):
        for k in range(left.shape[1]):
            _add_scaled(along[k], values[i], left[i, k])
    projected = np.zeros((left.shape[1], right.shape[1]))
    for k in range(left.shape[1]):
        for j in range(values.shape[1]):
            _add_scaled(projected[k], right[j], along[k, j])
    return projected


@compiled
def _add_scaled(sums: Real, values: Real, scale: float) -> None:
    for j in range(sums.size):
        sums[j] += scale * values[j]


@compiled
def _solve(matrix: Real, target: Real) -> None:
    """Solve for the target in place, by elimination; a definite matrix needs no pivots."""
    n = target.size
    for k in range(n):
        for i in range(k + 1, n):
            factor = matrix[i, k] / matrix[k, k]
            _add_scaled(matrix[i, k + 1 :], matrix[k, k + 1 :], -factor)
            target[i] -= factor * target[k]
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            target[i] -= matrix[i, j] * target[j]
        target[i] /= matrix[i, i]


@compiled
def _relative_residual(
    blocks: Real, coefficients: Real, left: Real, right: Real, residual: Real
) -> None:
    n = coefficients.shape[0]
    residual[:] = 0.0
    columns = np.ascontiguousarray(right.T)
    for i in range(blocks.shape[0]):
        for m in range(n):
            along = 0.0
            for k in range(n):
                along += left[i, k] * coefficients[k, m]
            _add_scaled(residual[i], columns[m], along)
    least = 1e-6 * np.abs(residual).max()
    for i in range(blocks.shape[0]):
        for j in range(blocks.shape[1]):
            residual[i, j] = blocks[i, j] / max(residual[i, j], least) - 1.0


@compiled
def _tukey_weights(residual: Real, lit: Mask, weights: Real) -> None:
    deviations = np.empty(residual.size)
    n = 0
    for i in range(residual.shape[0]):
        for j in range(residual.shape[1]):
            if lit[i, j]:
                deviations[n] = abs(residual[i, j])
                n += 1
    reach = _TUKEY * max(1.4826 * np.median(deviations[:n]), 1e-4)
    for i in range(residual.shape[0]):
        for j in range(residual.shape[1]):
            inside = max(1.0 - (residual[i, j] / reach) ** 2, 0.0)
            weights[i, j] = inside * inside if lit[i, j] else 0.0
