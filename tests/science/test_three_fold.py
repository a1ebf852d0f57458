"""Sublattices that a lens has made unequal are made equal again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft

from hrtem_stream.science.atoms import find_atoms, find_network
from hrtem_stream.science.three_fold import three_fold_correction, three_fold_phase
from tests.science.test_lattice_scale import honeycomb

PIXEL_NM = 0.04


def graphene(*, angle: float, alpha: float, noise: float = 0.0) -> NDArray[np.float32]:
    """Image a lattice of bright atoms through a lens of three-fold phase, alpha at the lattice."""
    image = -honeycomb((256, 240), pixel_size_nm=PIXEL_NM, angle=angle).astype(np.float32)
    image += np.random.default_rng(0).normal(0, noise, image.shape).astype(np.float32)
    theta = np.pi / 2 - angle
    phase = (-alpha * np.cos(3 * theta), -alpha * np.sin(3 * theta))  # of the opposite sign: adds
    g_row, g_column = fft.fftfreq(256)[:, None], fft.rfftfreq(240)
    turned = fft.rfft2(image) * three_fold_correction(g_row, g_column, phase=phase)
    return np.asarray(fft.irfft2(turned, s=image.shape), np.float32)


@pytest.mark.parametrize("alpha", [-1.2, 0.0, 0.6, 1.3])
@pytest.mark.parametrize("angle", [0.0, 0.2, 0.9])
def test_the_phase_is_measured_and_undone(angle: float, alpha: float) -> None:
    image = graphene(angle=angle, alpha=alpha)
    a, b = three_fold_phase(image, pixel_size_nm=PIXEL_NM)
    theta = 3 * (np.pi / 2 - angle)
    assert a * np.cos(theta) + b * np.sin(theta) == pytest.approx(alpha, abs=0.05)


def test_dark_atoms_are_the_same_of_the_other_sign() -> None:
    image = graphene(angle=0.3, alpha=0.7)
    bright = three_fold_phase(image, pixel_size_nm=PIXEL_NM)
    assert three_fold_phase(-image, pixel_size_nm=PIXEL_NM) == pytest.approx(bright)
    given = three_fold_phase(-image, pixel_size_nm=PIXEL_NM, contrast=-1)
    assert given == pytest.approx(bright)


def test_nothing_has_no_phase() -> None:
    nothing = np.zeros((64, 64), np.float32)
    assert three_fold_phase(nothing, pixel_size_nm=PIXEL_NM) == (0.0, 0.0)


@pytest.mark.parametrize("contrast", [1, -1])
def test_atoms_of_both_sublattices_are_found_though_one_has_faded(contrast: int) -> None:
    everywhere = np.ones((256, 240), np.bool_)
    sizes = []
    for alpha in (0.0, 1.2):
        image = contrast * graphene(angle=0.3, alpha=alpha, noise=0.2)
        atoms = find_atoms(image, pixel_size_nm=PIXEL_NM, where=everywhere)
        assert atoms.contrast == contrast
        sizes.append(find_network(atoms.positions, pixel_size_nm=PIXEL_NM).ring_size)
    plain, faded = ((size == 6).sum() for size in sizes)
    assert plain > 1000
    assert faded > 0.97 * plain
    assert (sizes[1] == 6).mean() > 0.98


def test_a_strong_second_ring_does_not_make_atoms_of_the_middles_of_rings() -> None:
    image = graphene(angle=0.3, alpha=0.0)
    g = np.hypot(fft.fftfreq(256, PIXEL_NM)[:, None], fft.rfftfreq(240, PIXEL_NM))
    louder = fft.rfft2(image) * np.where(g > 6.5, 12.0, 1.0)
    image = np.asarray(fft.irfft2(louder, s=image.shape), np.float32)
    everywhere = np.ones(image.shape, np.bool_)
    atoms = find_atoms(image, pixel_size_nm=PIXEL_NM, where=everywhere)
    sizes = find_network(atoms.positions, pixel_size_nm=PIXEL_NM).ring_size
    assert (sizes == 6).mean() > 0.98
