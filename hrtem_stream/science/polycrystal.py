"""Atoms of polycrystalline graphene, with relaxed boundaries, defects and strain.

Positions are (n, 2) float64 arrays of (row, column) in nm, in a square field from 0 to `field_nm`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Float64 = NDArray[np.float64]

LATTICE_NM = 0.246
"""Lattice parameter of graphene; the bond is shorter by √3."""
BOND_NM = LATTICE_NM / 3**0.5


def honeycomb(*, field_nm: float, angle: float, offset_nm: tuple[float, float]) -> Float64:
    """Return all sites of one honeycomb lattice inside the field.

    Parameters
    ----------
    field_nm : float
        Edge of the square field.
    angle : float
        Rotation of the lattice, radian.
    offset_nm : (float, float)
        Displacement of the lattice from the field's centre.
    """
    reach = int(np.ceil(field_nm / LATTICE_NM * 0.9)) + 2
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    cells = np.stack([(j * 3**0.5 / 2).ravel(), (i + j / 2).ravel()], axis=1) * LATTICE_NM
    sites = np.concatenate([cells, cells + np.array([LATTICE_NM / 3**0.5, 0.0])])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    sites = sites @ turn.T + np.asarray(offset_nm) + field_nm / 2
    inside = ((sites >= 0) & (sites < field_nm)).all(axis=1)
    kept: Float64 = sites[inside]
    return kept


def polycrystal(
    *, field_nm: float, n_grains: int, rng: np.random.Generator
) -> tuple[Float64, NDArray[np.bool_]]:
    """Return the atoms of a random polycrystal and which of them lie at a grain boundary.

    Grains are the cells of a Voronoi diagram with warped edges. Where two lattices meet, one of
    each pair of atoms closer than 0.11 nm is dropped and the bonds are relaxed.

    Parameters
    ----------
    field_nm : float
        Edge of the square field.
    n_grains : int
        Number of grains, at least 1.
    rng : numpy.random.Generator
        Source of all random choices.

    Returns
    -------
    atoms : (n, 2) float64
    boundary : (n,) bool
        True within 0.3 nm of a grain boundary.
    """
    seeds = rng.uniform(0, field_nm, (n_grains, 2))
    waves = rng.normal(0, 1, (4, 2)) * 2 * np.pi / field_nm
    phases = rng.uniform(0, 2 * np.pi, (4, 2))
    amplitudes = rng.normal(0, 0.02 * field_nm, (4, 2))
    # Real neighbours are often slightly misoriented only.
    spread = np.pi / 3 if rng.random() < 0.7 else 0.15
    first = rng.uniform(0, np.pi / 3)
    kept, margins = [], []
    for grain in range(n_grains):
        angle = first + (rng.uniform(-spread / 2, spread / 2) if grain else 0.0)
        offset = (rng.uniform(0, LATTICE_NM), rng.uniform(0, LATTICE_NM))
        sites = honeycomb(field_nm=field_nm, angle=angle, offset_nm=offset)
        warped = sites + (np.sin((sites @ waves.T)[:, :, None] + phases) * amplitudes).sum(axis=1)
        distances = np.linalg.norm(warped[:, None] - seeds, axis=2)
        own = distances[:, grain].copy()
        distances[:, grain] = np.inf
        margin = distances.min(axis=1) - own
        kept.append(sites[margin > 0])
        margins.append(margin[margin > 0])
    atoms, margin = np.concatenate(kept), np.concatenate(margins)
    if n_grains == 1:
        return atoms, np.zeros(len(atoms), np.bool_)
    edge = margin < 2.0
    near = _without_clashes(atoms[edge])
    movable = margin[edge][near] < 1.2
    relaxed = _relaxed(atoms[edge][near], movable=movable)
    at_boundary = margin[edge][near] < 0.6
    return (
        np.concatenate([atoms[~edge], relaxed]),
        np.concatenate([np.zeros(int((~edge).sum()), np.bool_), at_boundary]),
    )


def strained(atoms: Float64, *, field_nm: float, rng: np.random.Generator) -> Float64:
    """Displace atoms by a smooth random field: uniform strain up to 1 %, ripples, disorder."""
    strain = rng.normal(0, 0.004, (2, 2))
    waves = rng.normal(0, 1.5, (5, 2)) * 2 * np.pi / field_nm
    shifts = rng.normal(0, 0.012, (5, 2))
    moved = atoms + (atoms - field_nm / 2) @ strain
    moved = moved + np.sin(atoms @ waves.T + rng.uniform(0, 2 * np.pi, 5)) @ shifts
    return moved + rng.normal(0, rng.uniform(0.001, 0.006), atoms.shape)


def without_vacancies(atoms: Float64, *, n_vacancies: int, rng: np.random.Generator) -> Float64:
    """Remove `n_vacancies` groups of one to four neighbouring atoms."""
    if n_vacancies == 0 or len(atoms) < 8:
        return atoms
    centres = atoms[rng.integers(0, len(atoms), n_vacancies)]
    _, neighbours = cKDTree(atoms).query(centres, k=4)
    keep = np.ones(len(atoms), np.bool_)
    for row in neighbours:
        keep[row[: rng.integers(1, 5)]] = False
    return atoms[keep]


def _without_clashes(atoms: Float64) -> NDArray[np.bool_]:
    keep = np.ones(len(atoms), np.bool_)
    for first, second in sorted(cKDTree(atoms).query_pairs(0.11)):
        if keep[first]:
            keep[second] = False
    return keep


def _relaxed(atoms: Float64, *, movable: NDArray[np.bool_]) -> Float64:
    """Pull the nearest three neighbours to the bond length and push the others away."""
    atoms = atoms.copy()
    if len(atoms) < 8:
        return atoms
    for _ in range(12):
        distance, neighbour = cKDTree(atoms).query(atoms, k=6)
        distance, neighbour = distance[:, 1:], neighbour[:, 1:]
        pull = np.clip(distance[:, :3] - BOND_NM, -0.05, 0.05) * (distance[:, :3] < 0.20)
        push = np.minimum(distance[:, 3:] - 0.215, 0.0)
        force = np.concatenate([pull, 0.7 * push], axis=1)
        direction = (atoms[neighbour] - atoms[:, None]) / distance[:, :, None]
        step = 0.35 * (force[:, :, None] * direction).sum(axis=1)
        atoms[movable] += step[movable]
    return atoms
