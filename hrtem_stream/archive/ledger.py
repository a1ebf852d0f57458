"""The account of a series: received = archived + lost, and no frame is both.

A loss is declared as soon as it is noticed, but a frame that came late may still be archived.
So what is lost in the end is the union of the declared ranges less the archived sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    kept = np.unique(np.asarray(archived, np.int64))
    taken: list[tuple[int, int]] = []
    lost: list[Loss] = []
    for loss in declared:
        for a, b in _without(loss.first, loss.first + loss.n_frames, taken):
            lost += [
                Loss(first=c, n_frames=d - c, reason=loss.reason) for c, d in _gaps(a, b, kept)
            ]
            taken.append((a, b))
        taken.sort()
    return tuple(sorted(lost, key=lambda loss: loss.first))


def _without(a: int, b: int, taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of [a, b) outside the taken ranges, which are in order and disjoint."""
    parts = []
    for c, d in taken:
        if d <= a or c >= b:
            continue
        if a < c:
            parts.append((a, c))
        a = d
    if a < b:
        parts.append((a, b))
    return parts


def _gaps(a: int, b: int, kept: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the ranges of [a, b) between the kept sequences, which are in order."""
    inside = kept[np.searchsorted(kept, a) : np.searchsorted(kept, b)].tolist()
    begins, ends = [a, *(n + 1 for n in inside)], [*inside, b]
    return [(c, d) for c, d in zip(begins, ends, strict=True) if c < d]
