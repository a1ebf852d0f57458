"""Atoms of graphene in an image: positions, bonds, rings and defects.

Positions are (n, 2) float64, (row, column) in pixels of the image; the middle of the first pixel
is (0, 0). Lengths are in nm. The image is reduced to what two rings of reflections make of it,

    I_n = F⁻¹[ exp(-(|g| - g_n)² / 2 w²) F[I] ]          g_1 = 1/0.213 nm, g_2 = 1/0.123 nm
    J   = s_1 I_1 + s_2 I_2

once what makes the sublattices unequal is undone (see `three_fold`),
in which there is little noise and no slow variation; the rings have all directions, so grains and
their boundaries come through alike. The lens may turn the contrast of either ring. In projection
atoms of a hexagon are bright where the cube of I_1 has a negative mean (the middle of a ring, dark,
is the rarer and stronger extreme) and where I_2 goes with I_1²: s_1 and s_2 make it so. The second
ring sharpens atoms, but not even a perfect one tells them from the middles of the rings; so where
it is stronger than the first, it counts as much as that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from hrtem_stream.science.compiled import compiled
from hrtem_stream.science.three_fold import three_fold_correction, three_fold_phase

Image: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Positions: TypeAlias = NDArray[np.float64]

BOND_NM = 0.246 / 3**0.5
LONGEST_BOND_NM = 0.185
SHORTEST_BOND_NM = 0.09
LARGEST_RING = 12
"""A larger face of the network of bonds is no ring."""

_FINE_NM = 0.022
"""Maxima are looked for on pixels of at most this size; coarser images are interpolated."""
_FIRST_RING, _SECOND_RING = 2 / (3**0.5 * 0.246), 2 / 0.246
"""|g| of graphene's reflections, in 1/nm."""
_RING_WIDTH = 0.4
"""Deviation w, in 1/nm: neighbours within 0.4 nm have a say."""
_LOCAL_WIDTH = 1.3
"""The same where a candidate is tested: only neighbours within 0.12 nm have a say."""
_DEVIATIONS = 3.2
"""A candidate is no atom if it lies below the others by more deviations."""
_MOST_SECOND = 1.0
"""Deviation of the second ring's image over that of the first, at most."""
_MARGIN_NM = 0.6
_APART_NM = 0.075
_FIT_NM = 0.042
_LEAST_HEIGHT = 0.35
"""Of an atom, over the median of all."""
_BORDER_NM = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class Atoms:
    """Atoms of one image."""

    positions: Positions
    height: NDArray[np.float64]
    """(n,), over the local mean, in units of the median of all atoms."""
    contrast: int
    """1: atoms are bright, -1: dark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Bonds between atoms, and the rings that they close."""

    bonds: NDArray[np.int32]
    """(b, 2), indices of the bonded atoms, smaller one first."""
    length_nm: NDArray[np.float64]
    """(b,)."""
    angle_deg: NDArray[np.float64]
    """(b,), direction from the row axis, modulo 60°."""
    ring_size: NDArray[np.int32]
    """(r,), atoms of each ring, 3 to 12."""
    ring_centre: Positions
    """(r, 2)."""

    @property
    def defects(self) -> NDArray[np.intp]:
        """Indices of the rings that are no hexagons."""
        return np.flatnonzero(self.ring_size != 6)


