"""Local orientation of the lattice, grains, and the boundaries between them.

    A_φ(r) = | F⁻¹[ F[I](g) exp(-|g - g_φ|² / 2 s²) ] |       g_φ: length 1/0.213 nm, direction φ
    R_θ(r) = Σ_k A_{θ + k 60°}(r)²,   k = 0, 1, 2              order parameter
    orientation = arg( Σ_θ (R_θ - min R) exp(6 i θ) ) / 6      modulo 60°

A grain is a connected field of one orientation; pixels between grains go to the one whose order
parameter is larger there, so a boundary is a thin line where two lattices are equally strong. An
orientation is the direction of a reflection, from the row axis towards the columns; bonds lie in
the same directions modulo 60°, rows of atoms 30° from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from hrtem_stream.science.lattice_scale import RING_NM

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

PERIOD = 60.0
_N_ANGLES = 20
"""Orientations that are tried, 3° apart."""
_REACH_NM = 0.35
"""Deviation of the Gaussian neighbourhood in real space."""
_JUMP_DEG = 4.0
"""Orientations that differ by more over `_STEP_NM` lie in different grains."""
_STEP_NM = 0.7
_LEAST_GRAIN_NM2 = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OrientationMap:
    """The lattice at each pixel."""

    orientation_deg: Float
    """(P, Q), 0 to 60."""
    order: NDArray[np.float32]
    """(P, Q), strength of the lattice at its orientation over that at all, 0 to 1."""
    responses: Float
    """(K, P, Q), R at the orientations 0, 60/K, ... degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grains:
    """Grains of one frame."""

    labels: NDArray[np.int32]
    """(P, Q), from 1; 0 where there is no lattice."""
    orientation_deg: NDArray[np.float64]
    """(n,), mean over each grain, 0 to 60."""
    area_nm2: NDArray[np.float64]
    """(n,)."""
    boundary: Mask
    """(P, Q), pixels along the lines between grains."""
    misorientation_deg: NDArray[np.float64]
    """(m,), 0 to 30, of each pair of neighbours."""
    pairs: NDArray[np.int32]
    """(m, 2), labels of the neighbours."""
    length_nm: NDArray[np.float64]
    """(m,), of the boundary of each pair."""
    line: NDArray[np.float64]
    """(k, 2), points on the boundaries, in pixels of the map."""
    line_pair: NDArray[np.int32]
    """(k,), index of the pair between which a point lies."""


def orientation_map(image: Float, *, pixel_size_nm: float) -> OrientationMap:
    """Measure the local orientation of the lattice in a standardised image.

    Parameters
    ----------
    image
        (P, Q) float32 of mean 0; amorphous material and vacuum best set to 0.
    pixel_size_nm
        At most 0.085.

    Raises
    ------
    ValueError
        If the pixels are too coarse for the lattice.
    """
    if not 0.0 < pixel_size_nm <= 0.085:
        raise ValueError(f"pixel_size_nm must be above 0 and at most 0.085, got {pixel_size_nm}")
    rows, columns = image.shape
    margin = round(3 * _REACH_NM / pixel_size_nm)
    shape = [fft.next_fast_len(n + margin) for n in (rows, columns)]
    spectrum = fft.fft2(image, s=shape, workers=1)
    g_row = fft.fftfreq(shape[0], pixel_size_nm).astype(np.float32)
    g_column = fft.fftfreq(shape[1], pixel_size_nm).astype(np.float32)
    powers = [
        _power(spectrum, g_row, g_column, np.deg2rad(phi))[:rows, :columns]
        for phi in np.arange(3 * _N_ANGLES) * (PERIOD / _N_ANGLES)
    ]
    responses = np.stack([sum(powers[n::_N_ANGLES]) for n in range(_N_ANGLES)])
    floor = responses.min(axis=0)
    phases = np.exp(2j * np.pi * np.arange(_N_ANGLES) / _N_ANGLES).astype(np.complex64)
    vector = np.tensordot(phases, responses - floor, axes=1)
    total = (responses - floor).sum(axis=0)
    return OrientationMap(
        orientation_deg=np.asarray(np.rad2deg(np.angle(vector)) / 6 % PERIOD, np.float32),
        order=np.asarray(np.abs(vector) / np.maximum(total, 1e-12), np.float32),
        responses=responses.astype(np.float32),
    )


def find_grains(found: OrientationMap, *, lattice: Mask, pixel_size_nm: float) -> Grains:
    """Part the lattice into grains.

    Parameters
    ----------
    found
        From `orientation_map`.
    lattice
        (P, Q) bool, True where there is graphene.
    pixel_size_nm
        Of both.

    Notes
    -----
    Grains below 2 nm², and boundaries below about 3° of misorientation, are not found.
    """
    step = max(1, round(_STEP_NM / pixel_size_nm / 2))
    inside = lattice & ~_jumps(found.orientation_deg, step)
    seeds, n_seeds = ndimage.label(inside)
    areas = np.bincount(seeds.ravel(), minlength=n_seeds + 1) * pixel_size_nm**2
    areas[0] = 0.0
    kept = areas >= _LEAST_GRAIN_NM2
    seeds = (np.cumsum(kept) * kept)[seeds]
    orientation = _mean_orientation(found, seeds, int(kept.sum()))
    seeds, orientation = _joined(seeds, orientation, reach=2 * step)
    labels = _shared_out(found, seeds, orientation, lattice=lattice, reach=3 * step)
    n_grains = len(orientation)
    counts = np.bincount(labels.ravel(), minlength=n_grains + 1)[1:]
    line, between, boundary = _borders(labels)
    pairs, line_pair, n_edges = np.unique(between, axis=0, return_inverse=True, return_counts=True)
    first, second = orientation[pairs[:, 0] - 1], orientation[pairs[:, 1] - 1]
    return Grains(
        labels=labels,
        orientation_deg=orientation,
        area_nm2=np.asarray(counts * pixel_size_nm**2, np.float64),
        boundary=boundary,
        misorientation_deg=np.abs(difference_deg(first, second)),
        pairs=pairs,
        # Edges of pixels along a line of random direction are 4/π longer than the line.
        length_nm=n_edges * pixel_size_nm * np.pi / 4,
        line=line,
        line_pair=line_pair.reshape(-1).astype(np.int32),
    )


