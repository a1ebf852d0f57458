"""Atoms, bonds and rings of lattices whose atoms are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from hrtem_stream.science.atoms import BOND_NM, find_atoms, find_network
from hrtem_stream.science.polycrystal import honeycomb

EVERYWHERE = np.ones((200, 200), np.bool_)


def atoms_of(pixel_size_nm: float, *, angle: float = 0.3) -> NDArray[np.float64]:
    field = 200 * pixel_size_nm
    sites = honeycomb(field_nm=field, angle=angle, offset_nm=(0.013, 0.04))
    return sites / pixel_size_nm


def image_of(
    positions: NDArray[np.float64], pixel_size_nm: float, *, width_nm: float = 0.04
) -> NDArray[np.float32]:
    i, j = np.indices((200, 200))
    image = np.zeros((200, 200))
    width = width_nm / pixel_size_nm
    for row, column in positions:
        a, b = int(row), int(column)
        part = slice(max(0, a - 12), a + 13), slice(max(0, b - 12), b + 13)
        r2 = (i[part] - row) ** 2 + (j[part] - column) ** 2
        image[part] += np.exp(-0.5 * r2 / width**2)
    return (image - image.mean()).astype(np.float32)


def inner(positions: NDArray[np.float64], margin: float) -> NDArray[np.float64]:
    return positions[((positions > margin) & (positions < 199 - margin)).all(axis=1)]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("pixel_size_nm", [0.02, 0.035, 0.05])
def test_every_atom_is_found_whatever_its_contrast(pixel_size_nm: float, sign: int) -> None:
    known = atoms_of(pixel_size_nm)
    image = np.float32(sign) * image_of(known, pixel_size_nm)
    found = find_atoms(image, pixel_size_nm=pixel_size_nm, where=EVERYWHERE)
    assert found.contrast == sign
    margin = 0.5 / pixel_size_nm
    distance, _ = cKDTree(found.positions).query(inner(known, margin))
    assert distance.max() * pixel_size_nm < 0.006
    distance, _ = cKDTree(known).query(inner(found.positions, margin))
    assert distance.max() * pixel_size_nm < 0.006


def test_positions_have_no_bias() -> None:
    known = atoms_of(0.05)
    found = find_atoms(image_of(known, 0.05), pixel_size_nm=0.05, where=EVERYWHERE).positions
    near = inner(found, 12)
    _, nearest = cKDTree(known).query(near)
    assert np.abs((near - known[nearest]).mean(axis=0)).max() < 0.01


def test_no_atom_is_found_outside_the_mask_or_in_a_vacancy() -> None:
    known = atoms_of(0.02)
    missing = np.argmin(np.hypot(*(known - 100.0).T))
    left = np.indices((200, 200))[1] < 150
    image = image_of(np.delete(known, missing, axis=0), 0.02)
    found = find_atoms(image, pixel_size_nm=0.02, where=left).positions
    assert found[:, 1].max() < 150.5
    assert np.hypot(*(found - known[missing]).T).min() * 0.02 > 0.08


def test_noise_moves_atoms_by_little() -> None:
    known = atoms_of(0.02)
    image = image_of(known, 0.02)
    noisy = image + np.random.default_rng(0).normal(0, image.std(), image.shape)
    found = find_atoms(noisy.astype(np.float32), pixel_size_nm=0.02, where=EVERYWHERE).positions
    distance, _ = cKDTree(known).query(inner(found, 25))
    assert np.sqrt(np.mean(distance**2)) * 0.02 < 0.008


def test_what_cannot_be_analysed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 0\.07, got 0\.1"):
        find_atoms(np.zeros((200, 200), np.float32), pixel_size_nm=0.1, where=EVERYWHERE)
    with pytest.raises(ValueError, match="must have the shape"):
        find_atoms(np.zeros((64, 64), np.float32), pixel_size_nm=0.02, where=EVERYWHERE)
    nothing = ~EVERYWHERE
    found = find_atoms(image_of(atoms_of(0.02), 0.02), pixel_size_nm=0.02, where=nothing)
    assert found.positions.shape == (0, 2)


def test_a_perfect_lattice_has_hexagons_and_one_bond_angle_only() -> None:
    network = find_network(atoms_of(0.02, angle=np.deg2rad(17)), pixel_size_nm=0.02)
    assert set(network.ring_size) == {6}
    assert network.length_nm == pytest.approx(BOND_NM)
    assert network.angle_deg == pytest.approx(17.0)
    assert len(network.defects) == 0


def test_a_bond_turned_by_a_quarter_makes_two_rings_of_five_and_two_of_seven() -> None:
    atoms = atoms_of(0.02)
    network = find_network(atoms, pixel_size_nm=0.02)
    middles = atoms[network.bonds].mean(axis=1)
    pair = network.bonds[np.argmin(np.hypot(*(middles - 100.0).T))]
    centre = atoms[pair].mean(axis=0)
    turned = atoms.copy()
    turned[pair] = centre + (atoms[pair] - centre) @ np.array([[0.0, -1.0], [1.0, 0.0]]) * 0.9
    relaxed = _relaxed(turned, pair)
    sizes = find_network(relaxed, pixel_size_nm=0.02)
    assert sorted(sizes.ring_size[sizes.defects]) == [5, 5, 7, 7]


def test_a_vacancy_is_a_large_ring() -> None:
    atoms = atoms_of(0.02)
    missing = np.argmin(np.hypot(*(atoms - 100.0).T))
    network = find_network(np.delete(atoms, missing, axis=0), pixel_size_nm=0.02)
    assert network.ring_size[network.defects].tolist() == [12]
    assert network.ring_centre[network.defects][0] == pytest.approx(atoms[missing], abs=0.1)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_atoms_have_no_rings(n: int) -> None:
    network = find_network(np.array([[5.0, 5.0], [5.0, 12.0]])[:n], pixel_size_nm=0.02)
    assert len(network.ring_size) == 0
    assert len(network.bonds) == (1 if n == 2 else 0)


def _relaxed(atoms: NDArray[np.float64], pair: NDArray[np.int32]) -> NDArray[np.float64]:
    """Let bond lengths of the turned bond's surroundings settle, the bonds being given."""
    bond = BOND_NM / 0.02
    moved = atoms.copy()
    for _ in range(200):
        distance, near = cKDTree(moved).query(moved[pair], k=4)
        for atom, distances, neighbours in zip(pair, distance, near, strict=True):
            for d, other in zip(distances[1 : 3 + 1], neighbours[1 : 3 + 1], strict=True):
                step = 0.05 * (d - bond) * (moved[other] - moved[atom]) / d
                moved[atom] += step
                if other not in pair:
                    moved[other] -= step
    return moved


def test_smoothing_of_the_image_does_not_matter() -> None:
    known = atoms_of(0.02)
    image = ndimage.gaussian_filter(image_of(known, 0.02), 1.5)
    found = find_atoms(image, pixel_size_nm=0.02, where=EVERYWHERE).positions
    distance, _ = cKDTree(found).query(inner(known, 25))
    assert distance.max() * 0.02 < 0.006
