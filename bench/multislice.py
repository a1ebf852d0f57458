"""Labelled frames by another simulation, to test networks on what their training never drew from.

Nothing here is taken from `hrtem_stream.science`: another scattering factor (Kirkland), atoms that
keep their distance in 0.25 nm slices, defocus counted from the graphene, other shapes, another
detector. Lengths in nm, angles in radian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

WORKING_SIZE = 256
DETECTOR_PER_WORKING = 2
MARGIN = 64
SLICE_NM = 0.25
DENSITY_PER_NM3 = 100.0
WAVELENGTH_NM = 0.0041757
"""Of electrons at 80 kV."""
RELATIVISTIC = 1.15656
# Kirkland (2010), carbon: f(q) = sum a / (q² + b) + c exp(-d q²), q in 1/Å, f in Å.
LORENTZIANS = ((0.212080767, 0.208605417), (0.199811865, 0.208610186), (0.168254385, 5.57870773))
GAUSSIANS = ((0.142048360, 1.33311887), (0.363830672, 3.80800263), (0.000835012044, 0.0403982620))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A raw frame with its labels, all but the pixels in working pixels."""

    pixels: NDArray[np.uint16]
    amorphous: Mask
    beam_off: Mask
    coverage: str
    """none, full or partial."""
    defocus_nm: float
    thickness_nm: float
    dose_e_per_nm2: float

    @property
    def hard(self) -> bool:
        """Is the lattice or the contaminant hardly seen?"""
        return abs(self.defocus_nm) < 4 or self.thickness_nm < 1 or self.dose_e_per_nm2 < 3e5


def draw(seed: int) -> Frame:
    """Draw a frame; the same seed gives the same one."""
    rng = np.random.default_rng((20_260, seed))
    size = WORKING_SIZE * DETECTOR_PER_WORKING
    grid = size + 2 * MARGIN
    pixel = float(np.exp(rng.uniform(np.log(0.028), np.log(0.075)))) / DETECTOR_PER_WORKING
    coverage = str(rng.choice(("none", "full", "partial"), p=(0.2, 0.2, 0.6)))
    thickness = float(np.exp(rng.uniform(np.log(0.8 if coverage == "full" else 0.5), np.log(5))))
    defocus = float(rng.uniform(1.5, 28) if rng.random() < 0.5 else rng.uniform(1.5, 9.5))
    defocus *= float(rng.choice((-1, 1)))
    dose = float(np.exp(rng.uniform(np.log(7e4), np.log(2e6))))
    cover = _cover(grid, coverage, rng)
    height = _height(cover, thickness, pixel, rng)
    hole = _bumps(grid, 3, rng) > 1.6 if rng.random() < 0.15 else np.zeros_like(cover)
    height[hole] = 0.0
    graphene = _graphene(grid, pixel, rng)
    graphene = graphene[~hole[tuple((graphene / pixel).astype(int).T)]]
    wave = _scattered(graphene, height, pixel, rng)
    image = _image(wave, defocus, pixel, rng)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    light = _light(size, rng)
    blocks = (WORKING_SIZE, DETECTOR_PER_WORKING, WORKING_SIZE, DETECTOR_PER_WORKING)
    inner = (height > 0)[MARGIN:-MARGIN, MARGIN:-MARGIN].reshape(blocks).mean(axis=(1, 3)) >= 0.5
    return Frame(
        pixels=_counts(image * light * (dose * pixel**2), rng),
        amorphous=inner,
        beam_off=light.reshape(blocks).mean(axis=(1, 3)) < 0.05 * light.max(),
        coverage=coverage,
        defocus_nm=defocus,
        thickness_nm=thickness,
        dose_e_per_nm2=dose,
    )


def _bumps(n: int, n_bumps: int, rng: np.random.Generator) -> Float:
    """Return the sum of round bumps: above a level, drops that run into each other."""
    axis = np.linspace(0, 1, n, dtype=np.float32)
    total = np.zeros((n, n), np.float32)
    for _ in range(n_bumps):
        row, column = rng.uniform(-0.1, 1.1, 2)
        width = np.float32(np.exp(rng.uniform(np.log(0.03), np.log(0.35))))
        rows = np.exp(-(((axis - row) / width) ** 2))
        columns = np.exp(-(((axis - column) / width) ** 2))
        total += np.float32(rng.uniform(0.8, 2.5)) * np.outer(rows, columns)
    return total


