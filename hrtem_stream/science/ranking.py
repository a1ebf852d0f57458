"""Frames in order of merit: the highest graphene fraction first, equals in order of arrival.

A fraction that is not a number, of a frame that could not be analysed, comes after all others.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray


def order(fractions: ArrayLike) -> NDArray[np.int64]:
    """Return the rows of the frames, best first, as (F,) int64.

    Raises
    ------
    ValueError
        If the fractions are not one-dimensional.
    """
    values = np.asarray(fractions, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"fractions must be one-dimensional, got shape {values.shape}")
    # NumPy sorts NaN to the end of either direction, and a stable sort keeps the rows in order.
    return np.argsort(-values, kind="stable").astype(np.int64)


def rank(fractions: ArrayLike) -> NDArray[np.int64]:
    """Return the rank of each frame, 0 for the best, as (F,) int64: the inverse of `order`.

    Raises
    ------
    ValueError
        If the fractions are not one-dimensional.
    """
    rows = order(fractions)
    ranks = np.empty_like(rows)
    ranks[rows] = np.arange(rows.size)
    return ranks


class LiveRanking:
    """A ranking that takes one frame at a time and can be read at any moment.

    Frames lie in sorted blocks of bounded length: adding one costs a search among the blocks and
    a shift within one of them, some microseconds at a million frames; the best n cost n.
    """

    _BLOCK = 1024

    def __init__(self) -> None:
        self._blocks: list[list[tuple[float, int]]] = [[]]
        self._last: list[tuple[float, int]] = []
        self._n = 0

    @classmethod
    def of(cls, fractions: ArrayLike, *, first_row: int = 0) -> LiveRanking:
        """Rank frames that are there already, the first of them in `first_row`."""
        ranking = cls()
        values = np.asarray(fractions, dtype=np.float64)
        rows = order(values)
        merits = np.where(np.isnan(values), np.inf, -values)[rows]
        for first in range(0, rows.size, cls._BLOCK // 2):
            here = slice(first, first + cls._BLOCK // 2)
            block = list(zip(merits[here].tolist(), (rows[here] + first_row).tolist(), strict=True))
            ranking._blocks[len(ranking._last) :] = [block]
            ranking._last.append(block[-1])
        ranking._n = rows.size
        return ranking

    def __len__(self) -> int:
        return self._n

    def insert(self, row: int, fraction: float) -> None:
        """Add a frame: its row, which no other frame has, and its graphene fraction."""
        key = (_merit(fraction), row)
        place = self._place(key)
        block = self._blocks[place]
        insort(block, key)
        self._n += 1
        if len(block) > self._BLOCK:
            half = len(block) // 2
            self._blocks[place : place + 1] = [block[:half], block[half:]]
            self._last[place : place + 1] = [block[half - 1], block[-1]]
        elif len(self._last) == place:
            self._last.append(block[-1])
        else:
            self._last[place] = block[-1]

    def best(self, n: int) -> list[int]:
        """Return the rows of the n best frames, best first; fewer when there are fewer."""
        rows: list[int] = []
        for row in self:
            if len(rows) >= n:
                break
            rows.append(row)
        return rows

    def rank(self, row: int, fraction: float) -> int:
        """Return how many of the frames are better than this one, which need not be among them."""
        key = (_merit(fraction), row)
        place = self._place(key)
        before = sum(len(block) for block in self._blocks[:place])
        return before + bisect_left(self._blocks[place], key)

    def __iter__(self) -> Iterator[int]:
        return (row for block in self._blocks for _, row in block)

    def _place(self, key: tuple[float, int]) -> int:
        """Find the block that `key` belongs to."""
        return min(bisect_left(self._last, key), len(self._blocks) - 1)


def _merit(fraction: float) -> float:
    """Turn a fraction into a key that sorts ascending, with NaN last."""
    return np.inf if np.isnan(fraction) else -float(fraction)