def difference_deg(a: NDArray[np.floating], b: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """Return the difference of orientations, from -30 to 30 degrees."""
    turned = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return (turned + PERIOD / 2) % PERIOD - PERIOD / 2


def _power(
    spectrum: NDArray[np.complexfloating], g_row: Float, g_column: Float, phi: float
) -> Float:
    width = 1.0 / (2 * np.pi * _REACH_NM)
    row = np.exp(-0.5 * ((g_row - np.cos(phi) / RING_NM) / width) ** 2).astype(np.float32)
    column = np.exp(-0.5 * ((g_column - np.sin(phi) / RING_NM) / width) ** 2).astype(np.float32)
    wave = fft.ifft2(spectrum * row[:, None] * column[None, :], workers=1)
    return np.asarray(wave.real**2 + wave.imag**2, np.float32)


def _jumps(orientation_deg: Float, step: int) -> Mask:
    """Mark where the orientation differs between either side of a pixel."""
    jump = np.zeros(orientation_deg.shape, np.bool_)
    for axis in (0, 1):
        ahead = np.roll(orientation_deg, -step, axis)
        behind = np.roll(orientation_deg, step, axis)
        differs = np.abs(difference_deg(ahead, behind)) > _JUMP_DEG
        edge = [slice(None), slice(None)]
        for end in (slice(0, step), slice(-step, None)):
            edge[axis] = end
            differs[tuple(edge)] = False
        jump |= differs
    return jump


def _mean_orientation(
    found: OrientationMap, labels: NDArray[np.integer], n: int
) -> NDArray[np.float64]:
    vector = found.order * np.exp(6j * np.deg2rad(found.orientation_deg))
    flat = labels.ravel()
    real = np.bincount(flat, vector.real.ravel(), minlength=n + 1)[1:]
    imaginary = np.bincount(flat, vector.imag.ravel(), minlength=n + 1)[1:]
    return np.rad2deg(np.arctan2(imaginary, real)) / 6 % PERIOD


def _joined(
    seeds: NDArray[np.integer], orientation: NDArray[np.float64], *, reach: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Join seeds that are close and of one orientation: a defect lies between them, no boundary."""
    n = len(orientation)
    parent = np.arange(n + 1)

    def root(i: int) -> int:
        while parent[i] != i:
            i = int(parent[i])
        return i

    grown = _dilated(seeds.astype(np.float32), reach).astype(np.int64)
    touching = np.unique(np.stack([seeds[seeds > 0], grown[seeds > 0]], axis=1), axis=0)
    for a, b in touching:
        if b and a != b and abs(difference_deg(orientation[a - 1], orientation[b - 1])) < 2.0:
            parent[root(int(a))] = root(int(b))
    roots = np.array([root(i) for i in range(n + 1)])
    kept, renumbered = np.unique(roots, return_inverse=True)
    return renumbered[seeds].astype(np.int32), orientation[kept[1:] - 1]


def _shared_out(
    found: OrientationMap,
    seeds: NDArray[np.int32],
    orientation: NDArray[np.float64],
    *,
    lattice: Mask,
    reach: int,
) -> NDArray[np.int32]:
    """Give each pixel near several grains to the one whose lattice is stronger there."""
    best = np.full(seeds.shape, -1.0, np.float32)
    labels = np.zeros(seeds.shape, np.int32)
    for n, angle in enumerate(orientation, start=1):
        near = cv2.dilate((seeds == n).astype(np.uint8), _disc(reach)).view(np.bool_)
        place = angle / PERIOD * _N_ANGLES
        low, share = int(place), place - int(place)
        response = (1 - share) * found.responses[low % _N_ANGLES]
        response = response + share * found.responses[(low + 1) % _N_ANGLES]
        stronger = near & (response > best)
        best[stronger] = response[stronger]
        labels[stronger] = n
    labels[~lattice] = 0
    return labels


def _borders(
    labels: NDArray[np.int32],
) -> tuple[NDArray[np.float64], NDArray[np.int32], Mask]:
    """Find the edges of pixels between two grains: their middles, the two labels, and a mask."""
    boundary = np.zeros(labels.shape, np.bool_)
    middles, sides = [], []
    for axis in (0, 1):
        here = labels[:-1] if axis == 0 else labels[:, :-1]
        next_ = labels[1:] if axis == 0 else labels[:, 1:]
        meets = (here != next_) & (here > 0) & (next_ > 0)
        (boundary[:-1] if axis == 0 else boundary[:, :-1])[meets] = True
        middles.append(np.argwhere(meets) + np.array([0.5, 0.0] if axis == 0 else [0.0, 0.5]))
        sides.append(np.sort(np.stack([here[meets], next_[meets]], axis=1), axis=1))
    return np.concatenate(middles), np.concatenate(sides), boundary


def _dilated(values: Float, reach: int) -> Float:
    return np.asarray(cv2.dilate(values, _disc(reach)), np.float32)


def _disc(reach: int) -> NDArray[np.uint8]:
    side = 2 * reach + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
