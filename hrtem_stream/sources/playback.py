"""How a feed that we play ourselves gives its one series: start, frames, end, finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import (
    FeedFinished,
    FeedFrame,
    FeedGap,
    FeedItem,
    FeedPosition,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.sources.pacing import Pace


class Playback:
    """The items of one series in order, each when it is due."""

    def __init__(
        self,
        start: SeriesStart,
        *,
        position: FeedPosition | None,
        n_frames: int,
        frame: Callable[[int], FeedFrame | FeedGap],
        acquired_ns: Callable[[int], int],
        pace: Pace,
    ) -> None:
        """Stand before the first item.

        Parameters
        ----------
        start
            How the series begins; not given again when there is a `position`.
        position
            Where to go on, None at the beginning.
        n_frames
            Length of the series.
        frame
            Makes the frame with a sequence number, or says that frames are missing from it on.
        acquired_ns
            Gives the time of acquisition of that frame.
        pace
            Says when frames are due.

        Raises
        ------
        FeedError
            When `position` is not in this series.
        """
        if position is not None and position.series != start.series:
            raise FeedError(
                f"cannot continue series {position.series!r}: this feed plays {start.series!r}"
            )
        if position is not None and not 0 <= position.next_sequence <= n_frames:
            raise FeedError(
                f"cannot continue series {start.series!r} at frame {position.next_sequence}: "
                f"it has {n_frames}"
            )
        self._waiting: deque[FeedItem] = deque([start] if position is None else [])
        self._sequence = position.next_sequence if position else 0
        self._series = start.series
        self._n_frames = n_frames
        self._frame = frame
        self._acquired_ns = acquired_ns
        self._pace = pace
        self._has_ended = False

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return the next item, None when it is not due within `timeout_s`."""
        if self._waiting:
            return self._waiting.popleft()
        if self._sequence < self._n_frames:
            return self._next_frame(timeout_s)
        if not self._has_ended:
            self._has_ended = True
            return SeriesEnd(series=self._series, n_frames=self._n_frames)
        return FeedFinished()

    def _next_frame(self, timeout_s: float) -> FeedFrame | FeedGap | None:
        if not self._pace.wait(self._acquired_ns(self._sequence), timeout_s=timeout_s):
            return None
        item = self._frame(self._sequence)
        self._pace.advance()
        self._sequence += item.n_frames if isinstance(item, FeedGap) else 1
        return item
