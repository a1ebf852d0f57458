"""From a detector frame to the small working image, by area average, and what makes a frame bad.

Working pixel (p, q) of a (P, Q) image covers the detector's rows pM/P to (p+1)M/P and columns
qN/Q to (q+1)N/Q; its value is the mean of the frame over that rectangle, a detector pixel that is
cut by the border counting with the part inside. The mean of the frame is kept whatever the shapes.
Where a side of the frame is shorter than that of the working image the same rule enlarges it:
a detector pixel is repeated, and shared at the borders.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled, stretch

Frame = NDArray[Any]

WORKING_SHAPE = (256, 256)
SATURATED_SHARE = 0.05
"""A frame is saturated above this share: a contrast-stretched PNG clips below one per cent."""
MOST_IN_PAIRS = 32_768
"""Rows of a block whose 16-bit pixels are summed two by two: more would overflow 32 bits."""
_SATURATION_LEVELS = (2**12 - 1, 2**14 - 1)
"""Full scale of converters with fewer bits than the pixel type that carries them."""


def reduce_frame(frame: Frame, *, shape: tuple[int, int] = WORKING_SHAPE) -> NDArray[np.float32]:
    """Average a detector frame over the areas of the working pixels.

    Parameters
    ----------
    frame
        (M, N) unsigned integers or floats of any byte order.
    shape
        (P, Q) of the working image.

    Returns
    -------
    (P, Q) float32, in detector counts. NaN and infinity in the frame come through.

    Raises
    ------
    ValueError
        If the frame is not two-dimensional, is empty, or has another kind of dtype.

    Notes
    -----
    The frame is read once. Sums are exact for integers of up to 32 bits, and in double precision
    for others, before they are rounded to float32.
    """
    if frame.ndim != 2 or frame.size == 0:
        raise ValueError(f"frame must be a non-empty (M, N) array, got shape {frame.shape}")
    if frame.dtype.kind not in "uf":
        raise ValueError(f"frame must be of unsigned integers or floats, got {frame.dtype}")
    if min(shape) < 1:
        raise ValueError(f"shape must be at least (1, 1), got {shape}")
    native = np.ascontiguousarray(frame, dtype=_native(frame.dtype))
    reduced = np.empty(shape, np.float32)
    (rows, columns), (p, q) = native.shape, shape
    if rows % p == 0 and columns % q == 0:
        factors = rows // p, columns // q
        pairs = native.dtype == np.uint16 and factors[1] % 2 == 0 and factors[0] <= MOST_IN_PAIRS
        if pairs and native.ctypes.data % 4 == 0:
            _average_pixel_pairs(native.view(np.uint32), factors[0], factors[1], reduced)
        else:
            sums = np.empty(columns, _accumulator(native.dtype, factors[0] * factors[1]))
            _average_blocks(native, sums, factors[0], factors[1], reduced)
    else:
        _average_areas(native, np.empty(columns, np.float64), reduced)
    return reduced


def check_frame(frame: Frame, *, reduced: NDArray[np.float32] | None = None) -> str:
    """Return why a frame cannot be analysed, as a sentence, or "" when it can.

    A frame is refused that is not an (M, N) array of unsigned integers or floats, that holds NaN
    or infinity, that is zero or the same everywhere, or that is saturated: at least
    `SATURATED_SHARE` of its pixels at full scale, which is the largest value of an integer dtype,
    or 4095 or 16383 where nothing lies above.

    Parameters
    ----------
    frame
        (M, N), any dtype.
    reduced
        What `reduce_frame` made of it, where that is at hand; the frame is then not read again
        beyond a sample of its rows.

    Notes
    -----
    Saturation is measured on that sample, the other faults exactly.
    """
    if frame.ndim != 2 or frame.size == 0:
        return f"frame must be a non-empty (M, N) array, got shape {frame.shape}"
    if frame.dtype.kind not in "uf":
        return f"frame must be of unsigned integers or floats, got {frame.dtype}"
    if reduced is None:
        reduced = reduce_frame(frame)
    lowest, highest = float(reduced.min()), float(reduced.max())
    if not np.isfinite(highest - lowest):
        return "frame must be finite, got NaN, infinity or values beyond float32"
    if highest - lowest <= 1e-6 * abs(highest) and frame.min() == frame.max():
        value = frame.flat[0]
        return (
            "frame must not be blank, got zero everywhere"
            if value == 0
            else (f"frame must not be constant, got {value} everywhere")
        )
    share, level = _saturation(frame)
    if share >= SATURATED_SHARE:
        return f"frame must not be saturated, got {share:.0%} of the pixels at {level}"
    return ""


def _saturation(frame: Frame) -> tuple[float, int]:
    """Return the share of pixels at full scale, in a sample of the frame, and that full scale."""
    if frame.dtype.kind != "u":
        return 0.0, 0
    # Whole rows, since they are read at full speed. An odd step, so that neither a period of the
    # detector nor of the lattice is met throughout.
    step = max(1, min(frame.size // 100_000, frame.shape[0] // 64)) | 1
    sample = frame[::step]
    level = int(sample.max())
    if level != np.iinfo(frame.dtype).max and level not in _SATURATION_LEVELS:
        return 0.0, level
    return float(np.count_nonzero(sample == level)) / sample.size, level


def _native(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Return the dtype in the machine's byte order; half precision becomes single."""
    return (
        np.dtype(np.float32)
        if dtype.itemsize == 2 and dtype.kind == "f"
        else (dtype.newbyteorder("="))
    )


def _accumulator(dtype: np.dtype[np.generic], n_pixels: int) -> type[np.generic]:
    """Choose the narrowest type that holds the sum of n_pixels without rounding."""
    if dtype.kind == "f" or dtype.itemsize == 8:
        return np.float64
    fits = n_pixels * 2 ** (8 * dtype.itemsize) <= 2**32
    return np.uint32 if fits else np.uint64


