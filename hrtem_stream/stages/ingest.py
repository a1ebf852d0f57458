"""ingest: receives frames, writes them into the frame log, publishes them until archived.

It imports nothing heavy, because a restart costs a live feed the start of this process.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from hrtem_stream.errors import FeedError, LogError, WireError
from hrtem_stream.messages import (
    FeedFinished,
    FeedFrame,
    FeedGap,
    FeedItem,
    FeedPosition,
    FeedReject,
    FrameHeader,
    LossRange,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.meter import Meter
from hrtem_stream.runtime.pause import PAUSED
from hrtem_stream.runtime.process import StopRequest
from hrtem_stream.stages.account import MAX_DIGESTS, Entry, SeriesAccount
from hrtem_stream.stages.backlog import Backlog
from hrtem_stream.transport.delivery import Acknowledgement, Dispatcher
from hrtem_stream.transport.frame_log import FrameLog
from hrtem_stream.transport.log_format import LoggedRecord
from hrtem_stream.transport.mark_pace import MarkPace
from hrtem_stream.transport.wire import (
    CONTROL,
    END_RECORD,
    FRAME_RECORD,
    LOSS_RECORD,
    RAW,
    START_RECORD,
    decode_record,
    encode,
    encode_publication,
    encode_record,
)

logger = logging.getLogger(__name__)

FEED_WAIT_S = 0.01
ACKNOWLEDGEMENT_WAIT_S = 0.02
DUE_INTERVAL_S = 0.05
ASK_INTERVAL_S = 0.002
"""While frames come and may go, acknowledgements and marks are looked after so often."""
SPARE_BYTES = 16_384
"""What a record may need beside its pixels."""
RESERVE_BYTES = 65_536
"""Room of the log that no frame takes: losses and the end of a series are logged at once."""
LOG_FULL = "frame log full"
_KINDS: dict[type[Any], int] = {
    FrameHeader: FRAME_RECORD,
    SeriesStart: START_RECORD,
    LossRange: LOSS_RECORD,
    SeriesEnd: END_RECORD,
}


class Feed(Protocol):
    """What `ingest` needs of a source."""

    can_wait: bool

    def open(self, position: FeedPosition | None) -> None:
        """Attach to the feed."""

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Give the next item, None when nothing came in time."""

    def close(self) -> None:
        """Let go."""


class Inbox(Protocol):
    """Where acknowledgements come from."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for one."""

    def receive(self) -> Sequence[Any] | None:
        """Give the next message's parts, None when there is none."""


class Outbox(Protocol):
    """Where publications go."""

    def send(self, parts: Sequence[Any]) -> None:
        """Send one."""


