"""Contaminant: shapes, thickness and texture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hrtem_stream.science import contaminant

N = 96
PIXEL_NM = 0.03


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_random_field_is_standardised_and_as_smooth_as_asked() -> None:
    fields = [
        contaminant.random_field(N, pixel_size_nm=PIXEL_NM, length_nm=length, rng=generator())
        for length in (0.05, 0.4)
    ]
    for field in fields:
        assert field.dtype == np.float32
        assert field.mean() == pytest.approx(0.0, abs=1e-5)
        assert field.std() == pytest.approx(1.0, abs=1e-4)
    rough, smooth = (np.abs(np.diff(field, axis=0)).mean() for field in fields)
    assert smooth < 0.4 * rough


def test_worms_have_their_period() -> None:
    field = contaminant.ring_field(N, pixel_size_nm=PIXEL_NM, period_nm=0.4, rng=generator())
    power = np.abs(np.fft.fft2(field)) ** 2
    g = np.hypot(*np.meshgrid(np.fft.fftfreq(N, PIXEL_NM), np.fft.fftfreq(N, PIXEL_NM)))
    assert (power * g).sum() / power.sum() == pytest.approx(2.5, rel=0.2)


@pytest.mark.parametrize(
    "shape",
    [
        lambda rng: contaminant.islands(N, rng=rng),
        lambda rng: contaminant.patches(N, pixel_size_nm=PIXEL_NM, rng=rng),
        lambda rng: contaminant.sheet(N, pixel_size_nm=PIXEL_NM, rng=rng),
        lambda rng: contaminant.strands(N, pixel_size_nm=PIXEL_NM, rng=rng),
    ],
)
def test_every_kind_of_cover_varies_and_is_partial_on_average(
    shape: Callable[[np.random.Generator], np.ndarray],
) -> None:
    shares = [shape(generator(seed)).mean() for seed in range(12)]
    assert 0.0 < np.mean(shares) < 0.9
    assert np.std(shares) > 0.0


def test_thickness_has_the_mean_asked_for_and_is_zero_outside() -> None:
    mask = np.zeros((N, N), np.bool_)
    mask[20:70, 30:80] = True
    height = contaminant.thickness(mask, pixel_size_nm=PIXEL_NM, mean_nm=2.0, rng=generator())
    assert height[mask].mean() == pytest.approx(2.0, rel=1e-3)
    assert (height[mask] > 0).all()
    assert not height[~mask].any()


def test_no_contaminant_has_no_thickness() -> None:
    mask = np.zeros((N, N), np.bool_)
    height = contaminant.thickness(mask, pixel_size_nm=PIXEL_NM, mean_nm=2.0, rng=generator())
    assert not height.any()


@pytest.mark.parametrize("seed", range(6))
def test_texture_redistributes_matter_without_adding_any(seed: int) -> None:
    density = contaminant.texture(N, pixel_size_nm=PIXEL_NM, rng=generator(seed))
    assert density.dtype == np.float32
    assert density.min() >= 0.0
    assert density.mean() == pytest.approx(1.0, abs=1e-4)


def test_a_dense_packing_fluctuates_less_over_long_distances_than_poisson() -> None:
    expected = np.full((N, N), 0.2, np.float32)
    coarse = []
    for order in (0.0, 0.9):
        atoms = contaminant.atoms_per_pixel(
            expected, pixel_size_nm=PIXEL_NM, order=order, rng=generator()
        )
        assert atoms.mean() == pytest.approx(0.2, rel=0.1)
        coarse.append(atoms.reshape(N // 32, 32, N // 32, 32).sum(axis=(1, 3)).std())
    assert coarse[1] < 0.5 * coarse[0]
