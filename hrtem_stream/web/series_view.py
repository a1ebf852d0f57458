"""What a watcher knows of one series: scores of every frame, pictures of some.

It grows by summaries, of which a watcher may miss any, and by scores read from the archive for
the rows that it missed. So it is complete in the end, whatever was dropped on the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.archive.marks import is_kept
from hrtem_stream.messages import FrameSummary, SeriesStatus
from hrtem_stream.science.ranking import LiveRanking

MAX_ROWS = 4_000_000
"""Rows that a view follows; a summary that claims a higher one is not believed."""
N_RECENT = 48
N_BEST = 64
METHODS = ("", "unet", "bragg", "none")


class SeriesView:
    """One series, as far as it is known.

    Parameters
    ----------
    series, series_id
        Name and identity.
    """

    def __init__(self, series: str, series_id: str) -> None:
        self.series = series
        self.series_id = series_id
        self.status: SeriesStatus | None = None
        self.newest: FrameSummary | None = None
        self.n_rows = 0
        """One more than the highest row known."""
        self.version = 0
        """Grows with every change."""
        self._is_known = np.zeros(0, np.bool_)
        self._fraction = np.zeros(0, np.float64)
        self._method = np.zeros(0, np.uint8)
        self._sequence = np.zeros(0, np.int64)
        self._counts = dict.fromkeys(METHODS, 0)
        self._recent_methods: deque[str] = deque(maxlen=100)
        self._ranking = LiveRanking()
        self._recent: dict[int, FrameSummary] = {}
        self._best: dict[int, FrameSummary] = {}

    def take(self, summary: FrameSummary) -> None:
        """Note what `sort` told of a frame."""
        row = summary.row
        if not (0 <= row < MAX_ROWS and abs(summary.sequence) < 2**63):
            return
        self._note(row, summary.graphene_fraction, summary.method, summary.sequence)
        if self.newest is None or row >= self.newest.row:
            self.newest = summary
            self._recent_methods.append(summary.method)
        self._recent[row] = summary
        if len(self._recent) > N_RECENT:
            del self._recent[next(iter(self._recent))]
        if self._ranking.rank(row, summary.graphene_fraction) < N_BEST:
            self._best[row] = summary
            if len(self._best) > 2 * N_BEST:
                best = set(self._ranking.best(N_BEST))
                self._best = {r: kept for r, kept in self._best.items() if r in best}

    def fill(
        self,
        rows: NDArray[np.int64],
        *,
        fractions: NDArray[np.float64],
        methods: Sequence[str],
        sequences: NDArray[np.int64],
    ) -> None:
        """Note scores that were read from the archive, (F,) each."""
        columns = zip(rows.tolist(), fractions.tolist(), methods, sequences.tolist(), strict=True)
        for row, fraction, method, sequence in columns:
            if 0 <= row < MAX_ROWS:
                self._note(row, fraction, method, sequence)

    def note_status(self, status: SeriesStatus) -> None:
        """Note what `sort` told of the series."""
        self.status = status
        self.version += 1

    @property
    def n_known(self) -> int:
        """Frames of which the scores are known."""
        return len(self._ranking)

    @property
    def n_archived(self) -> int:
        """Frames in the archive, as far as is known."""
        return max(self.n_rows, self.status.n_archived if self.status else 0)

    @property
    def is_complete(self) -> bool:
        """Whether the scores of every archived frame are known."""
        return self.n_known >= min(self.n_archived, MAX_ROWS)

    @property
    def fractions(self) -> NDArray[np.float64]:
        """Graphene fraction by row, (n_rows,), NaN where it is not known."""
        shown: NDArray[np.float64] = np.where(
            self._is_known[: self.n_rows], self._fraction[: self.n_rows], np.nan
        )
        return shown

    @property
    def method_counts(self) -> dict[str, int]:
        """Frames by method: unet, bragg, none."""
        return {name: self._counts[name] for name in METHODS[1:]}

    @property
    def recent_methods(self) -> list[str]:
        """Methods of the latest frames, oldest first."""
        return list(self._recent_methods)

    def missing(self) -> NDArray[np.int64]:
        """Rows that are in the archive and not known here."""
        n = min(self.n_archived, MAX_ROWS)
        known = np.zeros(n, np.bool_)
        n_here = min(n, self._is_known.size)
        known[:n_here] = self._is_known[:n_here]
        return np.flatnonzero(~known).astype(np.int64)

    def best(self, n: int) -> list[int]:
        """Rows of the n best frames, best first, as the archive ranks them."""
        return self._ranking.best(n)

    def rank(self, row: int) -> int | None:
        """Place of a frame, 0 is the best; None when it is not known."""
        fraction = self.fraction(row)
        return None if fraction is None else self._ranking.rank(row, fraction)

    def fraction(self, row: int) -> float | None:
        """Graphene fraction of a frame; None when it is not known."""
        return float(self._fraction[row]) if self._knows(row) else None

    def method(self, row: int) -> str:
        """Method of a frame; empty when it is not known."""
        return METHODS[self._method[row]] if self._knows(row) else ""

    def sequence(self, row: int) -> int | None:
        """Sequence of a frame; None when it is not known."""
        return int(self._sequence[row]) if self._knows(row) else None

    def kept(self, threshold: float, rejected: Any = ()) -> tuple[int, int]:
        """Count the frames that a threshold keeps, and those that it or a person rejects."""
        rows = np.flatnonzero(self._is_known[: self.n_rows])
        kept = is_kept(self._fraction[rows], rows=rows, threshold=threshold, rejected=rejected)
        n_kept = int(np.count_nonzero(kept))
        return n_kept, rows.size - n_kept

    def summary(self, row: int) -> FrameSummary | None:
        """Pictures of a frame, where they are at hand: of the latest and the best."""
        return self._recent.get(row) or self._best.get(row)

    def _knows(self, row: int) -> bool:
        return 0 <= row < self.n_rows and bool(self._is_known[row])

    def _note(self, row: int, fraction: float, method: str, sequence: int) -> None:
        self._make_room(row + 1)
        if self._is_known[row]:
            return
        name = method if method in METHODS else "none"
        self._is_known[row] = True
        self._fraction[row] = fraction
        self._method[row] = METHODS.index(name)
        self._sequence[row] = sequence
        self._counts[name] += 1
        self._ranking.insert(row, fraction)
        self.n_rows = max(self.n_rows, row + 1)
        self.version += 1

    def _make_room(self, n_rows: int) -> None:
        if n_rows <= self._is_known.size:
            return
        size = max(n_rows, 2 * self._is_known.size, 1024)
        for name in ("_is_known", "_fraction", "_method", "_sequence"):
            column = getattr(self, name)
            grown = np.zeros(size, column.dtype)
            grown[: column.size] = column
            setattr(self, name, grown)
