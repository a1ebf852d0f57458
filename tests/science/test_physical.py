"""The physical frame generator: labels, counts, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hrtem_stream.science import physical
from hrtem_stream.science.conditions import Conditions, draw_conditions

N = 128


def conditions(**changes: object) -> Conditions:
    drawn = draw_conditions(reduction=1, rng=np.random.default_rng(0))
    fixed = replace(
        drawn,
        pixel_size_nm=0.04,
        dose_e_per_nm2=5e5,
        n_grains=1,
        coverage="none",
        thickness_nm=2.0,
        n_holes=0,
        n_adatoms=0,
        n_vacancies=0,
        second_layer=False,
        fall_off=1.0,
        beam_edge=False,
        noise_blur_px=0.0,
        gain=1.0,
        offset=0.0,
        read_noise=0.0,
        quadrant_step=0.0,
        hot_share=0.0,
    )
    return replace(fixed, **changes)  # type: ignore[arg-type]


def frame(seed: int = 0, **changes: object) -> physical.PhysicalFrame:
    rng = np.random.default_rng(seed)
    chosen = conditions(**changes)
    return physical.expose(
        physical.specimen(N, conditions=chosen, rng=rng), conditions=chosen, rng=rng
    )


def test_the_same_seed_gives_the_same_frame() -> None:
    first, second = (
        physical.simulate(N, working_size=64, rng=np.random.default_rng(5)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.amorphous, second.amorphous)


def test_frames_are_raw_counts_with_masks_of_their_shape() -> None:
    drawn = physical.simulate(N, working_size=64, rng=np.random.default_rng(1))
    assert drawn.pixels.dtype == np.uint16
    for mask in (drawn.amorphous, drawn.vacuum, drawn.boundary, drawn.beam_off):
        assert mask.shape == drawn.pixels.shape == (N, N)
        assert mask.dtype == np.bool_


def test_a_pixel_is_amorphous_or_vacuum_or_boundary_or_none() -> None:
    for seed in range(6):
        drawn = physical.simulate(N, working_size=64, rng=np.random.default_rng(seed))
        assert not (drawn.amorphous & drawn.vacuum).any()
        assert not (drawn.boundary & (drawn.amorphous | drawn.vacuum)).any()


def test_a_clean_frame_shows_the_lattice_and_a_covered_one_is_covered() -> None:
    clean, covered = frame(coverage="none"), frame(coverage="full", thickness_nm=4.0)
    assert not clean.amorphous.any()
    assert covered.amorphous.all()
    flat = clean.pixels / clean.pixels.mean() - 1
    power = np.abs(np.fft.rfft2(flat * np.outer(np.hanning(N), np.hanning(N)))) ** 2
    # Counting noise alone would reach about 15 medians.
    assert power.max() > 60 * np.median(power)


def test_the_dose_sets_the_mean_count() -> None:
    mean = frame(dose_e_per_nm2=5e5).pixels.mean()
    assert mean == pytest.approx(5e5 * 0.04**2, rel=0.03)


def test_an_empty_frame_is_vacuum_and_noise() -> None:
    drawn = frame(coverage="empty", dose_e_per_nm2=1e6)
    assert drawn.vacuum.all()
    assert not (drawn.amorphous | drawn.boundary).any()
    assert drawn.pixels.std() == pytest.approx(drawn.pixels.mean() ** 0.5, rel=0.05)


def test_blurred_noise_is_weaker_and_correlated() -> None:
    white, blurred = (
        frame(coverage="empty", noise_blur_px=blur).pixels.astype(float) for blur in (0.0, 1.0)
    )
    assert blurred.std() < 0.5 * white.std()
    neighbours = np.corrcoef(blurred[:, :-1].ravel(), blurred[:, 1:].ravel())[0, 1]
    assert neighbours > 0.6
    assert abs(np.corrcoef(white[:, :-1].ravel(), white[:, 1:].ravel())[0, 1]) < 0.05


def test_vacuum_fluctuates_less_than_contaminant() -> None:
    vacuum, amorphous = [], []
    for seed in range(6):
        drawn = frame(seed, n_holes=3, coverage="islands", thickness_nm=5.0, dose_e_per_nm2=2e6)
        vacuum.append(drawn.pixels[drawn.vacuum])
        amorphous.append(drawn.pixels[drawn.amorphous])
    assert np.concatenate(vacuum).std() < np.concatenate(amorphous).std()


def test_grains_have_a_boundary() -> None:
    assert not frame(n_grains=1).boundary.any()
    assert 0.0 < frame(n_grains=3).boundary.mean() < 0.6


def test_illumination_falls_off_and_ends_at_the_beams_edge() -> None:
    rng = np.random.default_rng(0)
    even = physical.illumination(N, conditions=conditions(fall_off=0.2), rng=rng)
    assert even.min() == pytest.approx(0.2, rel=1e-3)
    assert even.max() == pytest.approx(1.0, rel=1e-3)
    edges = [
        physical.illumination(
            N, conditions=conditions(beam_edge=True), rng=np.random.default_rng(seed)
        ).min()
        for seed in range(8)
    ]
    assert min(edges) < 0.05


def test_adatoms_are_too_few_to_be_a_contaminant() -> None:
    for seed in range(200):
        drawn = draw_conditions(reduction=2, rng=np.random.default_rng(seed))
        area_nm2 = (512 * drawn.pixel_size_nm) ** 2
        assert drawn.n_adatoms <= 1 + 0.15 * area_nm2


def test_frames_without_and_full_of_contaminant_are_not_rare() -> None:
    kinds = [
        draw_conditions(reduction=1, rng=np.random.default_rng(seed)).coverage
        for seed in range(600)
    ]
    assert kinds.count("none") > 0.09 * len(kinds)
    assert kinds.count("full") > 0.16 * len(kinds)


def test_hot_pixels_are_hot() -> None:
    pixels = frame(hot_share=1e-3).pixels
    assert pixels.max() > 1.9 * np.median(pixels)


@pytest.mark.parametrize("n", [32, 100, 200])
def test_sizes_that_do_not_fit_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        physical.simulate(n, working_size=n if n == 200 else 64, rng=np.random.default_rng(0))
