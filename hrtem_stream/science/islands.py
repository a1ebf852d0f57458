"""Islands of an image above a threshold, with hysteresis, in one pass over the pixels.

An island is made of runs, the stretches of a row above the lower threshold; runs of neighbouring
rows that touch are joined by union and find. There are few runs, so that the cost is that of
reading the image once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled, stretch

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Integers = NDArray[np.int32]


def find_islands(
    level: Image, *, low: float, high: float, least_island_px: int, largest_gap_px: int
) -> Mask:
    """Mark the islands above a threshold, without the small ones and without small gaps.

    Parameters
    ----------
    level
        (P, Q) float32.
    low
        An island is an 8-connected set of pixels above this, ...
    high
        ... one of which is above this.
    least_island_px
        Area of the smallest island that is kept, in pixels.
    largest_gap_px
        Area of the largest gap that is filled, in pixels. Gaps are the 4-connected sets of what
        lies outside of the islands that are kept; those at the border count as well.

    Returns
    -------
    (P, Q) bool.
    """
    mask = np.ones(level.shape, np.bool_)
    _mark_islands(
        np.ascontiguousarray(level, np.float32),
        np.float32(low),
        np.float32(high),
        least_island_px,
        largest_gap_px,
        mask,
    )
    return mask


def islands_with_core(mask: Mask, core: Mask, *, least_px: int, least_share: float) -> Mask:
    """Keep the islands of a mask that are large enough and hold enough of a core.

    Parameters
    ----------
    mask
        (P, Q) bool; an island is a 4-connected set of its True pixels.
    core
        (P, Q) bool.
    least_px
        Area of the smallest island that is kept, in pixels.
    least_share
        Least share of an island's pixels that lie in the core, 0 to 1.

    Returns
    -------
    (P, Q) bool.
    """
    kept = np.zeros(mask.shape, np.bool_)
    level = np.ascontiguousarray(mask, np.float32)
    _keep_with_core(level, np.ascontiguousarray(core), least_px, least_share, kept)
    return kept


@compiled
def _keep_with_core(
    level: Image, core: Mask, least_px: int, least_share: float, kept: Mask
) -> None:
    """Write True into a mask of False wherever an island is kept."""
    rows, columns = level.shape
    most = rows * (columns // 2 + 2)
    first, last = np.empty(most, np.int32), np.empty(most, np.int32)
    parent, area = np.empty(most, np.int32), np.empty(most, np.int32)
    begins = np.empty(rows + 1, np.int32)
    n = _find_runs(level, np.float32(0.5), first, last, begins)
    _join_runs(first, last, begins, 0, parent, area)
    n_core = np.zeros(n, np.int32)
    for i in range(rows):
        for k in range(begins[i], begins[i + 1]):
            root = _root(parent, k)
            for j in range(first[k], last[k]):
                n_core[root] += core[i, j]
    for i in range(rows):
        for k in range(begins[i], begins[i + 1]):
            root = _root(parent, k)
            if area[root] >= least_px and n_core[root] >= least_share * area[root]:
                kept[i, first[k] : last[k]] = True


@compiled
def _mark_islands(
    level: Image,
    low: np.float32,
    high: np.float32,
    least_island_px: int,
    largest_gap_px: int,
    mask: Mask,
) -> None:
    """Write False into a mask of True wherever there is no island."""
    rows, columns = level.shape
    most = rows * (columns // 2 + 2)
    first, last = np.empty(most, np.int32), np.empty(most, np.int32)
    parent, area = np.empty(most, np.int32), np.empty(most, np.int32)
    begins = np.empty(rows + 1, np.int32)
    n = _find_runs(level, low, first, last, begins)
    _join_runs(first, last, begins, 1, parent, area)
    n_high = np.zeros(n, np.int32)
    for i in range(rows):
        for k in range(begins[i], begins[i + 1]):
            run = stretch(level, i * columns + first[k], last[k] - first[k])
            n_high[_root(parent, k)] += _count_above(run, high)
    kept = np.zeros(n, np.bool_)
    for k in range(n):
        root = _root(parent, k)
        kept[k] = area[root] >= least_island_px and n_high[root] > 0
    gap_first, gap_last = np.empty(most, np.int32), np.empty(most, np.int32)
    _find_gaps(first, last, kept, begins, columns, gap_first, gap_last)
    _join_runs(gap_first, gap_last, begins, 0, parent, area)
    for i in range(rows):
        for k in range(begins[i], begins[i + 1]):
            if area[_root(parent, k)] > largest_gap_px:
                mask[i, gap_first[k] : gap_last[k]] = False


@compiled
def _find_runs(
    level: Image, low: np.float32, first: Integers, last: Integers, begins: Integers
) -> int:
    """Write down where the runs begin and end, and with which run each row begins; count them."""
    rows, columns = level.shape
    words = np.zeros(columns // 8 + 1, np.uint64)
    marks = words.view(np.uint8)
    all_marked = np.uint64(0x0101010101010101)
    n = 0
    for i in range(rows):
        begins[i] = n
        _mark_above(stretch(level, i * columns, columns), low, marks)
        inside = False
        # Eight pixels at a time: most words are alike throughout. The last one ends unmarked.
        for k in range(words.size):
            if words[k] == (all_marked if inside else np.uint64(0)):
                continue
            for j in range(8 * k, 8 * k + 8):
                if (marks[j] != 0) == inside:
                    continue
                if inside:
                    last[n] = j
                    n += 1
                else:
                    first[n] = j
                inside = not inside
    begins[rows] = n
    return n


@compiled
def _mark_above(row: Image, low: np.float32, marks: NDArray[np.uint8]) -> None:
    for j in range(row.size):
        marks[j] = row[j] > low


@compiled
def _count_above(row: Image, high: np.float32) -> int:
    n = 0
    for j in range(row.size):
        n += row[j] > high
    return n


@compiled
def _find_gaps(
    first: Integers,
    last: Integers,
    kept: Mask,
    begins: Integers,
    columns: int,
    gap_first: Integers,
    gap_last: Integers,
) -> None:
    """Write down the runs between the runs that are kept, and where each row of them begins."""
    n = 0
    for i in range(begins.size - 1):
        start, stop = begins[i], begins[i + 1]
        begins[i] = n
        left = 0
        for k in range(start, stop):
            if kept[k]:
                if first[k] > left:
                    gap_first[n], gap_last[n] = left, first[k]
                    n += 1
                left = last[k]
        if left < columns:
            gap_first[n], gap_last[n] = left, columns
            n += 1
    begins[begins.size - 1] = n


@compiled
def _join_runs(
    first: Integers, last: Integers, begins: Integers, reach: int, parent: Integers, area: Integers
) -> None:
    """Join the runs that overlap from row to row; with a reach of 1 also across a corner.

    `parent` is left pointing towards the root of each run, `area` holds the pixels of each root.
    """
    for k in range(begins[-1]):
        parent[k] = k
        area[k] = last[k] - first[k]
    for i in range(1, begins.size - 1):
        above, here = begins[i - 1], begins[i]
        while above < begins[i] and here < begins[i + 1]:
            if first[above] < last[here] + reach and first[here] < last[above] + reach:
                one, other = _root(parent, above), _root(parent, here)
                if one != other:
                    parent[other] = one
                    area[one] += area[other]
            if last[above] < last[here]:
                above += 1
            else:
                here += 1


@compiled
def _root(parent: Integers, k: int) -> int:
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k
