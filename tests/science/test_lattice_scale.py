"""The scale of a lattice, from the spectrum of a frame alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hrtem_stream.science.lattice_scale import RING_NM, find_lattice_scale, hexagon_scale


def honeycomb(
    shape: tuple[int, int], *, pixel_size_nm: float, angle: float = 0.2, outer: float = 0.4
) -> NDArray[np.float64]:
    """Return the contrast of a lattice with both of its rings."""
    i, j = np.indices(shape) * pixel_size_nm
    contrast = np.zeros(shape)
    for turn in angle + np.pi / 3 * np.arange(3):
        contrast += np.cos(2 * np.pi / RING_NM * (np.sin(turn) * i + np.cos(turn) * j))
        turn += np.pi / 6
        g = 3**0.5 / RING_NM
        contrast += outer * np.cos(2 * np.pi * g * (np.sin(turn) * i + np.cos(turn) * j))
    return contrast


def counted(contrast: NDArray[np.float64], *, dose: float, seed: int = 0) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    return rng.poisson(dose * np.maximum(1 + 0.1 * contrast, 0)).astype(np.uint16)


@pytest.mark.parametrize("pixel_size_nm", [0.006, 0.01, 0.02, 0.045, 0.08])
def test_the_pixel_size_is_found_in_the_spectrum(pixel_size_nm: float) -> None:
    contrast = honeycomb((1024, 900), pixel_size_nm=pixel_size_nm)
    scale = find_lattice_scale(counted(contrast, dose=60.0))
    assert scale is not None
    assert scale.pixel_size_nm == pytest.approx(pixel_size_nm, rel=0.02)


def test_a_lattice_in_one_quarter_of_the_frame_is_found() -> None:
    contrast = np.zeros((2048, 2048))
    contrast[:700, 1300:] = honeycomb((700, 748), pixel_size_nm=0.03)
    scale = find_lattice_scale(counted(contrast, dose=60.0))
    assert scale is not None
    assert scale.pixel_size_nm == pytest.approx(0.03, rel=0.03)


def test_the_second_ring_is_not_taken_for_the_first_though_it_is_stronger() -> None:
    contrast = honeycomb((512, 512), pixel_size_nm=0.03, outer=2.0)
    scale = find_lattice_scale(counted(contrast, dose=200.0))
    assert scale is not None
    assert scale.pixel_size_nm == pytest.approx(0.03, rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_no_scale_is_found_where_there_is_no_lattice(seed: int) -> None:
    noise = counted(np.zeros((600, 600)), dose=50.0, seed=seed)
    assert find_lattice_scale(noise) is None
    fringes = np.sin(2 * np.pi * 0.1 * np.indices((512, 512))[0])
    assert find_lattice_scale(counted(fringes, dose=200.0, seed=seed)) is None


def test_frames_that_cannot_be_analysed_have_no_scale() -> None:
    for value in (0.0, np.nan, np.inf, 1e300):
        assert find_lattice_scale(np.full((128, 128), value)) is None
    with pytest.raises(ValueError, match="64 x 64"):
        find_lattice_scale(np.ones((63, 200), np.uint16))


def test_a_single_reflection_is_no_hexagon() -> None:
    assert hexagon_scale(np.array([[0.1, 0.2, 9.0]]), side=256) is None
    pair_at_45_degrees = np.array([[0.2, 0.0, 9.0], [0.14, 0.14, 9.0]])
    assert hexagon_scale(pair_at_45_degrees, side=256) is None
