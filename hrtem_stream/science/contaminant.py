"""Amorphous contaminant on a membrane: where it lies, how thick it is, how it is textured.

All maps are (n, n) on a periodic square grid; lengths are in nm.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

CARBON_PER_NM3 = 95.0
"""Atoms in amorphous carbon of 1.9 g/cm³."""
N_ANGLES = 2048
"""Directions in which the edge of an island is known."""


def random_field(
    n: int, *, pixel_size_nm: float, length_nm: float, rng: np.random.Generator
) -> Float:
    """Return a Gaussian random field of mean 0 and deviation 1 with a correlation length."""
    g2 = _g_squared(n, pixel_size_nm)
    spectrum = scipy.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    spectrum *= np.exp(np.float32(-((np.pi * length_nm) ** 2)) * g2)
    field: Float = scipy.fft.irfft2(spectrum, s=(n, n))
    field -= field.mean()
    return field / np.float32(max(float(field.std()), 1e-12))


def ring_field(
    n: int, *, pixel_size_nm: float, period_nm: float, rng: np.random.Generator
) -> Float:
    """Return a random field of one dominant period: worms."""
    g = np.sqrt(_g_squared(n, pixel_size_nm))
    spectrum = scipy.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    width = rng.uniform(0.12, 0.35) / period_nm
    spectrum *= np.exp(-0.5 * ((g - 1.0 / period_nm) / width) ** 2)
    field: Float = scipy.fft.irfft2(spectrum, s=(n, n))
    return field / np.float32(max(float(field.std()), 1e-12))


def blob(n: int, *, centre: tuple[float, float], radius: float, rng: np.random.Generator) -> Mask:
    """Return a disc with a scalloped, irregular edge; centre and radius in pixels."""
    rows = np.arange(n, dtype=np.float32)[:, None] - np.float32(centre[0])
    columns = np.arange(n, dtype=np.float32)[None, :] - np.float32(centre[1])
    stretch = np.exp(rng.normal(0, 0.25))
    turn = rng.uniform(0, np.pi)
    u = (np.cos(turn) * rows + np.sin(turn) * columns) * np.float32(stretch)
    v = (np.cos(turn) * columns - np.sin(turn) * rows) / np.float32(stretch)
    angles = np.linspace(-np.pi, np.pi, N_ANGLES, dtype=np.float32)
    edge = np.ones(N_ANGLES, np.float32)
    for order in range(2, 8):
        amplitude = rng.normal(0, 0.35) / order
        edge += np.float32(amplitude) * np.cos(order * angles + np.float32(rng.uniform(0, 6.28)))
    reach2 = (np.float32(radius) * np.maximum(edge, 0.15)) ** 2
    turned = np.arctan2(u, v) * np.float32((N_ANGLES - 1) / (2 * np.pi))
    inside: Mask = u**2 + v**2 < reach2[(turned + np.float32(N_ANGLES / 2)).astype(np.int32)]
    return inside


def islands(n: int, *, rng: np.random.Generator) -> Mask:
    """Return a random mask of one to five islands, each a chain of scalloped discs."""
    mask = np.zeros((n, n), np.bool_)
    for _ in range(rng.integers(1, 6)):
        radius = n * np.exp(rng.uniform(np.log(0.025), np.log(0.22)))
        place = rng.uniform(-0.05, 1.05, 2) * n
        heading = rng.uniform(0, 2 * np.pi)
        for _ in range(rng.integers(1, 6)):
            size = radius * rng.uniform(0.5, 1.2)
            mask |= blob(n, centre=(float(place[0]), float(place[1])), radius=size, rng=rng)
            heading += rng.normal(0, 0.9)
            place = place + radius * rng.uniform(0.5, 1.3) * np.array(
                [np.cos(heading), np.sin(heading)]
            )
    return mask


def patches(n: int, *, pixel_size_nm: float, rng: np.random.Generator) -> Mask:
    """Return where a random field of a random scale exceeds a random level."""
    length = n * pixel_size_nm * np.exp(rng.uniform(np.log(0.025), np.log(0.15)))
    field = random_field(n, pixel_size_nm=pixel_size_nm, length_nm=float(length), rng=rng)
    if rng.random() < 0.5:
        rough = random_field(n, pixel_size_nm=pixel_size_nm, length_nm=float(length / 4), rng=rng)
        field = field + np.float32(rng.uniform(0.05, 0.25)) * rough
    mask: Mask = field > np.quantile(field, rng.uniform(0.35, 0.97))
    return mask


def sheet(n: int, *, pixel_size_nm: float, rng: np.random.Generator) -> Mask:
    """Return one side of a wavy line."""
    turn = rng.uniform(0, 2 * np.pi)
    rows = np.arange(n, dtype=np.float32)[:, None] / n - 0.5
    columns = np.arange(n, dtype=np.float32)[None, :] / n - 0.5
    across = np.float32(np.cos(turn)) * rows + np.float32(np.sin(turn)) * columns
    wave = random_field(n, pixel_size_nm=pixel_size_nm, length_nm=0.12 * n * pixel_size_nm, rng=rng)
    mask: Mask = across + np.float32(rng.uniform(0.02, 0.09)) * wave > rng.uniform(-0.3, 0.45)
    return mask


def strands(n: int, *, pixel_size_nm: float, rng: np.random.Generator) -> Mask:
    """Return a network of winding strands, 0.6 to 3 nm wide."""
    length = n * pixel_size_nm * rng.uniform(0.06, 0.2)
    field = random_field(n, pixel_size_nm=pixel_size_nm, length_nm=float(length), rng=rng)
    width = rng.uniform(0.6, 3.0) / pixel_size_nm
    line = np.abs(field - np.float32(rng.normal(0, 0.7)))
    slope = np.hypot(*np.gradient(field)) + 1e-6
    window = random_field(n, pixel_size_nm=pixel_size_nm, length_nm=float(length), rng=rng)
    lines = (line / slope < width / 2) & (window > rng.uniform(-1.2, 0.8))
    mask: Mask = ndimage.binary_opening(lines, iterations=2)
    return mask


def thickness(
    mask: Mask, *, pixel_size_nm: float, mean_nm: float, rng: np.random.Generator
) -> Float:
    """Return the thickness in nm: a rolling plateau, a ramp at the edge, sometimes a rim."""
    n = mask.shape[0]
    depth = ndimage.distance_transform_edt(mask).astype(np.float32) * np.float32(pixel_size_nm)
    ramp = np.float32(np.exp(rng.uniform(np.log(0.05), np.log(1.0))))
    plateau = 1.0 - 0.85 * np.exp(-depth / ramp)
    length = rng.uniform(0.5, 4.0)
    roll = random_field(n, pixel_size_nm=pixel_size_nm, length_nm=float(length), rng=rng)
    height = plateau * np.exp(np.float32(rng.uniform(0.0, 0.45)) * roll)
    if rng.random() < 0.35:
        height += np.float32(rng.uniform(0.2, 1.0)) * np.exp(-((depth / (2 * ramp + 0.2)) ** 2))
    height *= mask
    inside = float(height[mask].mean()) if mask.any() else 1.0
    scaled: Float = (height * np.float32(mean_nm / inside)).astype(np.float32)
    return scaled


def texture(n: int, *, pixel_size_nm: float, rng: np.random.Generator) -> Float:
    """Return a non-negative density modulation of mean 1: even, coarse, worms or onions."""
    kind = rng.random()
    ones = np.ones((n, n), np.float32)
    if kind < 0.25:
        return ones
    if kind < 0.65:
        length = float(np.exp(rng.uniform(np.log(0.10), np.log(0.7))))
        field = random_field(n, pixel_size_nm=pixel_size_nm, length_nm=length, rng=rng)
        density = np.exp(np.float32(rng.uniform(0.15, 0.7)) * field)
    elif kind < 0.85:
        field = ring_field(
            n, pixel_size_nm=pixel_size_nm, period_nm=float(rng.uniform(0.3, 0.8)), rng=rng
        )
        density = np.maximum(1 + np.float32(rng.uniform(0.2, 0.6)) * field, 0)
    else:
        length = rng.uniform(0.6, 2.5)
        field = random_field(n, pixel_size_nm=pixel_size_nm, length_nm=float(length), rng=rng)
        layers = field * np.float32(length / rng.uniform(0.34, 0.40))
        density = 1 + np.float32(rng.uniform(0.3, 0.9)) * np.cos(2 * np.pi * layers)
    modulation: Float = (density / density.mean()).astype(np.float32)
    return modulation


def atoms_per_pixel(
    expected: Float, *, pixel_size_nm: float, order: float, rng: np.random.Generator
) -> Float:
    """Draw carbon atoms: Poisson counts, with the long waves damped as in a dense packing.

    Parameters
    ----------
    expected : (n, n) float32
        Expected atoms per pixel.
    pixel_size_nm : float
        Size of a pixel.
    order : float
        0 leaves Poisson counts, 1 removes density fluctuations longer than 0.5 nm.
    rng : numpy.random.Generator
        Source of the counts.
    """
    n = expected.shape[0]
    excess = rng.poisson(expected).astype(np.float32) - expected
    # exp(-(g/2)²): atoms keep a distance of some 0.2 nm, so S(g) falls below 2 /nm.
    damping = 1.0 - np.float32(order) * np.exp(-_g_squared(n, pixel_size_nm) / np.float32(4.0))
    drawn: Float = scipy.fft.irfft2(scipy.fft.rfft2(excess) * damping, s=(n, n))
    return drawn + expected


def _g_squared(n: int, pixel_size_nm: float) -> Float:
    rows = np.fft.fftfreq(n, pixel_size_nm).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(n, pixel_size_nm).astype(np.float32)[None, :]
    g2: Float = rows**2 + columns**2
    return g2
