"""Spectra of real images as OpenCV packs them: as many numbers as the image has pixels.

Column k of the half plane, 0 < k < N/2, lies in the packed columns 2k − 1 (real part) and 2k
(imaginary part). The columns k = 0 and, with N even, k = N/2 are spectra of real columns, and are
packed the same way along the rows, into the packed columns 0 and N − 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled, stretch

Image = NDArray[np.float32]


@compiled
def unfold_amplitudes(packed: Image, weights: Image, margin: int, plane: Image) -> None:
    """Write weights · |F| of an (M, N) packed spectrum into (M, margin + N//2 + 1) pixels.

    Row M//2 of the plane is g = 0. The columns of the half plane follow on the last columns of
    the other half, `margin` of them, at most N//2.
    """
    rows, columns = packed.shape
    n_half, width = columns // 2 + 1, plane.shape[1]
    for i in range(rows):
        _amplitudes_of_row(
            stretch(packed, i * columns, columns),
            stretch(weights, i * n_half, n_half),
            stretch(plane, _unfolded(i, rows) * width + margin, n_half),
        )
    edge = np.empty(rows, np.float32)
    _amplitudes_of_edge(packed[:, 0], weights[:, 0], edge)
    for i in range(rows):
        plane[_unfolded(i, rows), margin] = edge[i]
    if columns % 2 == 0:
        _amplitudes_of_edge(packed[:, columns - 1], weights[:, n_half - 1], edge)
        for i in range(rows):
            plane[_unfolded(i, rows), margin + n_half - 1] = edge[i]
    for i in range(rows):
        here, opposite = _unfolded(i, rows), _unfolded(-i % rows, rows)
        for k in range(1, margin + 1):
            plane[here, margin - k] = plane[opposite, margin + k]


@compiled
def _unfolded(row: int, n: int) -> int:
    """Return the row of the plane for a row of the spectrum."""
    return (row + n // 2) % n


@compiled
def multiply_packed(packed: Image, transmission: Image) -> None:
    """Multiply an (M, N) packed spectrum in place by an (M, N//2 + 1) real transmission."""
    rows, columns = packed.shape
    n_half = columns // 2 + 1
    for i in range(rows):
        _multiply_row(
            stretch(packed, i * columns, columns), stretch(transmission, i * n_half, n_half)
        )
    _multiply_edge(packed[:, 0], transmission[:, 0])
    if columns % 2 == 0:
        _multiply_edge(packed[:, columns - 1], transmission[:, columns // 2])


@compiled
def _amplitudes_of_row(packed: Image, weights: Image, amplitudes: Image) -> None:
    for k in range(1, (packed.size + 1) // 2):
        real, imaginary = packed[2 * k - 1], packed[2 * k]
        amplitudes[k] = weights[k] * np.sqrt(real * real + imaginary * imaginary)


@compiled
def _amplitudes_of_edge(packed: Image, weights: Image, amplitudes: Image) -> None:
    n = packed.size
    amplitudes[0] = weights[0] * abs(packed[0])
    for i in range(1, (n + 1) // 2):
        amplitude = np.sqrt(packed[2 * i - 1] ** 2 + packed[2 * i] ** 2)
        amplitudes[i], amplitudes[n - i] = weights[i] * amplitude, weights[n - i] * amplitude
    if n % 2 == 0:
        amplitudes[n // 2] = weights[n // 2] * abs(packed[n - 1])


@compiled
def _multiply_row(packed: Image, transmission: Image) -> None:
    for k in range(1, (packed.size + 1) // 2):
        packed[2 * k - 1] *= transmission[k]
        packed[2 * k] *= transmission[k]


@compiled
def _multiply_edge(packed: Image, transmission: Image) -> None:
    n = packed.size
    packed[0] *= transmission[0]
    for i in range(1, (n + 1) // 2):
        packed[2 * i - 1] *= transmission[i]
        packed[2 * i] *= transmission[i]
    if n % 2 == 0:
        packed[n - 1] *= transmission[n // 2]