def find_atoms(
    image: Image, *, pixel_size_nm: float, where: Mask, contrast: int | None = None
) -> Atoms:
    """Find the atoms of an image.

    Parameters
    ----------
    image
        (P, Q) float32, evened out; pixels of at most 0.07 nm.
    pixel_size_nm
        Of the image.
    where
        (P, Q) bool; candidates elsewhere are dropped, and so are those at the very border.
    contrast
        1 for bright atoms, -1 for dark ones; None: as the first ring tells.

    Raises
    ------
    ValueError
        If the pixels are too coarse, or the mask has another shape.

    Notes
    -----
    Candidates are maxima of J at least 0.075 nm apart that are seen in wider rings as well, as far
    as the noise allows: below about 2,000 electrons per square ångström vacancies are filled in.
    Each is refined by a paraboloid fitted within 0.042 nm. A position is biased where the
    neighbours are not symmetric: at vacancies and edges by up to some 10 pm. Where the lens passes
    nothing of the first ring it fails.
    """
    if not 0.0 < pixel_size_nm <= 0.07:
        raise ValueError(f"pixel_size_nm must be above 0 and at most 0.07, got {pixel_size_nm}")
    if where.shape != image.shape:
        raise ValueError(f"where must have the shape of image, {image.shape}, got {where.shape}")
    factor = int(np.ceil(pixel_size_nm / _FINE_NM))
    fine_nm = pixel_size_nm / factor
    graphene = np.where(where, image, np.float32(0))
    phase = three_fold_phase(graphene, pixel_size_nm=pixel_size_nm, contrast=contrast)
    first, second = _rings_of_reflections(
        image, pixel_size_nm, factor, width=_RING_WIDTH, phase=phase
    )
    allowed = np.kron(where, np.ones((factor, factor), np.bool_)) if factor > 1 else where
    if contrast is None:
        contrast = -1 if _mean(first**3, allowed) > 0.0 else 1
    turned = 1 if _mean(second * first**2, allowed) > 0.0 else -1
    share = _MOST_SECOND * _deviation(first, allowed) / max(_deviation(second, allowed), 1e-12)
    smooth = np.float32(contrast) * first + np.float32(turned * min(1.0, share)) * second
    reach = max(1, round(_FIT_NM / fine_nm))
    border = max(reach, round(_BORDER_NM / fine_nm))
    side = 2 * max(1, round(_APART_NM / fine_nm)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    maxima = (smooth == cv2.dilate(smooth, disc)) & (smooth > 0)
    maxima[:border] = maxima[-border:] = False
    maxima[:, :border] = maxima[:, -border:] = False
    places = np.argwhere(maxima)
    nearest = np.round(places / factor).astype(np.intp)
    nearest = np.minimum(nearest, np.array(where.shape) - 1)
    places = places[where[nearest[:, 0], nearest[:, 1]]]
    shift, height = _refined(smooth, places, reach=reach)
    positions = (places + shift) / factor
    if len(height):
        height = height / np.median(height)
    kept = height > _LEAST_HEIGHT
    kept &= _are_there(image, positions, pixel_size_nm, contrast, turned, phase)
    return Atoms(positions=positions[kept], height=height[kept], contrast=contrast)


def find_network(positions: Positions, *, pixel_size_nm: float) -> Network:
    """Bond neighbouring atoms, and find the rings.

    Parameters
    ----------
    positions
        (n, 2) in pixels.
    pixel_size_nm
        Of those pixels.

    Notes
    -----
    Atoms are bonded where they are 0.09 to 0.185 nm apart. Rings are the faces of that network,
    taken as a drawing in the plane; faces around nothing but the outside are left out.
    """
    atoms = positions * pixel_size_nm
    if len(atoms) < 2:
        pairs = np.zeros((0, 2), np.int64)
    else:
        pairs = cKDTree(atoms).query_pairs(LONGEST_BOND_NM, output_type="ndarray")
    vector = atoms[pairs[:, 1]] - atoms[pairs[:, 0]]
    length = np.hypot(vector[:, 0], vector[:, 1])
    kept = length > SHORTEST_BOND_NM
    pairs, vector, length = np.sort(pairs[kept], axis=1), vector[kept], length[kept]
    angle = np.rad2deg(np.arctan2(vector[:, 1], vector[:, 0])) % 60.0
    size, centre = _rings(positions, pairs)
    return Network(
        bonds=pairs.astype(np.int32),
        length_nm=length,
        angle_deg=angle,
        ring_size=size,
        ring_centre=centre,
    )


def _are_there(
    image: Image,
    positions: Positions,
    pixel_size_nm: float,
    contrast: int,
    turned: int,
    phase: tuple[float, float],
) -> Mask:
    """Tell which candidates are seen by themselves, and not only expected by their neighbours.

    Narrow rings fill a vacancy in. In wide ones it stays empty, but there is more noise: what
    counts as empty goes with the scatter of all candidates.
    """
    if not len(positions):
        return np.zeros(0, np.bool_)
    first, second = _rings_of_reflections(image, pixel_size_nm, 1, width=_LOCAL_WIDTH, phase=phase)
    local = np.float32(contrast) * first + np.float32(turned) * second
    height = ndimage.map_coordinates(local, positions.T, order=3, mode="nearest")
    median = float(np.median(height))
    if median <= 0.0:
        return np.ones(len(positions), np.bool_)
    deviation = (1.0 - float(np.quantile(height, 0.05)) / median) / 1.645
    least = min(_LEAST_HEIGHT, 1.0 - _DEVIATIONS * deviation)
    return np.asarray(height > least * median)


def _rings_of_reflections(
    image: Image, pixel_size_nm: float, factor: int, *, width: float, phase: tuple[float, float]
) -> tuple[Image, Image]:
    """Return what either ring makes of an image, interpolated `factor` times.

    The first ring is freed of the three-fold `phase`. Sample k of the results lies at k / factor
    of the image.
    """
    margin = int(np.ceil(_MARGIN_NM / pixel_size_nm))
    M, N = image.shape
    shape = [fft.next_fast_len(n + 2 * margin, real=True) for n in (M, N)]
    padded = np.pad(
        image,
        [(margin, n - size - margin) for n, size in zip(shape, (M, N), strict=True)],
        mode="reflect",
    )
    spectrum = fft.rfft2(padded.astype(np.float32), workers=1)
    g_row = fft.fftfreq(shape[0], pixel_size_nm)[:, None].astype(np.float32)
    g_column = fft.rfftfreq(shape[1], pixel_size_nm).astype(np.float32)
    g = np.hypot(g_row, g_column)
    corrected = spectrum * three_fold_correction(g_row, g_column, phase=phase)
    images = []
    for radius, source in ((_FIRST_RING, corrected), (_SECOND_RING, spectrum)):
        passed = source * np.exp(-0.5 * ((g - np.float32(radius)) / np.float32(width)) ** 2)
        wave = fft.irfft2(_enlarged(passed, shape, factor), s=[factor * n for n in shape])
        begin = factor * margin
        part = wave[begin : begin + factor * M, begin : begin + factor * N]
        images.append(np.asarray(part * factor**2, np.float32))
    return images[0], images[1]


def _enlarged(
    spectrum: NDArray[np.complexfloating], shape: list[int], factor: int
) -> NDArray[np.complexfloating]:
    """Fill a half spectrum up with zeros for an image `factor` times as large."""
    if factor == 1:
        return spectrum
    rows, half = shape[0], spectrum.shape[1]
    larger = np.zeros((factor * rows, factor * shape[1] // 2 + 1), spectrum.dtype)
    positive = (rows + 1) // 2
    larger[:positive, :half] = spectrum[:positive]
    larger[positive - rows :, :half] = spectrum[positive:]
    return larger


def _mean(values: Image, where: Mask) -> float:
    return float(values[where].mean(dtype=np.float64)) if where.any() else 0.0


def _deviation(values: Image, where: Mask) -> float:
    return float(values[where].std(dtype=np.float64)) if where.any() else 0.0


def _refined(
    smooth: Image, places: NDArray[np.intp], *, reach: int
) -> tuple[Positions, NDArray[np.float64]]:
    """Fit a paraboloid around each maximum; return its displacement and height."""
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = np.hypot(i, j) <= reach + 0.5
    i, j = i[inside], j[inside]
    design = np.stack([np.ones(i.size), i, j, i * i, i * j, j * j], axis=1)
    values = smooth[places[:, :1] + i, places[:, 1:] + j].astype(np.float64)
    c, b_i, b_j, a_ii, a_ij, a_jj = (values @ np.linalg.pinv(design).T).T
    determinant = 4 * a_ii * a_jj - a_ij**2
    sound = (determinant > 0) & (a_ii < 0)
    determinant = np.where(sound, determinant, 1.0)
    shift = np.stack([a_ij * b_j - 2 * a_jj * b_i, a_ij * b_i - 2 * a_ii * b_j], axis=1)
    shift = np.where(sound[:, None], shift / determinant[:, None], 0.0)
    shift = np.clip(shift, -reach, reach)
    return shift, c


def _rings(positions: Positions, bonds: NDArray[np.integer]) -> tuple[NDArray[np.int32], Positions]:
    """Trace the faces of the network, each once, anticlockwise."""
    n = len(positions)
    start = np.concatenate([bonds[:, 0], bonds[:, 1]])
    end = np.concatenate([bonds[:, 1], bonds[:, 0]])
    vector = positions[end] - positions[start]
    order = np.lexsort([np.arctan2(vector[:, 1], vector[:, 0]), start])
    start, end = start[order], end[order]
    first = np.searchsorted(start, np.arange(n + 1))
    # The reverse of each half-edge: the same two atoms, the other way.
    keys = start.astype(np.int64) * n + end
    by_key = np.argsort(keys)
    reverse = by_key[np.searchsorted(keys[by_key], end.astype(np.int64) * n + start)]
    faces = np.zeros((len(start) + 1, LARGEST_RING), np.int64)
    sizes = np.zeros(len(start) + 1, np.int32)
    n_faces = _trace(start, end, first, reverse, faces, sizes)
    size, faces = sizes[:n_faces], faces[:n_faces]
    centre, area = np.zeros((n_faces, 2)), np.zeros(n_faces)
    for k in range(3, LARGEST_RING + 1):
        corners = positions[faces[size == k, :k]]
        centre[size == k] = corners.mean(axis=1)
        following = np.roll(corners, -1, axis=1)
        cross = corners[..., 0] * following[..., 1] - corners[..., 1] * following[..., 0]
        area[size == k] = cross.sum(axis=1) / 2
    # Faces are traced with their inside on one hand; the outside has the other sign.
    kept = area < 0
    return size[kept], centre[kept]


@compiled
def _trace(
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    first: NDArray[np.int64],
    reverse: NDArray[np.int64],
    faces: NDArray[np.int64],
    sizes: NDArray[np.int32],
) -> int:
    done = np.zeros(start.size, np.bool_)
    n_faces = 0
    for begin in range(start.size):
        if done[begin]:
            continue
        edge, size = begin, 0
        while not done[edge]:
            done[edge] = True
            if size < faces.shape[1]:
                faces[n_faces, size] = start[edge]
            size += 1
            # At its end, take the next bond in turn after the one that we came by.
            back, atom = reverse[edge], end[edge]
            edge = back + 1
            if edge == first[atom + 1]:
                edge = first[atom]
        if 3 <= size <= faces.shape[1] and edge == begin:
            sizes[n_faces] = size
            n_faces += 1
    return n_faces
