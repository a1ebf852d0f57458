"""Run-length coding of the amorphous mask at full detector resolution.

A *run* is a stretch of consecutive amorphous pixels in row-major order, given by the flat index
`start` of its first pixel, its `length` in pixels, and the `value` that stands for its pixels:
their mean, rounded for integers. The runs of a mask are *canonical*: in order, maximal, so that
a run which reaches the end of a row goes on in the next one when that begins amorphous.

Symbols: (M, N) shape of the detector frame, (P, Q) shape of the working image, in which the mask
arrives. Detector row r belongs to mask row floor((r + 1/2) P / M), in which its middle lies, and
columns likewise: the mask is not displaced.
"""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled, stretch

Bits: TypeAlias = NDArray[np.bool_]
Positions: TypeAlias = NDArray[np.uint32]
Pixels: TypeAlias = NDArray[Any]

N_PIXELS_MAX = 2**32 - 1
"""A frame must have fewer pixels than a position can count."""


def runs_of_mask(mask: Bits, *, shape: tuple[int, int]) -> tuple[Positions, Positions]:
    """Return start and length of the canonical runs of a mask, enlarged to a detector frame.

    The enlarged mask is never built: each mask row is turned into column intervals once, and
    these are repeated for every detector row that belongs to it.

    Parameters
    ----------
    mask
        (P, Q) bool, True where amorphous.
    shape
        (M, N) of the detector frame; neither a multiple of P, Q nor larger need it be.

    Returns
    -------
    start, length
        (n,) uint32, in pixels.

    Raises
    ------
    ValueError
        If the mask is not a two-dimensional array of bool, or the shape is empty or has more
        than `N_PIXELS_MAX` pixels.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise ValueError(f"mask must be (P, Q) bool, got {mask.shape} {mask.dtype}")
    M, N = shape
    if M < 1 or N < 1 or M * N > N_PIXELS_MAX:
        raise ValueError(f"shape must have 1 to {N_PIXELS_MAX} pixels, got {shape}")
    P, Q = mask.shape
    bits = _read_only(np.require(mask, requirements=["C", "A"]).view(np.uint8))
    return _runs(bits, _edges(M, P), _edges(N, Q))


def mask_of_runs(start: Positions, *, length: Positions, shape: tuple[int, int]) -> Bits:
    """Return the (M, N) bool mask that is True in the given runs.

    Raises
    ------
    ValueError
        If start and length differ in size or a run leaves the frame.
    """
    _require_inside(start, length, shape[0] * shape[1])
    mask = np.zeros(shape, np.bool_)
    flat = mask.reshape(-1)
    fill_runs(flat, start=start, length=length, value=np.ones(start.size, np.bool_))
    return mask


def mean_of_runs(pixels: Pixels, *, start: Positions, length: Positions) -> Pixels:
    """Return the mean of the pixels of each run, in the dtype of the pixels.

    Integers are rounded to the nearest, halves upwards; floats are summed in float64.

    Parameters
    ----------
    pixels
        (M, N) or flat, integer or float.
    start, length
        (n,) uint32.

    Returns
    -------
    value
        (n,), dtype of the pixels.

    Raises
    ------
    ValueError
        If start and length differ in size or a run leaves the frame.
    """
    _require_inside(start, length, pixels.size)
    flat = _read_only(np.require(pixels, requirements=["C", "A"]).reshape(-1))
    value = np.empty(start.size, pixels.dtype)
    if pixels.dtype.kind == "f":
        mean_floats(flat, _read_only(start), _read_only(length), value)
    else:
        mean_integers(flat, _read_only(start), _read_only(length), value)
    return value


def flatten(pixels: Pixels, *, start: Positions, length: Positions) -> tuple[Pixels, Pixels]:
    """Return a copy of a frame with each run replaced by its mean, and the means.

    Pixels outside the runs are copied bit for bit.

    Raises
    ------
    ValueError
        If start and length differ in size or a run leaves the frame.
    """
    value = mean_of_runs(pixels, start=start, length=length)
    flat = np.array(pixels, order="C")
    fill_runs(flat.reshape(-1), start=start, length=length, value=value)
    return flat, value


def fill_runs(
    out: Pixels,
    *,
    start: Positions,
    length: Positions,
    value: Pixels,
    origin: int = 0,
    first: int = 0,
) -> int:
    """Write the value of each run into a flat stretch of a frame, in place.

    Parameters
    ----------
    out
        (n,) the pixels from flat index `origin` on; its part inside the runs is overwritten.
    start, length, value
        The runs, in order.
    origin
        Flat index in the frame of the first pixel of `out`.
    first
        Index of the first run that may reach into `out`; earlier ones are not looked at.

    Returns
    -------
    int
        `first` for the stretch that follows.
    """
    runs = _read_only(start), _read_only(length), _read_only(value)
    return int(fill_stretch(out, *runs, origin, first))


def are_canonical(start: Positions, *, length: Positions, n_pixels: int) -> bool:
    """Tell whether runs are non-empty, in order, apart from each other and inside the frame."""
    if start.size != length.size:
        return False
    begin = start.astype(np.int64)
    end = begin + length
    return bool(
        np.all(length > 0)
        and np.all(begin[1:] > end[:-1])
        and (start.size == 0 or end[-1] <= n_pixels)
    )


@functools.lru_cache(maxsize=16)
def _edges(n: int, p: int) -> NDArray[np.int64]:
    """Return where each of p cells begins among n pixels, ceil(i n / p - 1/2), and the end."""
    return _read_only(-((p - 2 * np.arange(p + 1, dtype=np.int64) * n) // (2 * p)))


def _read_only(array: Pixels) -> Pixels:
    """Return a read-only view: numba compiles each kernel once, for read-only input."""
    view = array.view()
    view.flags.writeable = False
    return view


def _require_inside(start: Positions, length: Positions, n_pixels: int) -> None:
    if start.size != length.size:
        raise ValueError(f"start has {start.size} runs but length has {length.size}")
    if start.size and int((start.astype(np.int64) + length).max()) > n_pixels:
        raise ValueError(f"a run leaves the frame of {n_pixels} pixels")


@compiled
def _runs(
    bits: Pixels, row_edges: NDArray[np.int64], column_edges: NDArray[np.int64]
) -> tuple[Positions, Positions]:
    begin, end = np.empty((2, bits.size + bits.shape[0]), np.int64)
    first = _intervals(bits, column_edges, begin, end)
    capacity = 0
    for p in range(bits.shape[0]):
        capacity += (first[p + 1] - first[p]) * (row_edges[p + 1] - row_edges[p])
    start, length = np.empty(capacity, np.uint32), np.empty(capacity, np.uint32)
    n = 0
    last = np.int64(-1)  # where the newest run ends
    for p in range(bits.shape[0]):
        for r in range(row_edges[p], row_edges[p + 1]):
            origin = r * column_edges[-1]
            for i in range(first[p], first[p + 1]):
                a, b = origin + begin[i], origin + end[i]
                if a == last:
                    length[n - 1] += np.uint32(b - a)
                else:
                    start[n] = a
                    length[n] = b - a
                    n += 1
                last = b
    return start[:n], length[:n]


@compiled
def _intervals(
    bits: Pixels, column_edges: NDArray[np.int64], begin: Pixels, end: Pixels
) -> NDArray[np.int64]:
    """Write the column intervals of each mask row; return where those of a row begin, and the end.

    Where a row turns from one value to the other is marked first, in a loop that the compiler
    turns into vector instructions; rows turn seldom, so that marks are then looked for by eights.
    """
    P, Q = bits.shape
    first = np.zeros(P + 1, np.int64)
    turns = np.zeros((Q + 8) // 8 * 8, np.uint8)
    eights = turns.view(np.uint64)
    n = 0
    for p in range(P):
        row = stretch(bits, p * Q, Q)
        turns[0], turns[Q] = row[0], row[Q - 1]
        _mark_turns(row, turns)
        is_begin = True
        for w in range(eights.size):
            if eights[w] == np.uint64(0):
                continue
            for q in range(8 * w, 8 * w + 8):
                if not turns[q]:
                    continue
                edge = column_edges[q]
                if is_begin:
                    begin[n] = edge
                    # What is apart in the mask may meet in the frame, on columns of no width.
                    n -= n > first[p] and end[n - 1] == edge
                else:
                    end[n] = edge
                    n += edge > begin[n]
                is_begin = not is_begin
        first[p + 1] = n
    return first


@compiled
def _mark_turns(row: Pixels, turns: Pixels) -> None:
    for q in range(row.size - 1):
        turns[q + 1] = row[q] ^ row[q + 1]


@compiled
def _sum_integers(pixels: Pixels) -> np.int64:
    total = np.int64(0)
    for i in range(pixels.size):
        total += np.int64(pixels[i])
    return total


@compiled
def mean_integers(flat: Pixels, start: Positions, length: Positions, value: Pixels) -> None:
    """Write the mean of each run, as `mean_of_runs` gives it."""
    for i in range(start.size):
        a, n = np.int64(start[i]), np.int64(length[i])
        value[i] = (2 * _sum_integers(flat[a : a + n]) + n) // (2 * n)


@compiled
def mean_floats(flat: Pixels, start: Positions, length: Positions, value: Pixels) -> None:
    """Write the mean of each run, as `mean_of_runs` gives it."""
    for i in range(start.size):
        a, n = np.int64(start[i]), np.int64(length[i])
        total = 0.0
        for j in range(a, a + n):
            total += np.float64(flat[j])
        value[i] = total / n


@compiled
def fill_stretch(
    out: Pixels, start: Positions, length: Positions, value: Pixels, origin: int, first: int
) -> int:
    """Do what `fill_runs` does."""
    stop = origin + out.size
    i = first
    while i < start.size:
        a, b = np.int64(start[i]), np.int64(start[i]) + np.int64(length[i])
        if a >= stop:
            break
        out[np.maximum(a, origin) - origin : np.minimum(b, stop) - origin] = value[i]
        if b > stop:
            break
        i += 1
    return i
