"""A simulated camera above a simulated specimen, fast, with the truth of what covers each pixel.

It is made to demonstrate and to load the pipeline; it draws what HRTEM frames look like and does
not compute how they come about. The frames of a series show fields of view of one large specimen
which is made once: a graphene lattice with grain boundaries, an amorphous texture, and scenes of
contaminant islands and vacuum holes as maps of the distance to their edges. A frame takes windows
of these, joins them by tables over the distance, and adds illumination, shot noise and hot pixels.

Lengths are in nm, contrast is relative to the illumination, intensity is in electrons per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]

GRAPHENE: Final = 0
AMORPHOUS: Final = 1
VACUUM: Final = 2
BEAM_OFF: Final = 3

FIELD_OF_VIEW_NM: Final = 11.5
"""Of the shorter side: reduced to 256 pixels, the lattice rows are 4.7 pixels apart."""
FRAMES_PER_FIELD: Final = 5
COUNTS_PER_ELECTRON: Final = 8.0

_ROW_SPACING_NM: Final = 0.2131
"""Of the {100} rows, for a lattice constant of 0.2461 nm."""
_LAYER_SPACING_NM: Final = 0.34
_N_SCENES: Final = 24
_MAX_MAP_SIDE: Final = 640
_NM_PER_LEVEL: Final = 6.0 / 255
_EDGE_LEVEL: Final = 64
"""Distances lie in 256 levels, from 1.5 nm outside an edge to 4.5 nm inside."""
_DISTANCE_NM: Final = (np.arange(256, dtype=np.float32) - _EDGE_LEVEL) * np.float32(_NM_PER_LEVEL)


class SyntheticFrame(NamedTuple):
    """A frame and what is on it."""

    pixels: NDArray[np.uint16]
    """(M, N) detector counts."""
    labels: Bytes
    """(M, N): 0 graphene, 1 amorphous, 2 vacuum, 3 beam off."""


class SyntheticSeries:
    """Frames that depend on the seed and their index alone, in any order."""

    def __init__(self, *, shape: tuple[int, int], seed: int, dose_e_per_nm2: float = 5e5) -> None:
        """Make the specimen.

        Parameters
        ----------
        shape
            (M, N) of the frames, each side from 64 to 16384.
        seed
            Seed of everything random, 0 or above.
        dose_e_per_nm2
            Electrons per area where the illumination is brightest.

        Raises
        ------
        ValueError
            When one of them is out of range.
        """
        if not all(64 <= side <= 16384 for side in shape):
            raise ValueError(f"sides must be 64 to 16384, got {shape}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or above, got {seed}")
        if not 0 < dose_e_per_nm2 < 1e9:
            raise ValueError(f"dose must be above 0 and below 1e9 e/nm2, got {dose_e_per_nm2}")
        self.shape = shape
        self.pixel_size_nm = FIELD_OF_VIEW_NM / min(shape)
        self.dose_e_per_nm2 = dose_e_per_nm2
        self._seed = seed
        self._margin = min(shape) // 4
        side = max(shape) + self._margin
        self._step = -(-side // _MAX_MAP_SIDE)
        rng = np.random.default_rng([seed, 0])
        canvas = (shape[0] + self._margin, shape[1] + self._margin)
        self._lattice = _lattice(canvas, pixel_size_nm=self.pixel_size_nm, rng=rng)
        self._texture = _texture(canvas, pixel_size_nm=self.pixel_size_nm, rng=rng)
        self._noise = rng.standard_normal(canvas, dtype=np.float32)
        maps = (-(-canvas[0] // self._step) + 1, -(-canvas[1] // self._step) + 1)
        self._scenes = _scenes(maps, pixel_size_nm=self.pixel_size_nm * self._step, rng=rng)
        self._hot = rng.integers(0, shape[0] * shape[1], max(2, shape[0] * shape[1] // 50_000))
        self._hot_counts = rng.integers(0, 60_000, self._hot.size).astype(np.uint16)
        self._quadrants = rng.normal(1, 0.004, (2, 2)).astype(np.float32)

    def frame(self, index: int) -> SyntheticFrame:
        """Make the frame with this index, from 0 upwards."""
        field, step = divmod(index, FRAMES_PER_FIELD)
        view = _view(np.random.default_rng([self._seed, 1, field]), n_scenes=len(self._scenes))
        rng = np.random.default_rng([self._seed, 2, index])
        scene = self._scenes[view.scene]
        drift = view.drift * step + rng.normal(0, 0.004, 2)
        islands = self._enlarged(scene.islands, view, drift=drift)
        # The beam etches the contaminant: its edge moves inwards from frame to frame.
        edge_nm = view.etching_nm * step
        contrast, labels = self._contrast(islands, view, drift=drift, edge_nm=edge_nm)
        if scene.holes is not None:
            holes = self._enlarged(scene.holes, view, drift=drift)
            contrast, labels = _with_holes(contrast, labels, holes, view=view)
        intensity = self._illumination(view, labels)
        contrast += 1
        intensity *= contrast
        return SyntheticFrame(self._exposed(intensity, rng), labels)

    def _contrast(
        self, islands: Bytes, view: _View, *, drift: NDArray[np.float64], edge_nm: float
    ) -> tuple[Float, Bytes]:
        """Join lattice and contaminant, weighted by the distance to the edge between them."""
        tables = _tables(view, edge_nm=edge_nm)
        contrast: Float = cv2.LUT(islands, tables.lattice)
        contrast *= self._window(self._lattice, view, drift=drift)
        amorphous: Float = cv2.LUT(islands, tables.texture)
        amorphous *= self._window(self._texture, view, drift=drift)
        contrast += amorphous
        contrast += cv2.LUT(islands, tables.rim)
        labels: Bytes = cv2.LUT(islands, tables.labels)
        return contrast, labels

    def _window(self, canvas: Float, view: _View, *, drift: NDArray[np.float64]) -> Float:
        """Cut the part of a canvas that the field of view shows."""
        top, left = self._corner(view, drift)
        window = canvas[top : top + self.shape[0], left : left + self.shape[1]]
        return window[:: view.flips[0], :: view.flips[1]]

    def _enlarged(self, levels: Bytes, view: _View, *, drift: NDArray[np.float64]) -> Bytes:
        """Cut the same part of a map of distances, and bring it to the size of the frame."""
        top, left = (c // self._step for c in self._corner(view, drift))
        M, N = (-(-side // self._step) for side in self.shape)
        window = levels[top : top + M, left : left + N][:: view.flips[0], :: view.flips[1]]
        enlarged: Bytes = cv2.resize(
            np.ascontiguousarray(window), self.shape[::-1], interpolation=cv2.INTER_LINEAR
        )
        return enlarged

    def _corner(self, view: _View, drift: NDArray[np.float64]) -> tuple[int, int]:
        top, left = np.clip(view.place + drift, 0, 1) * self._margin
        return int(top), int(left)

    def _illumination(self, view: _View, labels: Bytes) -> Float:
        """Return the electrons per pixel, and write into `labels` where the beam does not reach."""
        M, N = self.shape
        rows = np.linspace(-0.5, 0.5, 128, dtype=np.float32)[:, None] * (M / min(M, N))
        columns = np.linspace(-0.5, 0.5, 128, dtype=np.float32) * (N / min(M, N))
        r2 = (rows - view.beam_centre[0]) ** 2 * view.beam_stretch
        r2 = r2 + (columns - view.beam_centre[1]) ** 2 / view.beam_stretch
        electrons = self.dose_e_per_nm2 * self.pixel_size_nm**2 * view.brightness
        coarse = (electrons * np.exp(-r2 * view.fall_off)).astype(np.float32)
        intensity: Float = cv2.resize(coarse, (N, M), interpolation=cv2.INTER_LINEAR)
        for i, rows_half in enumerate((slice(0, M // 2), slice(M // 2, M))):
            for j, columns_half in enumerate((slice(0, N // 2), slice(N // 2, N))):
                intensity[rows_half, columns_half] *= self._quadrants[i, j]
        if view.aperture_radius > 0:
            inside_px = (view.aperture_radius - np.sqrt(r2)) * min(M, N)
            inside: Float = cv2.resize(inside_px.astype(np.float32), (N, M))
            labels[inside < 0] = BEAM_OFF
            edge_px = 0.05 / self.pixel_size_nm
            intensity *= np.clip(inside * np.float32(0.5 / edge_px) + np.float32(0.5), 2e-3, 1)
        return intensity

    def _exposed(self, intensity: Float, rng: np.random.Generator) -> NDArray[np.uint16]:
        """Count the electrons: shot noise in the normal limit, gain, hot and dead pixels."""
        top, left = rng.integers(0, self._margin + 1, 2)
        noise = self._noise[top : top + self.shape[0], left : left + self.shape[1]]
        flips = rng.choice((-1, 1), 3)
        np.maximum(intensity, 0, out=intensity)
        counts: Float = cv2.sqrt(intensity)
        counts *= noise[:: flips[0], :: flips[1]]
        counts *= np.float32(flips[2] * COUNTS_PER_ELECTRON)
        intensity *= np.float32(COUNTS_PER_ELECTRON)
        counts += intensity
        counts += np.float32(0.5)
        np.clip(counts, 0, 65535, out=counts)
        pixels = counts.astype(np.uint16)
        pixels.reshape(-1)[self._hot] = self._hot_counts
        return pixels


@dataclass(frozen=True, slots=True)
class _View:
    """What differs from one field of view to the next."""

    scene: int
    place: NDArray[np.float64]
    drift: NDArray[np.float64]
    """Per frame; both in units of the margin."""
    flips: tuple[int, int]
    sign: float
    lattice_contrast: float
    texture_contrast: float
    darkening: float
    rim_contrast: float
    etching_nm: float
    brightness: float
    fall_off: float
    beam_centre: NDArray[np.float64]
    beam_stretch: float
    aperture_radius: float
    """In units of the shorter side; 0: the beam is wider than the frame."""


class _Scene(NamedTuple):
    islands: Bytes
    holes: Bytes | None


class _Tables(NamedTuple):
    lattice: Float
    texture: Float
    rim: Float
    labels: Bytes


def _view(rng: np.random.Generator, *, n_scenes: int) -> _View:
    lattice_contrast = rng.uniform(0.045, 0.08)
    has_aperture = rng.random() < 0.15
    return _View(
        scene=int(rng.integers(n_scenes)),
        place=rng.uniform(0.1, 0.9, 2),
        drift=rng.normal(0, 0.02, 2),
        flips=(int(rng.choice((-1, 1))), int(rng.choice((-1, 1)))),
        sign=float(rng.choice((-1, 1))),
        lattice_contrast=lattice_contrast,
        texture_contrast=lattice_contrast * rng.uniform(1.3, 2.4),
        darkening=rng.uniform(0.0, 0.06),
        rim_contrast=lattice_contrast * rng.uniform(1.5, 3.0),
        etching_nm=rng.uniform(0.02, 0.15),
        brightness=rng.uniform(0.7, 1.0),
        fall_off=rng.uniform(0.5, 2.2),
        beam_centre=rng.normal(0, 0.18, 2),
        beam_stretch=rng.uniform(0.8, 1.25),
        aperture_radius=rng.uniform(0.55, 0.7) if has_aperture else 0.0,
    )


def _tables(view: _View, *, edge_nm: float) -> _Tables:
    """Return the weights of everything at each level of distance to the edge of an island."""
    d = _DISTANCE_NM - np.float32(edge_nm)
    inside = (d > 0).astype(np.float32)
    cover = np.clip(d / 0.1 + 0.5, 0, 1)
    # Fresnel fringes outside; graphitic layers along the edge inside.
    outer = np.exp(-np.abs(d) / 0.12) * np.cos(2 * np.pi * np.abs(d) / 0.30) * (1 - inside)
    layers = np.exp(-np.abs(d) / 0.5) * np.cos(2 * np.pi * d / _LAYER_SPACING_NM) * inside
    rim = view.sign * view.rim_contrast * (0.5 * outer + layers) - view.darkening * cover
    return _Tables(
        (view.sign * view.lattice_contrast * (1 - 0.55 * cover)).astype(np.float32),
        (view.texture_contrast * cover).astype(np.float32),
        rim.astype(np.float32),
        np.where(d > 0, AMORPHOUS, GRAPHENE).astype(np.uint8),
    )


def _with_holes(
    contrast: Float, labels: Bytes, holes: Bytes, *, view: _View
) -> tuple[Float, Bytes]:
    """Take the lattice away where there is a hole, with a bright or dark rim; islands stay."""
    present = np.clip(0.5 - _DISTANCE_NM / 0.06, 0, 1).astype(np.float32)
    fringe = np.exp(-np.abs(_DISTANCE_NM) / 0.1) * np.cos(2 * np.pi * _DISTANCE_NM / 0.35)
    rim = (view.sign * 1.5 * view.lattice_contrast * fringe).astype(np.float32)
    changed: Float = contrast * cv2.LUT(holes, present)
    changed += cv2.LUT(holes, rim)
    is_island = labels == AMORPHOUS
    np.copyto(changed, contrast, where=is_island)
    is_hole = (holes > _EDGE_LEVEL) & ~is_island
    return changed, np.where(is_hole, np.uint8(VACUUM), labels)


def _lattice(shape: tuple[int, int], *, pixel_size_nm: float, rng: np.random.Generator) -> Float:
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


def _texture(shape: tuple[int, int], *, pixel_size_nm: float, rng: np.random.Generator) -> Float:
    """Draw amorphous carbon: worms and grains coarser than the lattice, of uneven thickness."""
    worms = _ring_field(shape, pixel_size_nm=pixel_size_nm, period_nm=0.37, rng=rng)
    grains = _ring_field(shape, pixel_size_nm=pixel_size_nm, period_nm=0.28, rng=rng)
    thickness = _smooth_field(shape, pixel_size_nm=pixel_size_nm, length_nm=0.6, rng=rng)
    texture = (np.tanh(1.5 * worms) + np.float32(0.5) * grains) * np.exp(0.3 * thickness)
    texture /= texture.std()
    return _blurred(texture)


def _scenes(
    shape: tuple[int, int], *, pixel_size_nm: float, rng: np.random.Generator
) -> list[_Scene]:
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
        scenes.append(_Scene(islands, holes))
    return scenes


def _levels(height: Float, *, part: float, pixel_size_nm: float) -> Bytes:
    """Return the distance to the edge of the highest `part` of a map, in levels."""
    if part <= 0:
        return np.zeros(height.shape, np.uint8)
    is_inside = (height > np.quantile(height, 1 - part)).astype(np.uint8)
    inwards = cv2.distanceTransform(is_inside, cv2.DIST_L2, cv2.DIST_MASK_5)
    outwards = cv2.distanceTransform(1 - is_inside, cv2.DIST_L2, cv2.DIST_MASK_5)
    distance_px = cv2.GaussianBlur(inwards - outwards, (0, 0), 1.0)
    levels = distance_px * (pixel_size_nm / _NM_PER_LEVEL) + _EDGE_LEVEL
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
