"""The robust fit: against a plain version, and what it does with outliers and the dark."""

import numpy as np
import pytest

from hrtem_stream.science.bezier import bernstein, bezier_surface
from hrtem_stream.science.robust_fit import fit_robustly


def fit_plainly(blocks: np.ndarray, lit: np.ndarray, degree: int) -> np.ndarray:
    """Weighted least squares with one row of the design matrix per block."""
    n = degree + 1
    left, right = (
        bernstein(blocks.shape[0], degree=degree),
        bernstein(blocks.shape[1], degree=degree),
    )
    design = np.einsum("pk,qm->pqkm", left, right).reshape(blocks.size, n * n)
    second = np.diff(np.eye(n), 2, axis=0)
    along = second.T @ second
    bending = np.kron(along, np.eye(n)) + np.kron(np.eye(n), along) + 1e-9 * np.eye(n * n)
    weights = lit.ravel().astype(np.float64)
    for _ in range(4):
        matrix = design.T @ (weights[:, None] * design)
        stiffness = 1e-3 * matrix.trace() / (n * n)
        surface = np.linalg.solve(
            matrix + stiffness * bending, design.T @ (weights * blocks.ravel())
        )
        fitted = design @ surface
        residual = blocks.ravel() / np.maximum(fitted, 1e-6 * np.abs(fitted).max()) - 1.0
        spread = 1.4826 * np.median(np.abs(residual[lit.ravel()]))
        weights = lit.ravel() * np.clip(
            1.0 - np.square(residual / (4.0 * max(spread, 1e-4))), 0.0, None
        )
        weights = np.square(weights)
    return surface.reshape(n, n)


@pytest.mark.parametrize("degree", range(8))
@pytest.mark.parametrize("shape", [(32, 32), (20, 31)])
def test_the_fit_equals_the_plain_version(shape: tuple[int, int], degree: int) -> None:
    rng = np.random.default_rng(degree)
    blocks = bezier_surface(rng.uniform(50.0, 200.0, (3, 3)), shape=shape)
    blocks = blocks * rng.normal(1.0, 0.02, shape)
    blocks[5:9, 4:9] *= 1.5
    lit = rng.random(shape) > 0.1
    fast = fit_robustly(blocks, lit=lit, degree=degree)
    assert fast.dtype == np.float64
    assert np.allclose(fast, fit_plainly(blocks, lit, degree), rtol=1e-6)


def test_outliers_and_what_is_not_lit_do_not_pull_the_surface() -> None:
    true = np.array([[100.0, 120.0, 90.0], [110.0, 150.0, 100.0], [80.0, 100.0, 70.0]])
    blocks = bezier_surface(true, shape=(32, 32))
    blocks *= np.random.default_rng(0).normal(1.0, 0.002, (32, 32))
    blocks[3:9, 10:16] = 300.0
    blocks[:, 28:] = 0.0
    lit = blocks > 0.0
    surface = bezier_surface(fit_robustly(blocks, lit=lit, degree=2), shape=(32, 32))
    assert np.abs(surface / bezier_surface(true, shape=(32, 32)) - 1.0)[lit].max() < 0.02


def test_where_nothing_is_lit_the_surface_is_zero() -> None:
    unlit = np.zeros((32, 32), np.bool_)
    assert (fit_robustly(np.ones((32, 32)), lit=unlit, degree=4) == 0.0).all()
