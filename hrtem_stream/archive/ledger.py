"""The account of a series: received = archived + lost, and no frame is both.

A loss is declared as soon as it is noticed, but a frame that came late may still be archived.
So what is lost in the end is the union of the declared ranges less the archived sequences.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A range of sequences that was lost, or declared so."""

    first: int
    n_frames: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The account of one file."""

    series: str
    series_id: str
    log_id: int
    first_row: int
    received: int
    archived: int
    lost: int
    losses: tuple[Loss, ...]
    repeated: int
    """Frames that the feed sent twice, dropped."""
    republished: int
    duplicates: int
    """Publications of a frame that was archived already, dropped."""
    first_ordinal: int
    end_ordinal: int
    """Of the record that ended the series; -1 when none did."""
    end_reason: str
    """Empty after a regular end."""
    complete: bool
    """Whether the file was closed."""

    @property
    def balanced(self) -> bool:
        """Whether every received frame is archived or lost."""
        return self.received == self.archived + self.lost


def lost_ranges(declared: Iterable[Loss], *, archived: ArrayLike) -> tuple[Loss, ...]:
    """Return the union of the declared ranges less the archived sequences.

    Parameters
    ----------
    declared
        In the order in which they were declared; where they overlap, the first gives the reason.
    archived
        (F,) sequences, in any order.

    Returns
    -------
    tuple of Loss
        In order, apart from each other.
    """
    ranges = list(declared)
    if not ranges:
        return ()
    kept = np.unique(np.asarray(archived, np.int64))
    return tuple(
        Loss(first=c, n_frames=d - c, reason=ranges[owner].reason)
        for a, b, owner in _disjoint(ranges)
        for c, d in _gaps(a, b, kept)
    )


def _disjoint(ranges: Sequence[Loss]) -> Iterator[tuple[int, int, int]]:
    """Give begin, end and number of the first range that covers each stretch, in order.

    A sweep over all begins and ends: n ranges cost n log n, whatever their overlaps.
    """
    begins = [(loss.first, number) for number, loss in enumerate(ranges) if loss.n_frames > 0]
    ends = [(ranges[n].first + ranges[n].n_frames) for _, n in begins]
    begins.sort()
    covering: list[int] = []  # heap of the numbers of ranges that have begun
    places = sorted({first for first, _ in begins} | set(ends))
    at = 0
    stretch: tuple[int, int, int] | None = None
    for a, b in itertools.pairwise(places):
        while at < len(begins) and begins[at][0] <= a:
            heapq.heappush(covering, begins[at][1])
            at += 1
        while covering and ranges[covering[0]].first + ranges[covering[0]].n_frames <= a:
            heapq.heappop(covering)
        owner = covering[0] if covering else -1
        if stretch and stretch[2] == owner and stretch[1] == a:
            stretch = (stretch[0], b, owner)
            continue
        if stretch:
            yield stretch
        stretch = (a, b, owner) if owner >= 0 else None
    if stretch:
        yield stretch


def _gaps(a: int, b: int, kept: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the ranges of [a, b) between the kept sequences, which are in order."""
    inside = kept[np.searchsorted(kept, a) : np.searchsorted(kept, b)].tolist()
    begins, ends = [a, *(n + 1 for n in inside)], [*inside, b]
    return [(c, d) for c, d in zip(begins, ends, strict=True) if c < d]
