"""Bézier surfaces: the fit recovers what it can represent and refuses what it cannot."""

import numpy as np
import pytest

from hrtem_stream.science.bezier import bernstein, bezier_surface, fit_bezier


@pytest.mark.parametrize("degree", range(8))
@pytest.mark.parametrize("shape", [(64, 64), (33, 80)])
def test_a_surface_of_the_same_degree_is_recovered(degree: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(degree)
    coefficients = rng.uniform(50.0, 200.0, (degree + 1, degree + 1))
    surface = bezier_surface(coefficients, shape=shape)
    assert np.allclose(fit_bezier(surface, degree=degree), coefficients, rtol=1e-6)


def test_the_fit_equals_plain_least_squares_over_all_pixels() -> None:
    rng = np.random.default_rng(1)
    image = rng.poisson(100, (20, 30))
    rows, columns = bernstein(20, degree=2), bernstein(30, degree=2)
    design = np.einsum("mi,nj->mnij", rows, columns).reshape(600, 9)
    plain = np.linalg.lstsq(design, image.ravel(), rcond=None)[0].reshape(3, 3)
    assert np.allclose(fit_bezier(image, degree=2), plain)


def test_the_basis_sums_to_one_everywhere() -> None:
    assert np.allclose(bernstein(50, degree=5).sum(axis=1), 1.0)


def test_degree_zero_gives_the_mean() -> None:
    image = np.arange(12.0).reshape(3, 4)
    assert fit_bezier(image, degree=0) == pytest.approx(image.mean())


def test_equal_coefficients_make_a_flat_surface() -> None:
    assert np.allclose(bezier_surface(np.full((4, 4), 7.0), shape=(9, 5)), 7.0)


def test_transposing_the_image_transposes_the_coefficients() -> None:
    image = np.random.default_rng(2).normal(size=(31, 47))
    assert np.allclose(fit_bezier(image, degree=3).T, fit_bezier(image.T, degree=3))


def test_coefficients_of_the_block_means_describe_the_full_frame() -> None:
    full = bezier_surface(np.array([[1.0, 2, 3], [2, 6, 2], [1, 1, 4]]), shape=(512, 512))
    blocks = full.reshape(64, 8, 64, 8).mean(axis=(1, 3))
    again = bezier_surface(fit_bezier(blocks, degree=2), shape=(512, 512))
    assert np.abs(again - full).max() < 1e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32, np.float64])
def test_any_real_dtype_gives_double_precision(dtype: type[np.generic]) -> None:
    assert fit_bezier(np.ones((8, 8), dtype), degree=2).dtype == np.float64


@pytest.mark.parametrize("degree", [-1, 8, 9])
def test_a_degree_out_of_range_is_refused(degree: int) -> None:
    with pytest.raises(ValueError, match=f"degree must be from 0 to 7, got {degree}"):
        fit_bezier(np.ones((32, 32)), degree=degree)


def test_an_image_shorter_than_the_degree_is_refused() -> None:
    with pytest.raises(ValueError, match="image must be longer than degree 3"):
        fit_bezier(np.ones((3, 32)), degree=3)


def test_a_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="image must be two-dimensional, got 3"):
        fit_bezier(np.ones((2, 8, 8)), degree=2)


def test_coefficients_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="coefficients must be square"):
        bezier_surface(np.ones((2, 3)), shape=(8, 8))


def test_an_empty_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape must be at least"):
        bezier_surface(np.ones((2, 2)), shape=(0, 8))
