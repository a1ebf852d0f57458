"""A specimen to be looked at by `synthetic`: canvases and maps larger than a frame.

The lattice and the amorphous texture are canvases of contrast with deviation 1, in the pixels of
the frame. A scene maps, on a coarser grid, how far each place is from the edge of an island or a
hole. Lengths are in nm.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]

NM_PER_LEVEL: Final = 6.0 / 255
EDGE_LEVEL: Final = 64
"""Distances lie in 256 levels, from 1.5 nm outside an edge to 4.5 nm inside."""

_ROW_SPACING_NM: Final = 0.2131
"""Of the {100} rows, for a lattice constant of 0.2461 nm."""
_N_SCENES: Final = 24


class Scene(NamedTuple):
    """Distances to the edges of islands, and of holes where there are any, in levels."""

    islands: Bytes
    holes: Bytes | None


def draw_lattice(
    shape: tuple[int, int], *, pixel_size_nm: float, rng: np.random.Generator
) -> Float:
    """Draw graphene of one to four grains with mean 0 and deviation 1."""
    rows = (np.arange(shape[0], dtype=np.float32) * np.float32(pixel_size_nm))[:, None]
    columns = np.arange(shape[1], dtype=np.float32) * np.float32(pixel_size_nm)
    extent = np.array(shape) * pixel_size_nm
    wave = _smooth_field(shape, pixel_size_nm=pixel_size_nm, length_nm=0.8, rng=rng)
    drawn = np.zeros(shape, np.float32)
    nearest = np.full(shape, np.inf, np.float32)
    gap = np.full(shape, np.inf, np.float32)
    amplitudes = rng.uniform(0.75, 1.25, 3)
    for _ in range(int(rng.integers(2, 5))):
        centre = rng.uniform(0, 1, 2) * extent
        distance = np.hypot(rows - np.float32(centre[0]), columns - np.float32(centre[1]))
        distance += np.float32(0.15) * wave
        grain = _honeycomb(rows, columns, amplitudes=amplitudes, rng=rng)
        gap = np.minimum(np.abs(distance - nearest), np.where(distance < nearest, np.inf, gap))
        np.copyto(drawn, grain, where=distance < nearest)
        np.minimum(nearest, distance, out=nearest)
    drawn *= 1 - np.float32(0.4) * np.exp(-((gap / np.float32(0.25)) ** 2))
    drawn /= drawn.std()
    for centre in _adatoms(extent, rng=rng):
        _add_dot(drawn, centre / pixel_size_nm, radius_px=0.07 / pixel_size_nm)
    return _blurred(drawn)


def _honeycomb(
    rows: Float, columns: Float, *, amplitudes: NDArray[np.float64], rng: np.random.Generator
) -> Float:
    """Sum the first two orders of reflections; atoms are bright."""
    turn = rng.uniform(0, np.pi / 3)
    shift = rng.uniform(0, 1, 2)
    wave = np.zeros(np.broadcast_shapes(rows.shape, columns.shape), np.float32)
    for order, weight in ((1.0, -1.0), (np.sqrt(3), 0.35)):
        for k in range(3):
            angle = turn + k * np.pi / 3 + (0 if order == 1 else np.pi / 6)
            g = order / _ROW_SPACING_NM * np.array([np.sin(angle), np.cos(angle)])
            along_rows = (2 * np.pi * g[0] * (rows - shift[0])).astype(np.float32)
            along_columns = (2 * np.pi * g[1] * (columns - shift[1])).astype(np.float32)
            # cos(a + b), so that only two short vectors need a cosine.
            term = np.cos(along_rows) * np.cos(along_columns)
            term -= np.sin(along_rows) * np.sin(along_columns)
            wave += np.float32(weight * amplitudes[k]) * term
    return wave


def _adatoms(extent: NDArray[np.float64], *, rng: np.random.Generator) -> NDArray[np.float64]:
    """Place a few strings of single atoms, which are no contaminant to anybody."""
    strings = []
    for _ in range(5):
        steps = rng.normal(0, 0.25, (int(rng.integers(1, 7)), 2))
        strings.append(rng.uniform(0, 1, 2) * extent + np.cumsum(steps, axis=0))
    return np.concatenate(strings)


def _add_dot(canvas: Float, centre: NDArray[np.float64], *, radius_px: float) -> None:
    reach = int(np.ceil(3 * radius_px))
    top, left = (max(0, int(c) - reach) for c in centre)
    window = canvas[top : int(centre[0]) + reach + 1, left : int(centre[1]) + reach + 1]
    if window.size:
        rows = np.arange(window.shape[0])[:, None] + top - centre[0]
        columns = np.arange(window.shape[1]) + left - centre[1]
        window += (2.5 * np.exp(-(rows**2 + columns**2) / (2 * radius_px**2))).astype(np.float32)


def draw_texture(
    shape: tuple[int, int], *, pixel_size_nm: float, rng: np.random.Generator
) -> Float:
    """Draw amorphous carbon: worms and grains coarser than the lattice, of uneven thickness."""
    worms = _ring_field(shape, pixel_size_nm=pixel_size_nm, period_nm=0.37, rng=rng)
    grains = _ring_field(shape, pixel_size_nm=pixel_size_nm, period_nm=0.28, rng=rng)
    thickness = _smooth_field(shape, pixel_size_nm=pixel_size_nm, length_nm=0.6, rng=rng)
    texture = (np.tanh(1.5 * worms) + np.float32(0.5) * grains) * np.exp(0.3 * thickness)
    texture /= texture.std()
    return _blurred(texture)


def make_scenes(
    shape: tuple[int, int], *, pixel_size_nm: float, rng: np.random.Generator
) -> list[Scene]:
    """Make maps of islands, from none to 70 % of the area, some with holes between them."""
    coverages = 0.7 * np.linspace(0, 1, _N_SCENES) ** 1.3
    coverages[:3] = 0
    scenes = []
    for coverage in coverages:
        height = np.zeros(shape, np.float32)
        for weight, length_nm in ((1.0, 1.3), (0.3, 0.45), (0.05, 0.15)):
            height += np.float32(weight) * _smooth_field(
                shape, pixel_size_nm=pixel_size_nm, length_nm=length_nm, rng=rng
            )
        holes = None
        if rng.random() < 0.3:
            round_holes = _smooth_field(shape, pixel_size_nm=pixel_size_nm, length_nm=1.2, rng=rng)
            part = float(rng.uniform(0.03, 0.15))
            holes = _levels(round_holes, part=part, pixel_size_nm=pixel_size_nm)
        islands = _levels(height, part=float(coverage), pixel_size_nm=pixel_size_nm)
        scenes.append(Scene(islands, holes))
    return scenes


def _levels(height: Float, *, part: float, pixel_size_nm: float) -> Bytes:
    """Return the distance to the edge of the highest `part` of a map, in levels."""
    if part <= 0:
        return np.zeros(height.shape, np.uint8)
    is_inside = (height > np.quantile(height, 1 - part)).astype(np.uint8)
    inwards = cv2.distanceTransform(is_inside, cv2.DIST_L2, cv2.DIST_MASK_5)
    outwards = cv2.distanceTransform(1 - is_inside, cv2.DIST_L2, cv2.DIST_MASK_5)
    distance_px = cv2.GaussianBlur(inwards - outwards, (0, 0), 1.0)
    levels = distance_px * (pixel_size_nm / NM_PER_LEVEL) + EDGE_LEVEL
    rounded: Bytes = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return rounded


def _smooth_field(
    shape: tuple[int, int], *, pixel_size_nm: float, length_nm: float, rng: np.random.Generator
) -> Float:
    """Return white noise smoothed over a length, with mean 0 and deviation 1.

    It is made on a grid of half that length and enlarged.
    """
    spacing_px = max(1.0, length_nm / 2 / pixel_size_nm)
    coarse = rng.standard_normal([int(side / spacing_px) + 16 for side in shape], dtype=np.float32)
    coarse = cv2.GaussianBlur(coarse, (0, 0), length_nm / pixel_size_nm / spacing_px)[7:-7, 7:-7]
    return _standardised(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC))


def _ring_field(
    shape: tuple[int, int], *, pixel_size_nm: float, period_nm: float, rng: np.random.Generator
) -> Float:
    """Return noise of one dominant period, with mean 0 and deviation 1.

    It is made on a grid of an eighth of that period, of a size that transforms fast, and enlarged.
    """
    spacing_px = max(1.0, period_nm / 8 / pixel_size_nm)
    rows, columns = (64 * (int(side / spacing_px) // 64 + 1) for side in shape)
    spectrum = np.fft.rfft2(rng.standard_normal((rows, columns), dtype=np.float32))
    g = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
    period_px = period_nm / pixel_size_nm / spacing_px
    spectrum *= np.exp(-0.5 * ((g * period_px - 1) / 0.22) ** 2)
    coarse = np.fft.irfft2(spectrum, s=(rows, columns)).astype(np.float32)
    coarse = coarse[: int(shape[0] / spacing_px) + 1, : int(shape[1] / spacing_px) + 1]
    return _standardised(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC))


def _standardised(field: Float) -> Float:
    centred = field - field.mean()
    return np.asarray(centred / centred.std())


def _blurred(canvas: Float) -> Float:
    """Apply the modulation transfer of the detector, which does not blur the noise."""
    blurred: Float = cv2.GaussianBlur(canvas, (0, 0), 0.6)
    return blurred