def _cover(n: int, coverage: str, rng: np.random.Generator) -> Mask:
    if coverage == "none":
        return np.zeros((n, n), np.bool_)
    if coverage == "full":
        return np.ones((n, n), np.bool_)
    drops = _bumps(n, int(rng.integers(2, 14)), rng)
    edge = ndimage.zoom(rng.standard_normal((24, 24)), n / 24, order=3)[:n, :n]
    return np.asarray(drops + 0.1 * edge > 0.6, np.bool_)


def _height(cover: Mask, mean_nm: float, pixel: float, rng: np.random.Generator) -> Float:
    """Return domes: steep at the edge, flat within."""
    depth = ndimage.distance_transform_edt(cover) * pixel if not cover.all() else 99.0
    dome = cover * (1 - 0.7 * np.exp(-depth / rng.uniform(0.2, 1.0)))
    wave = ndimage.zoom(rng.standard_normal((9, 9)), cover.shape[0] / 9, order=3)
    dome = dome * np.exp(0.25 * wave[: cover.shape[0], : cover.shape[1]])
    inside = dome[cover].mean() if cover.any() else 1.0
    return np.asarray(dome * mean_nm / inside, np.float32)


def _graphene(n: int, pixel: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return places of atoms: one lattice, or two that meet unrelaxed at a line."""
    field = n * pixel
    reach = int(field / 0.246) + 4
    u, v = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    cells = 0.246 * np.stack([u + 0.5 * v, 0.75**0.5 * v], axis=1)
    sites = np.concatenate([cells, cells + np.array([0.0, 0.246 / 3**0.5])])
    heading, place = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.75, 2) * field
    two = rng.random() < 0.35
    parts = []
    for side in (1, -1) if two else (0,):
        turn = rng.uniform(0, 2 * np.pi)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        atoms = sites @ matrix + field / 2 + rng.uniform(0, 0.246, 2)
        across = (atoms - place) @ np.array([np.cos(heading), np.sin(heading)])
        parts.append(atoms[side * across >= 0.04 * abs(side)])
    atoms = np.concatenate(parts) + rng.normal(0, 0.006, (sum(map(len, parts)), 2))
    return atoms[((atoms >= 0) & (atoms < field)).all(axis=1)]


def _scattered(
    graphene: NDArray[np.float64], height: Float, pixel: float, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Return the exit wave's transform, propagated back to the plane of the graphene."""
    n = height.shape[0]
    g = scipy.fft.fftfreq(n, pixel)
    g2 = (g[:, None] ** 2 + g[None, :] ** 2).astype(np.float32)
    band = g2 < (2 / 3 * np.abs(g).max()) ** 2
    q2 = g2 / 100  # 1/Å²
    factor = sum(a / (q2 + b) for a, b in LORENTZIANS) + sum(
        c * np.exp(-d * q2) for c, d in GAUSSIANS
    )
    kernel = (RELATIVISTIC * WAVELENGTH_NM * 0.1 / pixel**2 * factor * band).astype(np.complex64)
    step = (np.exp(-1j * np.pi * WAVELENGTH_NM * SLICE_NM * g2) * band).astype(np.complex64)
    below = rng.random() < 0.5
    slices = [_drawn(graphene, n, pixel)]
    slices += [_drawn(atoms, n, pixel) for atoms in _amorphous(height, pixel, rng)]
    if below:
        slices.reverse()
    wave = np.zeros((n, n), np.complex64)
    wave[0, 0] = n * n
    for number, atoms in enumerate(slices):
        phase = scipy.fft.ifft2(scipy.fft.fft2(atoms) * kernel).real
        wave = scipy.fft.fft2(scipy.fft.ifft2(wave) * np.exp(1j * phase)).astype(np.complex64)
        wave *= step if number < len(slices) - 1 else 1
    back = 0.0 if below else -SLICE_NM * (len(slices) - 1)
    return np.asarray(wave * np.exp(-1j * np.pi * WAVELENGTH_NM * back * g2), np.complex64)


def _amorphous(height: Float, pixel: float, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Return places of atoms in each slice: square nets, shaken and turned, so none are close."""
    n, field = height.shape[0], height.shape[0] * pixel
    n_slices = int(np.ceil(height.max() / SLICE_NM)) if height.any() else 0
    found = []
    for number in range(n_slices):
        step = (DENSITY_PER_NM3 * SLICE_NM) ** -0.5
        count = int(field * 1.5 / step)
        rows, columns = np.mgrid[:count, :count].reshape(2, -1) * step - 0.25 * field
        places = np.stack([rows, columns], axis=1) + rng.uniform(-0.4, 0.4, (len(rows), 2)) * step
        turn = rng.uniform(0, np.pi)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        places = (places - field / 2) @ matrix + field / 2
        places = places[((places >= 0) & (places < field)).all(axis=1)]
        pixels = np.minimum((places / pixel).astype(int), n - 1)
        filled = np.clip(height[pixels[:, 0], pixels[:, 1]] / SLICE_NM - number, 0, 1)
        found.append(places[rng.random(len(places)) < filled])
    return found


def _drawn(atoms: NDArray[np.float64], n: int, pixel: float) -> Float:
    """Return atoms as points on the grid; grids are finer than anything that is resolved."""
    index = np.minimum((atoms / pixel).astype(int), n - 1)
    return np.bincount(index[:, 0] * n + index[:, 1], minlength=n * n).reshape(n, n).astype("f4")


def _image(
    wave: NDArray[np.complex64], defocus: float, pixel: float, rng: np.random.Generator
) -> Float:
    g = scipy.fft.fftfreq(wave.shape[0], pixel).astype(np.float32)
    rows, columns = g[:, None], g[None, :]
    g2 = rows**2 + columns**2
    spherical, spread = rng.normal(0, 6e3), rng.uniform(1.0, 4.0)
    twofold, turn = rng.exponential(1.0), rng.uniform(0, np.pi)
    astigmatism = twofold * (
        np.cos(2 * turn) * (rows**2 - columns**2) + 2 * np.sin(2 * turn) * rows * columns
    )
    fixed = 0.5 * spherical * WAVELENGTH_NM**2 * g2**2 + astigmatism
    image = np.zeros(wave.shape, np.float32)
    shifts = np.linspace(-2, 2, 5)
    weights = np.exp(-0.5 * shifts**2)
    for shift, weight in zip(shifts, weights / weights.sum(), strict=True):
        chi = np.pi * WAVELENGTH_NM * ((defocus + spread * shift) * g2 + fixed)
        lens = np.exp(-1j * chi - 0.5 * (np.pi * 0.02) ** 2 * g2).astype(np.complex64)
        image += np.float32(weight) * np.abs(scipy.fft.ifft2(wave * lens)) ** 2
    return image


def _light(n: int, rng: np.random.Generator) -> Float:
    """Return a tilted, bent illumination, in one frame of ten with the beam's edge."""
    axis = np.linspace(-1, 1, n)
    rows, columns = axis[:, None], axis[None, :]
    slope, bend = rng.normal(0, 0.35, 2), rng.uniform(0, 0.5, 2)
    light = np.exp(slope[0] * rows + slope[1] * columns - bend[0] * rows**2 - bend[1] * columns**2)
    if rng.random() < 0.1:
        turn = rng.uniform(0, 2 * np.pi)
        across = rows * np.sin(turn) + columns * np.cos(turn)
        light = light * 0.5 * (1 - np.tanh((across - rng.uniform(0.2, 0.9)) / 0.03))
    return np.asarray(light / light.max(), np.float32)


def _counts(electrons: Float, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Blur as a scintillator does, count, amplify."""
    electrons = np.pad(electrons, MARGIN, "reflect")
    g = scipy.fft.fftfreq(electrons.shape[0])
    transfer = 1 / (1 + (g[:, None] ** 2 + g[None, :] ** 2) / rng.uniform(0.15, 0.5) ** 2)
    blurred = scipy.fft.ifft2(scipy.fft.fft2(electrons) * transfer).real
    blurred = blurred[MARGIN:-MARGIN, MARGIN:-MARGIN]
    counts = rng.poisson(np.maximum(blurred, 0)) * rng.uniform(1, 12)
    counts = counts + rng.normal(20, 2, counts.shape)
    hot = rng.random(counts.shape) < 5e-5
    counts[hot] += 20 * counts.mean()
    return np.asarray(np.clip(np.rint(counts), 0, 65535), np.uint16)
