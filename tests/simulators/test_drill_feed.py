"""The drill's feed does everything wrong, and writes down what is to be found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zmq

from hrtem_stream.messages import FeedFrame, FeedItem, FeedReject, SeriesEnd, SeriesStart
from hrtem_stream.simulators import drill_feed
from hrtem_stream.simulators.drill_book import FeedBook, SentSeries, payload_digest
from hrtem_stream.simulators.drill_feed import KINDS, DrillFeed
from hrtem_stream.sources.native_wire import FeedLimits, decode_feed_message


def _received(tmp_path: Path, *, fault_share: float) -> tuple[list[FeedItem], FeedBook]:
    """Take one series of the feed."""
    book = FeedBook()
    ends: list[str] = []
    feed = DrillFeed(
        book, endpoint=f"ipc://{tmp_path}/feed", pattern="push", size=64, rate=1e6,
        series_s=2e-4, seed=3, prefix="s", is_begun=lambda name: True, is_closed=ends.__contains__,
    )  # fmt: skip
    feed.has_faults = fault_share > 0
    items: list[FeedItem] = []
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.connect(f"ipc://{tmp_path}/feed")
        feed.start()
        while not ends:
            item = decode_feed_message(socket.recv_multipart(), limits=FeedLimits())
            items.append(item)
            if isinstance(item, SeriesEnd):
                feed._stopping.set()
                ends.append(item.series)
        feed.stop()
    return items, book


def _digests(items: list[FeedItem]) -> Counter[tuple[int, bytes]]:
    return Counter(
        (item.sequence, payload_digest(np.ascontiguousarray(item.pixels)))
        for item in items
        if isinstance(item, FeedFrame)
    )


def _expected(series: SentSeries) -> Counter[tuple[int, bytes]]:
    return Counter(
        (number, digest) for number, frame in series.frames.items() for digest in frame.digests
    )


def test_without_faults_every_frame_comes_once_and_in_order(tmp_path: Path) -> None:
    items, book = _received(tmp_path, fault_share=0.0)
    (series,) = book.over()
    assert isinstance(items[0], SeriesStart)
    assert _digests(items) == _expected(series)
    sequences = [item.sequence for item in items if isinstance(item, FeedFrame)]
    assert sequences == list(range(len(series.frames)))
    assert len({digest for _, digest in _digests(items)}) == len(sequences), "each is unique"
    assert not book.faults


def test_with_faults_the_book_still_knows_every_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill_feed, "FAULT_SHARE", 0.5)
    items, book = _received(tmp_path, fault_share=0.5)
    (series,) = book.over()
    assert set(book.faults) == set(KINDS)
    assert set(_digests(items)) == set(_expected(series)), "repeats come twice, nothing else"
    end = items[-1]
    assert isinstance(end, SeriesEnd)
    assert end.n_frames == max(series.frames) + 1 == len(series.frames)
    withheld = [number for number, frame in series.frames.items() if not frame.digests]
    assert len(withheld) >= book.faults["feed_missing"] + book.faults["feed_header_corrupted"]
    n_rejected = sum(isinstance(item, FeedReject) for item in items)
    assert n_rejected == book.faults["feed_junk"] + book.faults["feed_header_corrupted"]
