"""What `ingest` asks of a feed, whatever the feed is."""

from __future__ import annotations

from typing import Protocol

from hrtem_stream.messages import FeedItem, FeedPosition


class Source(Protocol):
    """A feed that yields, for each series, a start, its frames and an end.

    A feed that has nothing more to give, ever, ends with `FeedFinished`.
    """

    @property
    def can_wait(self) -> bool:
        """Whether the feed holds frames back while the frame log is full; else it loses them."""

    def open(self, position: FeedPosition | None) -> None:
        """Begin to read the feed.

        Parameters
        ----------
        position
            Where a restarted `ingest` left off. A feed that can be read again continues with
            that sequence number and without a new `SeriesStart`; a live one ignores it.

        Raises
        ------
        FeedError
            When the feed cannot be reached or read.
        """

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return what comes next, None when nothing came within `timeout_s` seconds.

        Never raises for a bad message or frame: that becomes a `FeedReject`, or a `FeedFrame`
        with a `fault`.
        """

    def close(self) -> None:
        """Let go of sockets and files; a second call does nothing."""
