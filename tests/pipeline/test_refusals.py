"""A feed of which nothing is understood."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrtem_stream.messages import FeedFrame, FeedItem, FeedPosition, FeedReject
from hrtem_stream.pipeline.refusals import ListenedFeed, note_refusal, refusal_of

NONSENSE = FeedReject(reason="bad_header", message="header is no map")
FRAME = FeedFrame(series="s", sequence=0, pixels=np.zeros((2, 2), np.uint8))


class Feed:
    can_wait = True

    def __init__(self, *items: FeedItem) -> None:
        self._items = list(items)

    def open(self, position: FeedPosition | None) -> None:
        pass

    def receive(self, timeout_s: float) -> FeedItem | None:
        return self._items.pop(0) if self._items else None

    def close(self) -> None:
        pass


def _refusal(*items: FeedItem) -> str:
    feed = ListenedFeed(Feed(*items))
    assert [feed.receive(0.0) for _ in items] == list(items)
    assert feed.receive(0.0) is None
    return feed.refusal


def test_a_feed_of_which_all_is_refused_is_spoken_of_with_the_last_reason() -> None:
    said = _refusal(NONSENSE, NONSENSE)
    assert "refused, 2 messages" in said
    assert said.endswith("header is no map")


def test_a_silent_feed_and_one_with_a_frame_are_not() -> None:
    assert _refusal() == ""
    assert _refusal(NONSENSE, FRAME, NONSENSE) == ""


def test_the_session_reads_what_ingest_noted(tmp_path: Path) -> None:
    note_refusal(tmp_path, "")
    assert refusal_of(tmp_path) == ""
    note_refusal(tmp_path, "no frame came")
    assert refusal_of(tmp_path) == "no frame came"
