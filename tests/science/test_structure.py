"""The structure of simulated frames whose atoms, grains and boundary are known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.structure import Known, score, simulated
from hrtem_stream.science.atoms import find_network
from hrtem_stream.science.classes import AMORPHOUS, BOUNDARY, GRAPHENE, VACUUM
from hrtem_stream.science.orientation import difference_deg, find_grains, orientation_map
from hrtem_stream.science.structure import Structure, analyse_frame, measure_lattice
from hrtem_stream.science.structure_picture import (
    angle_colours,
    draw_classes,
    draw_orientations,
    draw_structure,
)
from tests.science.test_lattice_scale import counted, honeycomb


def analysed(known: Known, *, calibrated: bool = True) -> Structure:
    return analyse_frame(
        known.pixels,
        amorphous=known.amorphous,
        vacuum=np.zeros((64, 64), np.bool_),
        pixel_size_nm=known.pixel_size_nm if calibrated else 0.0,
    )


@pytest.fixture(scope="module")
def bicrystal() -> Known:
    return simulated(
        pixel_size_nm=0.04, dose_e_per_a2=5000, defocus_nm=-2.5, seed=1, bicrystal=True
    )


@pytest.fixture(scope="module")
def structure(bicrystal: Known) -> Structure:
    return analysed(bicrystal)


def test_two_grains_are_found_with_their_orientations(
    bicrystal: Known, structure: Structure
) -> None:
    assert len(structure.grains.orientation_deg) == 2
    found = np.sort(structure.grains.orientation_deg)
    true = np.sort(bicrystal.orientation_deg)
    assert np.abs(difference_deg(found, true)).max() < 0.3
    expected = abs(difference_deg(true[:1], true[1:])[0])
    assert structure.grains.misorientation_deg[0] == pytest.approx(expected, abs=0.3)


def test_the_boundary_is_a_thin_line_in_its_place(bicrystal: Known, structure: Structure) -> None:
    assert bicrystal.line is not None
    a, b, c = bicrystal.line
    rows, columns = np.nonzero(structure.grains.boundary)
    middle = structure.map_pixel_nm / 2
    nm = structure.map_pixel_nm
    off = (rows * nm + middle) * a + (columns * nm + middle) * b - c
    assert np.abs(off).max() < 0.3
    assert structure.boundary_length_nm == pytest.approx(_chord(a, b, c, 16.0), rel=0.15)


def test_atoms_of_both_grains_are_found(bicrystal: Known, structure: Structure) -> None:
    marks = score(structure.positions, bicrystal)
    assert min(marks["precision"], marks["recall"]) > 0.97
    assert marks["rms_pm"] < 12
    sizes = structure.network.ring_size
    assert (sizes == 6).mean() > 0.96
    true = find_network(bicrystal.positions, pixel_size_nm=0.04)
    assert len(sizes) == pytest.approx(len(true.ring_size), rel=0.15)  # none at the border


def test_without_calibration_the_lattice_is_the_ruler(bicrystal: Known) -> None:
    found = analysed(bicrystal, calibrated=False)
    assert not found.is_calibrated
    assert found.pixel_size_nm == pytest.approx(0.04, rel=0.005)
    assert found.lattice.px * found.pixel_size_nm == pytest.approx(0.246, rel=1e-3)


def test_the_four_classes_lie_where_their_masks_are(bicrystal: Known) -> None:
    amorphous, vacuum = np.zeros((2, 100, 100), np.bool_)
    amorphous[:20], vacuum[80:] = True, True
    found = analyse_frame(bicrystal.pixels, amorphous=amorphous, vacuum=vacuum, pixel_size_nm=0.04)
    n = len(found.classes)
    assert (found.classes[: int(0.19 * n)] == AMORPHOUS).all()
    assert (found.classes[int(0.81 * n) :] == VACUUM).all()
    middle = found.classes[int(0.21 * n) : int(0.79 * n)]
    assert set(np.unique(middle)) <= {GRAPHENE, BOUNDARY}
    rows = found.positions[:, 0] / bicrystal.pixels.shape[0]
    assert rows.min() > 0.195
    assert rows.max() < 0.805


@pytest.mark.parametrize("pixel_size_nm", [0.012, 0.02, 0.05])
def test_the_lattice_parameter_is_exact_to_a_thousandth(pixel_size_nm: float) -> None:
    contrast = honeycomb((600, 600), pixel_size_nm=pixel_size_nm).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 1, contrast.shape).astype(np.float32)
    lattice = measure_lattice(contrast + noise, pixel_size_nm=1.04 * pixel_size_nm)
    assert lattice.nm(pixel_size_nm) == pytest.approx(0.246, rel=1e-3)
    assert lattice.uncertainty_px < 1e-3 * lattice.px
    assert lattice.n_reflections == 3


def test_noise_has_no_lattice_parameter() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (256, 256)).astype(np.float32)
    assert measure_lattice(noise, pixel_size_nm=0.03).n_reflections == 0


@pytest.mark.parametrize("angle", [0.0, 7.3, 29.9, 31.0, 59.5])
def test_orientation_is_exact_and_modulo_sixty(angle: float) -> None:
    contrast = honeycomb((200, 220), pixel_size_nm=0.045, angle=np.deg2rad(90 - angle))
    found = orientation_map(contrast.astype(np.float32), pixel_size_nm=0.045)
    inside = found.orientation_deg[30:-30, 30:-30]
    assert np.abs(difference_deg(inside, angle)).max() < 0.1
    grains = find_grains(found, lattice=np.ones((200, 220), np.bool_), pixel_size_nm=0.045)
    assert len(grains.area_nm2) == 1
    assert not grains.boundary.any()
    assert grains.area_nm2[0] == pytest.approx(200 * 220 * 0.045**2)


def test_what_cannot_be_analysed_says_why() -> None:
    noise = counted(np.zeros((256, 256)), dose=100.0)
    nothing = np.zeros((256, 256), np.bool_)
    with pytest.raises(ValueError, match="show a lattice or be calibrated"):
        analyse_frame(noise, amorphous=nothing, vacuum=nothing)
    with pytest.raises(ValueError, match=r"at most 0\.07 nm"):
        analyse_frame(noise, amorphous=nothing, vacuum=nothing, pixel_size_nm=0.1)


@pytest.mark.parametrize("factor", [0.45, 0.7, 1.3, 1.5])
def test_a_calibration_that_does_not_fit_the_lattice_is_refused(factor: float) -> None:
    frame = counted(honeycomb((300, 300), pixel_size_nm=0.04, outer=0.6), dose=1000.0)
    nothing = np.zeros(frame.shape, np.bool_)
    with pytest.raises(ValueError, match=r"got 0\.0\d+ nm, and by the lattice it is 0\.0[34]"):
        analyse_frame(frame, amorphous=nothing, vacuum=nothing, pixel_size_nm=0.04 * factor)


def test_a_right_calibration_is_believed_where_contaminant_hides_the_lattice() -> None:
    known = simulated(pixel_size_nm=0.04, dose_e_per_a2=5000, defocus_nm=-2.5, seed=0, covered=True)
    mask = np.ones(known.amorphous.shape, np.bool_)
    mask[:40, :40] = False  # too little for its reflections to be measured
    found = analyse_frame(
        known.pixels, amorphous=mask, vacuum=np.zeros_like(mask), pixel_size_nm=0.04
    )
    assert found.lattice.n_reflections == 0
    assert len(found.positions) > 0


def test_a_frame_without_any_graphene_has_no_atoms(bicrystal: Known) -> None:
    covered = np.ones((64, 64), np.bool_)
    found = analyse_frame(bicrystal.pixels, amorphous=covered, vacuum=~covered, pixel_size_nm=0.04)
    assert len(found.positions) == 0
    assert len(found.grains.area_nm2) == 0
    assert found.largest_grain_nm2 == found.boundary_length_nm == 0.0


def test_pictures_have_colour_where_there_are_bonds(bicrystal: Known, structure: Structure) -> None:
    picture = draw_structure(bicrystal.pixels, structure, width=500)
    assert picture.shape == (500, 500, 3)
    assert (np.ptp(picture.astype(int), axis=2) > 60).mean() > 0.1
    assert draw_orientations(structure, width=200).shape == (200, 200, 3)
    classes = draw_classes(structure, width=200)
    assert classes.shape == (200, 200, 3)
    assert len(np.unique(classes.reshape(-1, 3), axis=0)) == 2  # graphene, and the boundary
    assert np.array_equal(angle_colours(np.array([0.0])), angle_colours(np.array([60.0])))


def _chord(a: float, b: float, c: float, side: float) -> float:
    """Return the length of a line within the square."""
    t = np.linspace(-2 * side, 2 * side, 200_001)
    x, y = a * c - b * t, b * c + a * t
    inside = (x >= 0) & (x <= side) & (y >= 0) & (y <= side)
    return float(inside.sum() * (t[1] - t[0]))
