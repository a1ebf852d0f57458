"""What `fast` does before its first convolution, in machine code for one image on a processor.

The same as `clip_outliers`, `lattice_residual`, padding and folding in the network, which remain
the reference: some dozen small layers whose launching and memory cost more than their arithmetic.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrtem_stream.science.compiled import compiled
from hrtem_stream.unet.fast import OUTLIER, TYPICAL
from hrtem_stream.unet.residual import EXCESS, SOFTNESS, window_and_band

Float = NDArray[np.float32]


def prepared(image: Float, *, stride: int) -> Float:
    """Return the folded channels of an image and its lattice residual.

    Parameters
    ----------
    image : (P, Q) float32
        Standardised.
    stride : int
        Even; the image is padded by reflection to a multiple of it.

    Returns
    -------
    (P' / 2, Q' / 2, 8) float32
        Four pixels of the image, then four of the residual, as `pixel_unshuffle` orders them. Not
        finite everywhere if a pixel of the image is not.
    """
    clipped = _clipped(image)
    residual = _residual(clipped)
    padding = [(0, -n % stride) for n in image.shape]
    if any(after for _, after in padding):
        clipped, residual = (np.pad(plane, padding, "reflect") for plane in (clipped, residual))
    folded = np.empty((clipped.shape[0] // 2, clipped.shape[1] // 2, 8), np.float32)
    _fold(clipped, residual, folded)
    return folded


def _clipped(image: Float) -> Float:
    """Clip and standardise as `clip_outliers` does."""
    sample = image[::4, ::4].ravel()
    sample = sample[sample != 0]
    centre = _lower_median(sample) if sample.size else 0.0
    spread = 1.4826 * _lower_median(np.abs(sample - np.float32(centre))) if sample.size else 1.0
    lit = image != 0
    n_lit = max(1, np.count_nonzero(lit))
    clipped = image - np.float32(centre)
    clipped *= np.float32(1.0 / max(spread, 1e-6))
    np.clip(clipped, -OUTLIER, OUTLIER, out=clipped)
    clipped *= lit
    clipped -= np.float32(clipped.sum() / n_lit)
    clipped *= lit
    within = np.clip(clipped, -TYPICAL, TYPICAL)
    within *= within
    clipped *= np.float32(1.0 / np.sqrt(within.sum() / n_lit + 1e-12))
    return clipped


def _lower_median(values: Float) -> float:
    """Give the lower of the two middle values of an even number, as torch does."""
    middle = (values.size - 1) // 2
    return float(np.partition(values, middle)[middle])


def _residual(image: Float) -> Float:
    """Remove the reflections as `lattice_residual` does."""
    rows, columns = image.shape
    window, allowed = (t.numpy() for t in window_and_band((rows, columns), torch.device("cpu")))
    spectrum = torch.fft.rfft2(torch.from_numpy(image * window)).numpy()
    plane = np.empty(spectrum.shape, np.float32)
    level = np.empty_like(plane)
    _power(_as_pairs(spectrum), plane)
    _average(plane, level)
    level += np.float32(1e-6)
    np.log(level, out=level)
    np.subtract(level, _surroundings(level), out=plane)
    plane -= np.float32(EXCESS)
    plane *= np.float32(-1.0 / SOFTNESS)
    np.exp(plane, out=plane)
    plane += np.float32(1.0)
    np.divide(allowed, plane, out=plane)
    _take_largest(plane, level)
    _average(level, plane)
    spectrum = torch.fft.rfft2(torch.from_numpy(image)).numpy()
    _damp(_as_pairs(spectrum), plane)
    residual: Float = torch.fft.irfft2(torch.from_numpy(spectrum), s=(rows, columns)).numpy()
    return residual


def _as_pairs(spectrum: NDArray[np.complex64]) -> Float:
    return spectrum.view(np.float32).reshape(*spectrum.shape, 2)


def _surroundings(level: Float) -> Float:
    """Average by blocks, smooth, and interpolate: all linear, so four small matrix products."""
    coarse_rows, fine_rows = _rows_matrices(level.shape[0])
    coarse_columns, fine_columns = _columns_matrices(level.shape[1], level.shape[0])
    coarse = coarse_rows @ torch.from_numpy(level) @ coarse_columns.T
    around: Float = (fine_rows @ coarse @ fine_columns.T).numpy()
    return around


@lru_cache(maxsize=8)
def _rows_matrices(n: int) -> tuple[Tensor, Tensor]:
    """Return the matrices that average blocks of the rows, and that smooth and interpolate."""
    blocks = _block_averages(n, width=max(1, n // 32))
    smooth = np.eye(len(blocks))
    smooth = (smooth + np.roll(smooth, 1, 0) + np.roll(smooth, -1, 0)) / 3.0
    return _tensor(blocks), _tensor(_interpolation(len(blocks), n) @ smooth)


@lru_cache(maxsize=8)
def _columns_matrices(n: int, n_rows: int) -> tuple[Tensor, Tensor]:
    """Return those of the columns, which end at 0 and at the Nyquist frequency."""
    blocks = _block_averages(n, width=max(1, n_rows // 32))
    padded = np.pad(np.eye(len(blocks)), ((1, 1), (0, 0)), "edge")
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3.0
    return _tensor(blocks), _tensor(_interpolation(len(blocks), n) @ smooth)


def _block_averages(n: int, *, width: int) -> NDArray[np.float64]:
    """Return the matrix (blocks, n) that averages blocks; the last may be narrower."""
    member = np.arange(n) // width == np.arange(-(-n // width))[:, None]
    return np.asarray(member / member.sum(1, keepdims=True))


def _interpolation(n_coarse: int, n: int) -> NDArray[np.float64]:
    """Return the matrix (n, n_coarse) that interpolates linearly between centres of blocks."""
    place = np.clip((np.arange(n) + 0.5) * n_coarse / n - 0.5, 0, n_coarse - 1)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(n_coarse)))


def _tensor(matrix: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix, np.float32))


@compiled
def _power(pairs: Float, out: Float) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = pairs[i, j, 0] * pairs[i, j, 0] + pairs[i, j, 1] * pairs[i, j, 1]


@compiled
def _damp(pairs: Float, notch: Float) -> None:
    for i in range(notch.shape[0]):
        for j in range(notch.shape[1]):
            kept = np.float32(1.0) - notch[i, j]
            pairs[i, j, 0] *= kept
            pairs[i, j, 1] *= kept


@compiled
def _average(plane: Float, out: Float) -> None:
    """Average 3 × 3; rows are periodic, columns end."""
    rows, columns = plane.shape
    ninth = np.float32(1.0 / 9.0)
    tall = np.empty(columns + 2, np.float32)
    for i in range(rows):
        above, here, below = plane[i - 1], plane[i], plane[(i + 1) % rows]
        for j in range(columns):
            tall[j + 1] = above[j] + here[j] + below[j]
        tall[0], tall[columns + 1] = tall[1], tall[columns]
        for j in range(columns):
            out[i, j] = (tall[j] + tall[j + 1] + tall[j + 2]) * ninth


@compiled
def _take_largest(plane: Float, out: Float) -> None:
    """Take the largest value of 5 × 5; rows and columns are periodic."""
    rows, columns = plane.shape
    tall = np.empty(columns + 4, np.float32)
    for i in range(rows):
        tall[2 : columns + 2] = plane[i]
        for step in (-2, -1, 1, 2):
            _raise(tall[2 : columns + 2], plane[(i + step) % rows])
        tall[0], tall[1] = tall[columns], tall[columns + 1]
        tall[columns + 2], tall[columns + 3] = tall[2], tall[3]
        out[i] = tall[:columns]
        for step in range(1, 5):
            _raise(out[i], tall[step : columns + step])


@compiled
def _raise(row: Float, other: Float) -> None:
    for j in range(row.size):
        row[j] = other[j] if other[j] > row[j] else row[j]


@compiled
def _fold(first: Float, second: Float, out: Float) -> None:
    """Fold 2 × 2 pixels into channels, which come last."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for row in range(2):
                for column in range(2):
                    out[i, j, 2 * row + column] = first[2 * i + row, 2 * j + column]
                    out[i, j, 4 + 2 * row + column] = second[2 * i + row, 2 * j + column]
