"""Graphene's atoms: density, bonds, boundaries."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from hrtem_stream.science import polycrystal

FIELD_NM = 8.0
PER_NM2 = 4.0 / (3**0.5 * polycrystal.LATTICE_NM**2)


def test_a_honeycomb_has_graphenes_density_and_bonds() -> None:
    sites = polycrystal.honeycomb(field_nm=FIELD_NM, angle=0.3, offset_nm=(0.1, 0.05))
    assert abs(len(sites) / FIELD_NM**2 - PER_NM2) < 0.02 * PER_NM2
    inner = sites[((sites > 1) & (sites < FIELD_NM - 1)).all(axis=1)]
    distances, _ = cKDTree(sites).query(inner, k=5)
    np.testing.assert_allclose(distances[:, 1:4], polycrystal.BOND_NM, atol=1e-9)
    np.testing.assert_allclose(distances[:, 4], polycrystal.LATTICE_NM, atol=1e-9)


def test_a_single_grain_has_no_boundary() -> None:
    rng = np.random.default_rng(0)
    _, boundary = polycrystal.polycrystal(field_nm=FIELD_NM, n_grains=1, rng=rng)
    assert not boundary.any()


def test_grains_meet_in_relaxed_boundaries_without_clashes_or_gaps() -> None:
    rng = np.random.default_rng(1)
    atoms, boundary = polycrystal.polycrystal(field_nm=FIELD_NM, n_grains=4, rng=rng)
    assert 0.01 < boundary.mean() < 0.5
    assert abs(len(atoms) / FIELD_NM**2 - PER_NM2) < 0.06 * PER_NM2
    nearest = cKDTree(atoms).query(atoms[boundary], k=2)[0][:, 1]
    assert nearest.min() > 0.09
    assert np.median(nearest) > 0.12


def test_strain_moves_atoms_by_little() -> None:
    rng = np.random.default_rng(2)
    sites = polycrystal.honeycomb(field_nm=FIELD_NM, angle=0.0, offset_nm=(0.0, 0.0))
    moved = polycrystal.strained(sites, field_nm=FIELD_NM, rng=rng)
    assert moved.shape == sites.shape
    assert 0.0 < np.linalg.norm(moved - sites, axis=1).max() < 0.3


def test_vacancies_remove_atoms_and_none_removes_none() -> None:
    rng = np.random.default_rng(3)
    sites = polycrystal.honeycomb(field_nm=FIELD_NM, angle=0.0, offset_nm=(0.0, 0.0))
    assert len(polycrystal.without_vacancies(sites, n_vacancies=0, rng=rng)) == len(sites)
    left = polycrystal.without_vacancies(sites, n_vacancies=5, rng=rng)
    assert 5 <= len(sites) - len(left) <= 20
