"""Frames in order of merit: the highest graphene fraction first, equals in order of arrival.

A fraction that is not a number, of a frame that could not be analysed, comes after all others.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice

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


class _Sorted:
    """Pairs of merit and row in ascending order, sixteen bytes each."""

    __slots__ = ("merits", "rows")

    def __init__(self, merits: array[float], rows: array[int]) -> None:
        self.merits = merits
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, merit: float, row: int) -> int:
        """Return how many pairs come before this one."""
        first = bisect_left(self.merits, merit)
        return bisect_left(self.rows, row, first, bisect_right(self.merits, merit, first))

    def insert(self, place: int, merit: float, row: int) -> None:
        self.merits.insert(place, merit)
        self.rows.insert(place, row)

    def cut(self, place: int) -> _Sorted:
        """Give away all pairs from a place on."""
        upper = _Sorted(self.merits[place:], self.rows[place:])
        del self.merits[place:], self.rows[place:]
        return upper


class LiveRanking:
    """A ranking that takes one frame at a time and can be read at any moment.

    Frames lie in sorted blocks of bounded length: adding one costs a search among the blocks and
    a shift within one of them, some microseconds at a million frames; the best n cost n. A frame
    takes sixteen bytes.
    """

    _BLOCK = 4096

    def __init__(self) -> None:
        self._blocks: list[_Sorted] = [_Sorted(array("d"), array("q"))]
        self._last = _Sorted(array("d"), array("q"))
        """The last pair of each block but the last one."""
        self._n = 0

    @classmethod
    def of(cls, fractions: ArrayLike, *, first_row: int = 0) -> LiveRanking:
        """Rank frames that are there already, the first of them in `first_row`."""
        ranking = cls()
        values = np.asarray(fractions, dtype=np.float64)
        rows = order(values)
        merits = np.where(np.isnan(values), np.inf, -values)[rows]
        everything = ranking._blocks[0]
        everything.merits.frombytes(merits.tobytes())
        everything.rows.frombytes((rows + first_row).tobytes())
        ranking._n = rows.size
        while len(ranking._blocks[-1]) > cls._BLOCK:
            ranking._split(len(ranking._blocks) - 1, cls._BLOCK // 2)
        return ranking

    def __len__(self) -> int:
        return self._n

    def insert(self, row: int, fraction: float) -> None:
        """Add a frame: its row, which no other frame has, and its graphene fraction."""
        merit = _merit(fraction)
        number = self._last.place(merit, row)
        block = self._blocks[number]
        block.insert(block.place(merit, row), merit, row)
        self._n += 1
        if len(block) > self._BLOCK:
            self._split(number, len(block) // 2)

    def best(self, n: int) -> list[int]:
        """Return the rows of the n best frames, best first; fewer when there are fewer."""
        return list(islice(self, n))

    def rank(self, row: int, fraction: float) -> int:
        """Return how many of the frames are better than this one, which need not be among them."""
        merit = _merit(fraction)
        number = self._last.place(merit, row)
        before = sum(map(len, self._blocks[:number]))
        return before + self._blocks[number].place(merit, row)

    def __iter__(self) -> Iterator[int]:
        return (row for block in self._blocks for row in block.rows)

    def _split(self, number: int, place: int) -> None:
        """Part a block in two."""
        block = self._blocks[number]
        self._blocks.insert(number + 1, block.cut(place))
        self._last.insert(number, block.merits[-1], block.rows[-1])


def _merit(fraction: float) -> float:
    """Turn a fraction into a key that sorts ascending, with NaN last."""
    return np.inf if np.isnan(fraction) else -float(fraction)
