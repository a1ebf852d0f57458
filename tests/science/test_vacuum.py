"""Vacuum: a hole is found, a lattice never is one."""

import numpy as np
import pytest

from hrtem_stream.science.illumination import normalise_frame, normalise_image
from hrtem_stream.science.vacuum import _sample_clean, _sample_evened, _subtract_noise
from tests.science import drawn


def vacuum_of(counts: np.ndarray) -> np.ndarray:
    return normalise_image(counts.astype(np.float32)).vacuum


@pytest.mark.parametrize("radius", [14.0, 40.0, 90.0])
@pytest.mark.parametrize("dose", [500.0, 5000.0])
def test_a_hole_is_found(dose: float, radius: float) -> None:
    hole = drawn.disc(radius, centre=(110, 140))
    found = vacuum_of(drawn.expose(np.where(hole, 0.0, 0.1 * drawn.lattice()), dose=dose))
    assert (found & ~hole).mean() < 0.002
    assert (found & hole).sum() > (0.25 if radius < 20 else 0.6) * hole.sum()


def test_a_hole_under_an_uneven_beam_is_found() -> None:
    hole = drawn.disc(40.0, centre=(180, 80))
    contrast = np.where(hole, 0.0, 0.1 * drawn.lattice())
    counts = np.random.default_rng(3).poisson(2000.0 * drawn.beam() * (1.0 + contrast))
    found = vacuum_of(counts)
    assert (found & ~hole).mean() < 0.005
    assert (found & hole).sum() > 0.6 * hole.sum()


@pytest.mark.parametrize("dose", [200.0, 1000.0, 20_000.0])
def test_a_lattice_has_no_vacuum(dose: float) -> None:
    assert not vacuum_of(drawn.expose(0.1 * drawn.lattice(), dose=dose)).any()


def test_a_contaminant_on_a_lattice_is_no_vacuum() -> None:
    contrast = 0.1 * drawn.lattice() + np.where(drawn.disc(50.0), 0.2 * drawn.texture(), 0.0)
    assert vacuum_of(drawn.expose(contrast, dose=2000.0)).mean() < 0.002


def test_a_weak_lattice_beside_a_strong_contaminant_is_no_vacuum() -> None:
    covered = np.indices((256, 256))[0] < 110
    contrast = 0.05 * drawn.lattice() + np.where(covered, 0.4 * drawn.texture(), 0.0)
    assert vacuum_of(drawn.expose(contrast, dose=2000.0)).mean() < 0.002


@pytest.mark.parametrize("dose", [5.0, 200.0, 50_000.0])
def test_an_empty_frame_is_vacuum_throughout(dose: float) -> None:
    assert vacuum_of(drawn.expose(np.zeros((256, 256)), dose=dose)).all()


def test_a_frame_covered_with_contaminant_is_no_vacuum() -> None:
    assert not vacuum_of(drawn.expose(0.1 * drawn.texture(), dose=1000.0)).any()


def test_where_the_beam_is_off_there_is_no_vacuum() -> None:
    lit = drawn.disc(100.0)
    frame = np.where(lit, drawn.expose(np.zeros((256, 256)), dose=1000.0), 0)
    found = normalise_image(frame.astype(np.float32))
    assert not (found.vacuum & found.beam_off).any()
    assert found.vacuum.sum() > 0.9 * lit.sum()


@pytest.mark.parametrize("mean", [5, 500, 50_000])
@pytest.mark.parametrize("size", [256, 1024])
def test_an_empty_frame_is_vacuum_at_any_dose_and_under_any_illumination(
    mean: int, size: int
) -> None:
    y, x = np.mgrid[:size, :size] / size
    lit = mean * np.exp(-2.5 * ((x - 0.4) ** 2 + (y - 0.6) ** 2))
    frame = np.random.default_rng(mean).poisson(lit).astype(np.uint32)
    found = normalise_frame(frame)
    assert (found.vacuum | found.beam_off).all()


@pytest.mark.parametrize("shape", [(128, 128), (31, 48), (1, 1)])
def test_powers_are_sampled_as_the_plain_version_samples_them(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    texture, lattice, illumination = rng.uniform(0.5, 1.5, (3, *shape)).astype(np.float32)
    lit = rng.random(shape) > 0.2
    evened = (texture * illumination)[::2, ::2][lit[::2, ::2]]
    clean = evened < np.float32(0.9)
    samples = np.empty(lit[::2, ::2].size, np.float32)
    n = _sample_evened(texture, illumination, lit, samples)
    assert np.array_equal(samples[:n], evened)
    n = _sample_clean(lattice, texture, illumination, lit, np.float32(0.9), samples)
    assert np.array_equal(samples[:n], lattice[::2, ::2][lit[::2, ::2]][clean])
    less = lattice.copy()
    _subtract_noise(less, illumination, np.float32(0.3))
    assert np.array_equal(less, lattice - np.float32(0.3) / illumination)