class Ingest:
    """The stage.

    Parameters
    ----------
    feed
        Where frames come from.
    log, logged
        The frame log, and what it held when it was opened.
    dispatcher
        Decides what is published when.
    account
        Turns what the feed says into records.
    idle_end_s
        A series silent for so long is ended; 0: never.
    first_item_s
        The feed counts as unreachable if nothing came after so long; 0: never.
    finished_mark
        File that says, to a restarted process, that the feed was through; None for a feed that
        never is.
    is_paused
        Tells whether the user has paused saving.
    is_recording
        Whether the feed is a recording: it can be read again, so that nothing hurries.
    waits_when_paused
        Whether the feed waits while saving is paused, as files do; the frames of a camera are
        declared lost meanwhile.
    sends_pixels
        Whether pixels travel in the messages, for stages that cannot see the log.
    """

    name = "ingest"

    def __init__(
        self,
        *,
        feed: Feed,
        log: FrameLog,
        logged: Sequence[LoggedRecord],
        dispatcher: Dispatcher,
        account: SeriesAccount,
        outbox: Outbox,
        inbox: Inbox,
        meter: Meter,
        heart: Heart,
        stop: StopRequest,
        mark_interval_s: float,
        idle_end_s: float,
        first_item_s: float = 0.0,
        finished_mark: Path | None = None,
        is_paused: Callable[[], bool] = lambda: False,
        is_recording: bool = False,
        waits_when_paused: bool = False,
        sends_pixels: bool = False,
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._feed = feed
        self._log = log
        self._dispatcher = dispatcher
        self._account = account
        self._outbox = outbox
        self._inbox = inbox
        self._meter = meter
        self._heart = heart
        self._stop = stop
        self._mark_interval_s = mark_interval_s
        self._mark_pace = MarkPace(interval_s=mark_interval_s)
        self._idle_end_s = idle_end_s
        self._first_item_s = 0.0 if logged else first_item_s
        self._finished_mark = finished_mark
        self._sends_pixels = sends_pixels
        self._is_paused = is_paused
        self._is_recording = is_recording
        self._waits_when_paused = waits_when_paused
        self._recalled_below = log.next_ordinal
        self._clock = clock
        self._clock_ns = clock_ns
        self._waiting = deque(record for record in logged if record.ordinal >= log.base)
        """Logged, not yet published."""
        self._entries: deque[Entry] = deque()
        """Accounted for, not yet logged."""
        self._reserve_bytes = min(RESERVE_BYTES, log.capacity // 8)
        self._largest_bytes = 0
        self._backlog = Backlog()
        self._marked_s = 0.0
        self._checked_s = 0.0
        self._asked_s = 0.0
        self._has_taken = False
        """Whether the feed gave something in the turn before."""
        self._heard_s = clock()
        self._is_finished = False
        self._log_was_full = False
        self._recall(logged)

    def run(self) -> None:
        """Work until the feed is through, or told to stop, and all is archived."""
        if self._finished_mark is not None and self._finished_mark.exists():
            self._finish("")
        else:
            self._open_feed()
        try:
            while not (self._is_finished and self._is_drained()):
                self.turn()
            for mark in self._dispatcher.marks(is_last=True):
                self._outbox.send(encode(mark))
        finally:
            self._feed.close()

    def turn(self) -> None:
        """Do one turn of the loop."""
        now_s = self._clock()
        self._heart.beat()
        self._meter.beat()
        is_flowing = self._has_taken and self._dispatcher.may_publish()
        is_due = not is_flowing or now_s - self._asked_s >= ASK_INTERVAL_S
        if is_due:
            self._asked_s = now_s
            self._hear(now_s)
        self._publish(now_s)
        if is_due:
            self._mark(now_s)
        if self._stop.is_set and not self._is_finished:
            self._finish("stopped by the user")
        if self._entries:
            self._append_entries()
        self._has_taken = False
        if self._may_take():
            with self._meter.spend("wait"):
                item = self._feed.receive(FEED_WAIT_S if self._waits_briefly() else 0.0)
            self._has_taken = item is not None
            self._take(item, now_s)
            self._publish(now_s)  # what came goes before the acknowledgements are looked after
        else:
            self._heard_s = now_s  # the feed is not asked, so its silence means nothing
            if not (self._waiting and self._dispatcher.may_publish()):
                with self._meter.spend("wait"):
                    self._inbox.wait(ACKNOWLEDGEMENT_WAIT_S)

    def _open_feed(self) -> None:
        """Attach to the feed, where an earlier process left it if the feed can go back there."""
        position = self._account.position
        try:
            self._feed.open(position)
        except FeedError as error:
            if position is None:
                raise
            logger.warning("series %s cannot be continued: %s", position.series, error)
            reason = "interrupted, and the feed could not go on where it was"
            self._entries.extend(self._account.end(SeriesEnd(reason=reason)))
            self._feed.open(None)

    def _recall(self, logged: Sequence[LoggedRecord]) -> None:
        """Take up the account where an earlier process left it."""
        if self._log.account:
            self._account.restore(self._log.account)
        for record in logged[-MAX_DIGESTS:]:
            try:
                header = decode_record(record.meta)
            except WireError as error:
                logger.error("record %d of the log is not understood: %s", record.ordinal, error)
                continue
            if isinstance(header, SeriesStart):
                self._account.forget_digests()
            elif isinstance(header, FrameHeader):
                self._account.note_digest(header.sequence, record.digest)

    def _is_drained(self) -> bool:
        return not (self._entries or self._waiting or self._dispatcher.n_outstanding)

    def _waits_briefly(self) -> bool:
        """Tell whether there is time to wait for the feed: nothing else to do meanwhile."""
        return not (self._waiting and self._dispatcher.may_publish())

    def _may_take(self) -> bool:
        """Tell whether another item is wanted from the feed now."""
        if self._is_finished or (self._waits_when_paused and self._is_paused()):
            return False
        if self._feed.can_wait:
            # What is taken must be logged at once: until then only this process knows of it.
            has_room = self._has_room(self._largest_bytes) and not self._entries
            if not self._is_recording:  # what waits in a socket dies with this process
                return has_room
            return has_room and not self._waiting and self._dispatcher.may_publish()
        return True

    def _hear(self, now_s: float) -> None:
        heard = False
        while (parts := self._inbox.receive()) is not None:
            try:
                state = Acknowledgement.decode(bytes(parts[-1]))
            except WireError as error:
                self._meter.count_rejected(error.reason)
                continue
            if state.log_id == self._log.log_id and state.base > self._log.next_ordinal:
                self._meter.count_rejected("impossible_acknowledgement")
                continue
            self._dispatcher.take(state, now_s)
            self._log.acknowledge(self._dispatcher.base)
            heard = True
        if not heard and now_s - self._checked_s < DUE_INTERVAL_S:
            return
        self._checked_s = now_s
        again = self._dispatcher.due(now_s)
        if again:
            logger.info("%d records are published again", len(again))
            self._meter.republished.inc(len(again))
            self._log.count_republished(len(again))
        for record, delivery in again:
            self._send(record, delivery)

    def _publish(self, now_s: float) -> None:
        while self._waiting and self._dispatcher.may_publish():
            record = self._waiting.popleft()
            if record.ordinal < self._dispatcher.base:  # archived before this process knew of it
                continue
            self._send(record, self._dispatcher.publish(record, now_s))
            if record.ordinal < self._recalled_below:  # an earlier process had published it
                self._log.count_republished(1)
                self._meter.republished.inc()

    def _send(self, record: LoggedRecord, delivery: Any) -> None:
        kind = RAW if record.kind == FRAME_RECORD else CONTROL
        travel = kind == RAW and self._sends_pixels
        pixels = self._log.pixel_bytes(record) if travel else None
        self._outbox.send(encode_publication(delivery, record.meta, kind=kind, pixels=pixels))
        self._meter.bytes_sent.inc(len(record.meta) + len(pixels or b""))
        if kind == RAW:
            self._meter.frames_sent.inc()

    def _mark(self, now_s: float) -> None:
        for mark in self._mark_pace.due(self._dispatcher, now_s):
            self._outbox.send(encode(mark))
        if now_s - self._marked_s < self._mark_interval_s:
            return
        self._marked_s = now_s
        fill = self._log.fill
        self._meter.frame_log_fill.set(fill)
        if not self._feed.can_wait:
            said = self._backlog.note(n_waiting=len(self._waiting), fill=fill, now_s=now_s)
            if said:
                logger.warning("%s", said)
        self._meter.queue_frames.set(len(self._waiting))
        self._meter.series_open.set(self._account.is_open)
        self._meter.feed_silent_seconds.set(max(0.0, now_s - self._heard_s))
        self._meter.in_progress_frames.set(self._dispatcher.n_outstanding)

    def _take(self, item: FeedItem | None, now_s: float) -> None:
        """Account for what the feed said."""
        if item is None:
            if self._first_item_s and now_s - self._heard_s > self._first_item_s:
                raise FeedError(f"nothing came from the feed within {self._first_item_s:g} s")
            if self._idle_end_s and now_s - self._heard_s > self._idle_end_s:
                self._end_idle_series()
            return
        self._heard_s = now_s
        self._first_item_s = 0.0
        now_ns = self._clock_ns()
        match item:
            case FeedFrame():
                self._take_frame(item, now_ns)
            case SeriesStart():
                self._entries.extend(self._account.begin(item, now_ns))
                self._heart.n_expected = self._account.n_expected
                logger.info("series %s begins", self._account.series_name)
            case SeriesEnd():
                self._take_end(item)
            case FeedGap():
                self._entries.extend(self._account.miss(item, now_ns))
            case FeedReject():
                self._meter.count_rejected(item.reason)
                self._account.reject(item)
                logger.warning("a message of the feed was dropped: %s", item.message)
            case FeedFinished():
                self._finish("the feed ended without an end of series")
        self._append_entries()

    def _take_end(self, end: SeriesEnd) -> None:
        """End the series, unless the feed speaks of another one, which ended before."""
        name = self._account.series_name
        if end.series and end.series != name:
            self._meter.count_rejected("end_of_another_series")
            logger.warning("the end of series %s came late, %s goes on", end.series, name or "none")
            return
        if self._finished_mark is not None:  # before the end is logged: it must not be played twice
            self._finished_mark.touch()
        self._entries.extend(self._account.end(end))

    def _take_frame(self, frame: FeedFrame, now_ns: int) -> None:
        self._meter.frames_received.inc()
        self._meter.bytes_received.inc(frame.pixels.nbytes)
        if self._is_paused() and not self._waits_when_paused:
            self._entries.extend(self._account.lose(frame, PAUSED, now_ns))
            return
        if frame.pixels.nbytes + SPARE_BYTES + self._reserve_bytes > self._log.capacity:
            logger.error("a frame of %d bytes is larger than the frame log", frame.pixels.nbytes)
            self._entries.extend(self._account.lose(frame, "larger than the frame log", now_ns))
            return
        n_bytes = frame.pixels.nbytes
        self._largest_bytes = max(self._largest_bytes, n_bytes)
        if not self._feed.can_wait and (self._entries or not self._has_room(n_bytes)):
            if not self._log_was_full:
                logger.error("the frame log is full: frames are lost until the archive catches up")
            self._log_was_full = True
            self._entries.extend(self._account.lose(frame, LOG_FULL, now_ns))
            return
        self._log_was_full = False
        self._entries.extend(self._account.take(frame, now_ns))

    def _has_room(self, n_pixel_bytes: int) -> bool:
        """Tell whether a frame can be logged and still leave the reserve."""
        return self._log.fits(SPARE_BYTES + self._reserve_bytes, n_pixel_bytes)

    def _end_idle_series(self) -> None:
        if self._account.is_open:
            reason = f"the feed was silent for {self._idle_end_s:g} s"
            logger.warning("the series is ended: %s", reason)
            self._entries.extend(self._account.end(SeriesEnd(reason=reason)))
            self._append_entries()

    def _finish(self, reason: str) -> None:
        self._is_finished = True
        self._entries.extend(self._account.end(SeriesEnd(reason=reason)))
        self._append_entries()

    def _append_entries(self) -> None:
        """Log what there is room for."""
        while self._entries:
            entry = self._entries[0]
            meta = encode_record(entry.record)
            n_pixel_bytes = 0 if entry.pixels is None else entry.pixels.nbytes
            if not self._log.fits(len(meta) + len(entry.account), n_pixel_bytes):
                return
            kind = _KINDS[type(entry.record)]
            with self._meter.spend("copy"):
                record = self._log.append(kind, meta, entry.account, entry.pixels)
            self._entries.popleft()
            self._waiting.append(record)
            self._count(entry, record)

    def _count(self, entry: Entry, record: LoggedRecord) -> None:
        match entry.record:
            case FrameHeader() as header:
                self._account.note_digest(header.sequence, record.digest)
                self._heart.n_done += 1
                if header.fault:
                    self._meter.count_faulty()
                    logger.warning(
                        "series %s frame %d is archived raw: %s",
                        header.series, header.sequence, header.fault,
                    )  # fmt: skip
            case LossRange() as loss:
                self._meter.count_lost(loss.reason.partition(" (")[0], loss.n_frames)
                logger.error(
                    "%d frames from %d are lost: %s", loss.n_frames, loss.first, loss.reason
                )


def open_log(log_path: Path, capacity: int) -> tuple[FrameLog, list[LoggedRecord]]:
    """Take over the frame log if there is a usable one, else make a new one.

    A log that cannot be taken over is kept beside, with the ending `.damaged`, for recovery.

    Raises
    ------
    LogError
        There is no room for a log.
    SettingsError
        Another process writes it.
    """
    if log_path.exists():
        try:
            return FrameLog.take_over(log_path)
        except LogError as error:
            kept = next(path for path in damaged_paths(log_path) if not path.exists())
            logger.error("%s; it is kept as %s and a new log is begun", error, kept)
            log_path.replace(kept)
    return FrameLog.create(log_path, capacity), []


def damaged_paths(log_path: Path) -> Iterator[Path]:
    """Give the names under which logs that could not be taken over are kept, in order."""
    yield log_path.with_suffix(".damaged")
    for number in itertools.count(2):
        yield log_path.with_name(f"{log_path.stem}-{number}.damaged")


def log_capacity(log_path: Path, wished_mib: float) -> int:
    """Bound the wished size of a log to half of the free space where it shall lie, in bytes."""
    folder = log_path.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = os.statvfs(folder)
    return min(int(wished_mib * 2**20), free.f_bavail * free.f_frsize // 2)
