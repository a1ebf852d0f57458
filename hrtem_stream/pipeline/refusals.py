"""A feed of which nothing is understood: that is noticed in `ingest`, and told by the session."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from hrtem_stream.messages import FeedFrame, FeedItem, FeedPosition, FeedReject

if TYPE_CHECKING:
    from hrtem_stream.stages.ingest import Feed


class ListenedFeed:
    """A feed, and whether frames or only messages that are refused come from it.

    Parameters
    ----------
    feed
        Where frames come from.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.can_wait = feed.can_wait
        self._n_frames = 0
        self._n_refused = 0
        self._latest = ""

    @property
    def refusal(self) -> str:
        """What to say of a feed that sent no frame and was refused; empty for any other."""
        if self._n_frames or not self._n_refused:
            return ""
        return (
            f"no frame came: all that the feed sent was refused, {self._n_refused} messages, "
            f"the last one because {self._latest}"
        )

    def open(self, position: FeedPosition | None) -> None:
        """Attach to the feed."""
        self._feed.open(position)

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Give the next item, None when nothing came in time."""
        item = self._feed.receive(timeout_s)
        if isinstance(item, FeedFrame):
            self._n_frames += 1
        elif isinstance(item, FeedReject):
            self._n_refused += 1
            self._latest = item.message
        return item

    def close(self) -> None:
        """Let go."""
        self._feed.close()


def note_refusal(runtime: Path, refusal: str) -> None:
    """Leave to the session what is to be said of its feed."""
    if refusal:
        with contextlib.suppress(OSError):
            _path(runtime).write_text(refusal, encoding="utf-8")


def refusal_of(runtime: Path) -> str:
    """Read what is to be said of the feed, empty when nothing is."""
    with contextlib.suppress(OSError):
        return _path(runtime).read_text(encoding="utf-8")
    return ""


def _path(runtime: Path) -> Path:
    return runtime / "refused"