@compiled
def _average_pixel_pairs(
    pairs: Frame, row_factor: int, column_factor: int, reduced: NDArray[np.float32]
) -> None:
    """Average blocks of a frame whose pixels of 16 bits are seen two by two, as words of 32.

    A word is split by mask and shift, which takes a quarter of the time of widening each pixel
    and adding its neighbour.
    """
    n, n_reduced = pairs.shape[1], reduced.shape[1]
    sums, fours, spare = np.empty(n, np.uint32), np.empty(n // 2, np.uint64), np.empty(n, np.uint64)
    weight = 1.0 / (row_factor * column_factor)
    for p in range(reduced.shape[0]):
        first, last = p * row_factor, (p + 1) * row_factor
        sums[:] = 0
        while first + 4 <= last:
            _add_four_rows_of_pairs(
                sums,
                stretch(pairs, first * n, n),
                stretch(pairs, (first + 1) * n, n),
                stretch(pairs, (first + 2) * n, n),
                stretch(pairs, (first + 3) * n, n),
            )
            first += 4
        for i in range(first, last):
            _add_row_of_pairs(sums, stretch(pairs, i * n, n))
        averages = stretch(reduced, p * n_reduced, n_reduced)
        if column_factor % 4:
            _average_groups(sums, np.empty_like(sums), column_factor // 2, weight, averages)
        else:
            _add_halves(sums.view(np.uint64), fours)
            _average_groups(fours, spare, column_factor // 4, weight, averages)


@compiled
def _add_four_rows_of_pairs(sums: Frame, a: Frame, b: Frame, c: Frame, d: Frame) -> None:
    low, half = np.uint32(0xFFFF), np.uint32(16)
    for j in range(sums.size):
        sums[j] += (
            ((a[j] & low) + (a[j] >> half))
            + ((b[j] & low) + (b[j] >> half))
            + ((c[j] & low) + (c[j] >> half))
            + ((d[j] & low) + (d[j] >> half))
        )


@compiled
def _add_row_of_pairs(sums: Frame, row: Frame) -> None:
    for j in range(row.size):
        sums[j] += (row[j] & np.uint32(0xFFFF)) + (row[j] >> np.uint32(16))


@compiled
def _add_halves(words: Frame, sums: Frame) -> None:
    for j in range(words.size):
        sums[j] = (words[j] & np.uint64(0xFFFFFFFF)) + (words[j] >> np.uint64(32))


@compiled
def _average_blocks(
    frame: Frame, sums: Frame, row_factor: int, column_factor: int, reduced: NDArray[np.float32]
) -> None:
    spare = np.empty_like(sums)
    weight = 1.0 / (row_factor * column_factor)
    for p in range(reduced.shape[0]):
        first, last = p * row_factor, (p + 1) * row_factor
        sums[:] = 0
        while first + 4 <= last:
            _add_four_rows(sums, frame[first], frame[first + 1], frame[first + 2], frame[first + 3])
            first += 4
        for i in range(first, last):
            _add_row(sums, frame[i])
        _average_groups(sums, spare, column_factor, weight, reduced[p])


# Apart and on slices: only then does the compiler add many pixels at once.
@compiled
def _add_four_rows(sums: Frame, a: Frame, b: Frame, c: Frame, d: Frame) -> None:
    for j in range(sums.size):
        sums[j] += a[j] + b[j] + c[j] + d[j]


@compiled
def _add_row(sums: Frame, row: Frame) -> None:
    for j in range(row.size):
        sums[j] += row[j]


@compiled
def _average_groups(
    sums: Frame, spare: Frame, factor: int, weight: float, averages: NDArray[np.float32]
) -> None:
    """Average each `factor` neighbours; as long as that is even, first add them two and two."""
    n = sums.size
    while factor % 2 == 0:
        n, factor = n // 2, factor // 2
        _add_pairs(sums, stretch(spare, 0, n))
        sums, spare = spare, sums
    if factor == 1:
        _scale(stretch(sums, 0, n), weight, averages)
        return
    for q in range(averages.size):
        total = 0.0
        for j in range(q * factor, (q + 1) * factor):
            total += sums[j]
        averages[q] = total * weight


@compiled
def _scale(sums: Frame, weight: float, averages: NDArray[np.float32]) -> None:
    for q in range(averages.size):
        averages[q] = sums[q] * weight


@compiled
def _add_pairs(values: Frame, pairs: Frame) -> None:
    for j in range(pairs.size):
        pairs[j] = values[2 * j] + values[2 * j + 1]


@compiled
def _average_areas(frame: Frame, sums: NDArray[np.float64], reduced: NDArray[np.float32]) -> None:
    rows, columns = frame.shape
    height, width = rows / reduced.shape[0], columns / reduced.shape[1]
    for p in range(reduced.shape[0]):
        sums[:] = 0.0
        top, bottom = p * height, min((p + 1) * height, float(rows))
        for i in range(int(top), min(int(np.ceil(bottom)), rows)):
            _add_row_weighted(sums, frame[i], min(i + 1.0, bottom) - max(float(i), top))
        for q in range(reduced.shape[1]):
            left, right = q * width, min((q + 1) * width, float(columns))
            total = 0.0
            for j in range(int(left), min(int(np.ceil(right)), columns)):
                total += sums[j] * (min(j + 1.0, right) - max(float(j), left))
            reduced[p, q] = total / (height * width)


@compiled
def _add_row_weighted(sums: NDArray[np.float64], row: Frame, weight: float) -> None:
    for j in range(row.size):
        sums[j] += weight * row[j]
