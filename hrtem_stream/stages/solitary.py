"""Brings frames into an archive without processes: the very stages of a session, one by one."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.errors import ArchiveError, LogError
from hrtem_stream.messages import (
    ControlRecord,
    Delivery,
    FeedFinished,
    FeedFrame,
    FeedGap,
    FrameHeader,
    RawFrame,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.meter import Meter
from hrtem_stream.stages.account import Entry, SeriesAccount
from hrtem_stream.stages.normalise import Normalise, PixelReader
from hrtem_stream.stages.segment import Segment
from hrtem_stream.stages.series import SortedSeries
from hrtem_stream.stages.sort import LogReader, Sort
from hrtem_stream.transport.wire import encode

BATCH_FRAMES = 8
STUCK_S = 5.0
"""`sort` waits so long at most for a record that is not given to it yet: an image, an end."""
LATE_FRAMES = 1024

Item = TypeVar("Item")


class Feed(Protocol):
    """A recording."""

    def open(self, position: None) -> None:
        """Open it at its beginning."""

    def receive(self, timeout_s: float) -> Any:
        """Give the next item."""

    def close(self) -> None:
        """Let go of it."""


class Analysis:
    """normalise and segment, one after the other.

    Parameters
    ----------
    make_normalise
        Gives the stage; it is handed where pixels are had from.
    make_segment
        Gives the other one.
    """

    def __init__(
        self,
        make_normalise: Callable[[PixelReader], Normalise],
        make_segment: Callable[[], Segment],
    ) -> None:
        self._make_normalise, self._make_segment = make_normalise, make_segment
        self._segment: Segment | None = None
        self._normalise: tuple[PixelReader, Normalise] | None = None

    def __call__(self, frames: list[RawFrame], reader: PixelReader) -> list[SegmentedFrame]:
        """Analyse frames whose pixels the reader has; the stages are made when they are needed."""
        if not frames:
            return []
        if self._normalise is None or self._normalise[0] is not reader:
            self._normalise = reader, self._make_normalise(reader)
        if self._segment is None:
            self._segment = self._make_segment()
        return self._segment.process(self._normalise[1].process(frames))


def archive_feed(
    feed: Feed,
    series: SortedSeries,
    *,
    analyse: Analysis,
    series_id: str,
    folder: Path,
    n_threads: int = 1,
    note: Callable[[int], None] = lambda n: None,
) -> None:
    """Bring a recorded feed into its archive.

    Parameters
    ----------
    feed
        One series, which can wait.
    series
        The archive.
    analyse
        What is done with the frames.
    series_id
        Identity of the series.
    folder
        For what a stage leaves beside its work.
    n_threads
        Threads that flatten and compress.
    note
        Told how many frames have been read so far.

    Raises
    ------
    ArchiveError
        The archive cannot be written.
    FeedError
        The recording cannot be read.
    """
    log_id = xxhash.xxh3_64_intdigest(series_id.encode()) >> 1
    kept = _KeptPixels(log_id)
    account = SeriesAccount(
        default_series="", feed="replay", late_frames=LATE_FRAMES, new_id=lambda: series_id
    )

    def items() -> Iterator[RawFrame | ControlRecord]:
        for ordinal, entry in enumerate(_entries(feed, account, note)):
            digest = 0
            if entry.pixels is not None:
                digest = kept.keep(ordinal, entry.pixels)
            delivery = Delivery(
                log_id=log_id, ordinal=ordinal, offset=0, pub=ordinal, shard=0, floor=0,
                digest=digest,
            )  # fmt: skip
            if isinstance(entry.record, FrameHeader):
                yield RawFrame(delivery=delivery, header=replace(entry.record, digest=digest))
            else:
                yield ControlRecord(delivery=delivery, record=entry.record)

    def messages() -> Iterator[SegmentedFrame | ControlRecord]:
        for batch in batches(items(), BATCH_FRAMES):
            frames = iter(analyse([item for item in batch if isinstance(item, RawFrame)], kept))
            for item in batch:
                yield next(frames) if isinstance(item, RawFrame) else item

    n_left = sort_messages(messages(), series, kept, folder=folder, n_threads=n_threads)
    if n_left:
        raise ArchiveError(f"{n_left} records of series {series_id} could not be archived")


def sort_messages(
    messages: Iterable[SegmentedFrame | ControlRecord],
    series: SortedSeries,
    reader: LogReader,
    *,
    folder: Path,
    n_threads: int,
) -> int:
    """Let `sort` archive messages that come in order; give the number that it could not.

    Raises
    ------
    ArchiveError
        The archive cannot be written.
    """
    wire, nobody = Wire(), Wire()
    sort = Sort(
        series=series, reader=reader, inbox=wire, acknowledge=nobody, tell=nobody,
        meter=Meter("sort"), heart=Heart(folder / "sort.heart"), stop=_Never(),
        window=4 * BATCH_FRAMES, flush_frames=BATCH_FRAMES, flush_s=0.0,
        n_threads=n_threads, full_disk_wait_s=0.0,
    )  # fmt: skip
    try:
        for batch in batches(iter(messages), BATCH_FRAMES):
            wire.messages.extend(encode(message) for message in batch)
            _settle(sort, n_held=2 * BATCH_FRAMES)
        _settle(sort, n_held=0)
    finally:
        sort.close()
    return sort.n_held


class Wire:
    """Carries messages from hand to hand, in the place of sockets."""

    def __init__(self) -> None:
        self.messages: deque[Sequence[Any]] = deque()

    def wait(self, timeout_s: float) -> bool:
        """Tell whether there is a message."""
        return bool(self.messages)

    def receive(self) -> Sequence[Any] | None:
        """Give the next message."""
        return self.messages.popleft() if self.messages else None

    def also_wake_on(self, descriptor: int) -> None:
        """Do nothing: nobody sleeps here."""

    def is_heard(self, topic: bytes) -> bool:
        """Tell that nobody listens."""
        return False

    def send(self, parts: Sequence[Any]) -> None:
        """Forget what nobody hears."""


def batches(items: Iterator[Item], n: int) -> Iterator[list[Item]]:
    """Give items in lists of at most n."""
    while batch := list(itertools.islice(items, n)):
        yield batch


class _Never:
    is_set = False


class _KeptPixels:
    """The pixels of the latest frames, in the place of the frame log."""

    N_KEPT = 5 * BATCH_FRAMES
    """More than `sort` may hold: two batches, that which is given to it, and one that is made."""

    def __init__(self, log_id: int) -> None:
        self._log_id = log_id
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def keep(self, ordinal: int, pixels: NDArray[Any]) -> int:
        """Keep pixels for a while, and give their digest."""
        pixels = np.ascontiguousarray(pixels)
        self._kept[ordinal] = pixels
        while len(self._kept) > self.N_KEPT:
            self._kept.popitem(last=False)
        return xxhash.xxh3_64_intdigest(pixels.data.cast("B") if pixels.size else b"")

    def pixels(
        self, log_id: int, ordinal: int, offset: int, dtype: str, shape: tuple[int, int]
    ) -> NDArray[Any]:
        """Give the pixels of a frame, as a `FrameLogReader` does."""
        if ordinal not in self._kept:
            raise LogError(f"the pixels of record {ordinal} are no longer there")
        return self._kept[ordinal].reshape(shape if shape[1] else (1, shape[0]))

    def may_be(self, log_id: int) -> bool:
        """Tell whether a message can be one of ours."""
        return log_id == self._log_id

    def still_there(self, ordinal: int, offset: int) -> bool:
        """Tell whether the pixels of a frame are there."""
        return ordinal in self._kept


def _entries(feed: Feed, account: SeriesAccount, note: Callable[[int], None]) -> Iterator[Entry]:
    """Account for what the feed gives, to its end."""
    n_read = 0
    feed.open(None)
    try:
        while True:
            item = feed.receive(1.0)
            now_ns = time.time_ns()
            match item:
                case SeriesStart():
                    yield from account.begin(item, now_ns)
                case FeedFrame():
                    n_read += 1
                    note(n_read)
                    yield from account.take(item, now_ns)
                case FeedGap():
                    yield from account.miss(item, now_ns)
                case SeriesEnd():
                    yield from account.end(item)
                case FeedFinished():
                    yield from account.end(SeriesEnd(reason="the recording ended early"))
                    return
    finally:
        feed.close()


def _settle(sort: Sort, *, n_held: int) -> None:
    """Let `sort` work until it holds no more than so many, or waits for more to come."""
    sort.turn()
    moved_s, before = time.monotonic(), sort.n_held
    while sort.n_held > n_held and time.monotonic() - moved_s < STUCK_S:
        sort.turn()
        if sort.n_held != before or sort.is_encoding:
            moved_s, before = time.monotonic(), sort.n_held
