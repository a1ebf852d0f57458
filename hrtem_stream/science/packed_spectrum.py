"""Spectra of real images as OpenCV packs them: as many numbers as the image has pixels.

Column k of the half plane, 0 < k < N/2, lies in the packed columns 2k − 1 (real part) and 2k
(imaginary part). The columns k = 0 and, with N even, k = N/2 are spectra of real columns, and are
packed the same way along the rows, into the packed columns 0 and N − 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled

Image = NDArray[np.float32]


@compiled
def unpack_amplitudes(packed: Image, weights: Image, amplitudes: Image) -> None:
    """Write weights · |F| into (M, N//2 + 1) amplitudes, from an (M, N) packed spectrum."""
    rows, columns = packed.shape
    for i in range(rows):
        _amplitudes_of_row(packed[i], weights[i], amplitudes[i])
    _amplitudes_of_edge(packed[:, 0], weights[:, 0], amplitudes[:, 0])
    if columns % 2 == 0:
        k = columns // 2
        _amplitudes_of_edge(packed[:, columns - 1], weights[:, k], amplitudes[:, k])


@compiled
def multiply_packed(packed: Image, transmission: Image) -> None:
    """Multiply an (M, N) packed spectrum in place by an (M, N//2 + 1) real transmission."""
    rows, columns = packed.shape
    for i in range(rows):
        _multiply_row(packed[i], transmission[i])
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
