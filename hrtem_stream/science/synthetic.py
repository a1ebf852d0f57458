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

from hrtem_stream.science.synthetic_specimen import (
    EDGE_LEVEL,
    NM_PER_LEVEL,
    Bytes,
    Float,
    draw_lattice,
    draw_texture,
    make_scenes,
)

GRAPHENE: Final = 0
AMORPHOUS: Final = 1
VACUUM: Final = 2
BEAM_OFF: Final = 3

FIELD_OF_VIEW_NM: Final = 11.5
"""Of the shorter side: reduced to 256 pixels, the lattice rows are 4.7 pixels apart."""
FRAMES_PER_FIELD: Final = 5
MAX_COUNTS_PER_ELECTRON: Final = 8.0

_FULL_SCALE: Final = 30_000
"""Counts where the beam is brightest, at most: the gain is lowered where pixels are large."""
_LAYER_SPACING_NM: Final = 0.34
_MAX_MAP_SIDE: Final = 640
_DISTANCE_NM: Final = (np.arange(256, dtype=np.float32) - EDGE_LEVEL) * np.float32(NM_PER_LEVEL)


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
        electrons = dose_e_per_nm2 * self.pixel_size_nm**2
        self.counts_per_electron = min(MAX_COUNTS_PER_ELECTRON, _FULL_SCALE / electrons)
        self._seed = seed
        self._margin = min(shape) // 4
        side = max(shape) + self._margin
        self._step = -(-side // _MAX_MAP_SIDE)
        rng = np.random.default_rng([seed, 0])
        canvas = (shape[0] + self._margin, shape[1] + self._margin)
        self._lattice = draw_lattice(canvas, pixel_size_nm=self.pixel_size_nm, rng=rng)
        self._texture = draw_texture(canvas, pixel_size_nm=self.pixel_size_nm, rng=rng)
        self._noise = rng.standard_normal(canvas, dtype=np.float32)
        maps = (-(-canvas[0] // self._step) + 1, -(-canvas[1] // self._step) + 1)
        self._scenes = make_scenes(maps, pixel_size_nm=self.pixel_size_nm * self._step, rng=rng)
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
        counts *= np.float32(flips[2] * self.counts_per_electron)
        intensity *= np.float32(self.counts_per_electron)
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
    is_hole = (holes > EDGE_LEVEL) & ~is_island
    return changed, np.where(is_hole, np.uint8(VACUUM), labels)
