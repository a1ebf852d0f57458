"""sort: brings frames back into order, archives and ranks them, and acknowledges.

Records are settled in the order of their ordinals, so a file always holds a beginning of its
series. Frames are flattened and compressed by threads as they arrive; what waits for its turn is
held. An acknowledgement says what is flushed, and is repeated.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from hrtem_stream.archive.encoding import EncodedFrame, SetAsideFrame
from hrtem_stream.errors import ArchiveError, FrameError, LogError, WireError
from hrtem_stream.messages import (
    ControlRecord,
    FrameHeader,
    LossRange,
    Mark,
    Pixels,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.meter import Meter
from hrtem_stream.stages import announcements
from hrtem_stream.stages.announcements import Announcements, latency_of
from hrtem_stream.stages.series import PLACEHOLDER, Encoders, SortedSeries
from hrtem_stream.stages.stations import Stations
from hrtem_stream.transport.delivery import Receipt
from hrtem_stream.transport.wire import decode

logger = logging.getLogger(__name__)

Encoded: TypeAlias = EncodedFrame | SetAsideFrame

STATE_INTERVAL_S = 0.1
STATUS_INTERVAL_S = 1.0
IDLE_FLUSH_S = 0.005
"""Least time between two flushes of a stage that waits for frames."""
RETRY_S = 1.0
IMAGE_WAIT_S = 2.0
MESSAGES_A_TURN = 64
TOPIC = b"state:"
ROTTEN = "damaged in the frame log"


class Inbox(Protocol):
    """Where segmented frames come from."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for a message, or for the descriptor of `also_wake_on`."""

    def receive(self) -> Sequence[Any] | None:
        """Give the next message's parts, None when there is none."""

    def also_wake_on(self, descriptor: int) -> None:
        """Let `wait` return when a descriptor becomes readable."""


class LogReader(Protocol):
    """Where the pixels of a frame are had from."""

    def pixels(
        self, log_id: int, ordinal: int, offset: int, dtype: str, shape: tuple[int, int]
    ) -> NDArray[Any]:
        """Give the pixels of a frame, read-only."""

    def may_be(self, log_id: int) -> bool:
        """Tell whether a message can come from this log."""

    def still_there(self, ordinal: int, offset: int) -> bool:
        """Tell whether they were not overwritten meanwhile."""


class Stop(Protocol):
    """Tells when to stop."""

    is_set: bool


class Outbox(Protocol):
    """Where acknowledgements go."""

    def send(self, parts: Sequence[Any]) -> None:
        """Send one."""


@dataclass(slots=True)
class _Held:
    message: SegmentedFrame | ControlRecord
    encoding: Future[Encoded] | None

    def is_ready(self) -> bool:
        return self.encoding is None or self.encoding.done()


class Sort:
    """The stage.

    Parameters
    ----------
    series
        The open archives.
    reader
        Gives the pixels of a frame.
    acknowledge, tell
        Where acknowledgements and summaries are published.
    window
        Of `ingest`: what is held must not grow so far without a flush.
    flush_frames, flush_s
        A flush follows after so many frames, or so long, or when no frame is being encoded.
    full_disk_wait_s
        How long a full disk is waited for.
    follow_log
        Has the reader open a log, by its identity.
    """

    name = "sort"

    def __init__(
        self,
        *,
        series: SortedSeries,
        reader: LogReader,
        inbox: Inbox,
        acknowledge: Outbox,
        tell: announcements.Outbox,
        meter: Meter,
        heart: Heart,
        stop: Stop,
        window: int,
        flush_frames: int,
        flush_s: float,
        n_threads: int,
        full_disk_wait_s: float,
        follow_log: Callable[[int], None] = lambda log_id: None,
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._series = series
        self._reader = reader
        self._inbox = inbox
        self._acknowledge = acknowledge
        self._announcements = Announcements(tell)
        self._meter = meter
        self._heart = heart
        self._stop = stop
        self._flush_frames = max(1, min(flush_frames, window // 4))
        self._flush_s = flush_s
        self._full_disk_wait_s = full_disk_wait_s
        self._open_log = follow_log
        self._clock = clock
        self._clock_ns = clock_ns
        self._receipt = Receipt(incarnation=secrets.randbits(63))
        self._stations = Stations()
        self._held: dict[int, _Held] = {}
        self._encoders = Encoders(series.codec, series.keep)
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="encode")
        self._n_threads = meter.stopwatch.n_threads = n_threads
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        inbox.also_wake_on(self._wake)
        self._flushed_s = clock()
        self._told_s = 0.0
        self._status_s = 0.0
        self._full_since_s: float | None = None
        self._retry_at_s = 0.0
        self._is_marked = False
        self._without_image_since_s: float | None = None

    def run(self) -> None:
        """Work until told to stop and nothing is held.

        Raises
        ------
        ArchiveError
            The archive cannot be written.
        """
        try:
            # No mark comes back before, so no frame is sent that would wait for it.
            self._encoders.warm_up()
            self._series.prepare()
            while not (self._stop.is_set and not self._held):
                self.turn()
        finally:
            self.close()
            self._series.abandon()

    @property
    def n_held(self) -> int:
        """Records that came and are not settled yet."""
        return len(self._held)

    @property
    def is_encoding(self) -> bool:
        """Whether a frame is being encoded, which takes long while that is still compiled."""
        return any(
            held.encoding is not None and not held.encoding.done() for held in self._held.values()
        )

    def close(self) -> None:
        """Let go of the threads; the archives stay open."""
        self._threads.shutdown(cancel_futures=True)
        os.close(self._wake)

    def turn(self) -> None:
        """Do one turn of the loop."""
        self._heart.beat()
        self._meter.beat()
        with self._meter.spend("wait"):
            self._inbox.wait(self._waiting_time())
        self._clear_wake()
        for _ in range(MESSAGES_A_TURN):
            parts = self._inbox.receive()
            if parts is None:
                break
            self._take(parts)
        settled = self._flush_if_due()
        if not self._held and not self._series.open_ids:
            self._series.prepare()
        now_s = self._clock()
        if settled or self._is_marked or now_s - self._told_s >= STATE_INTERVAL_S:
            self._send_state(now_s)

    def _waiting_time(self) -> float:
        now_s = self._clock()
        due_s = [self._told_s + STATE_INTERVAL_S]
        if self._full_since_s is not None:
            due_s.append(self._retry_at_s)
        elif self._next_is_ready():
            interval_s = IDLE_FLUSH_S if self._is_idle() else self._flush_s
            due_s.append(self._flushed_s + interval_s)
        return max(0.0, min(due_s) - now_s)

    def _clear_wake(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return

    def _take(self, parts: Sequence[Any]) -> None:
        try:
            with self._meter.spend("copy"):
                message = decode(parts)
        except WireError as error:
            self._meter.count_rejected(error.reason)
            logger.debug("message dropped: %s", error)
            return
        delivery = message.delivery
        if self._receipt.is_new_log(delivery):
            if not self._reader.may_be(delivery.log_id):
                self._meter.count_rejected("another_log")
                return
            self._follow_log(message)
        base = self._receipt.base
        is_new = self._receipt.take(delivery)
        if self._receipt.base > base:
            for ordinal in [o for o in self._held if o < self._receipt.base]:
                del self._held[ordinal]
        if isinstance(message, Mark):
            self._is_marked = True
            self._stations.note(message, self._clock())
        elif not is_new:
            self._meter.duplicates.inc()
        elif isinstance(message, SegmentedFrame):
            self._hold_frame(message)
        elif isinstance(message, ControlRecord):
            self._held[delivery.ordinal] = _Held(message, None)
        else:
            self._receipt.drop(delivery.ordinal)
            self._meter.count_rejected("kind")

    def _follow_log(self, message: Any) -> None:
        """Seal what belongs to a log that is gone, and follow the new one."""
        if self._receipt.log_id != -1:
            logger.error("the frame log was replaced: its series are sealed as they are")
            self._held.clear()
            self._series.seal("the frame log was replaced")
        self._receipt.begin_log(message.delivery)
        self._open_log(message.delivery.log_id)

    def _hold_frame(self, frame: SegmentedFrame) -> None:
        self._meter.frames_received.inc()
        # A frame by itself has all threads; where frames wait, each has work of its own.
        helper = self._threads if self._n_threads > 1 and self._is_idle() else None
        encoding = self._threads.submit(self._encode, frame, helper)
        encoding.add_done_callback(lambda _: os.eventfd_write(self._wake, 1))
        self._held[frame.delivery.ordinal] = _Held(frame, encoding)

    def _encode(self, frame: SegmentedFrame, helper: Executor | None) -> Encoded:
        """Encode a frame, in a thread.

        Raises
        ------
        LogError
            The frame is not in the log any more.
        FrameError
            It is, but its pixels are not those that were received.
        """
        delivery, header = frame.delivery, frame.header
        encoded = self._encoders.encode(frame, self._pixels_of(frame), helper=helper)
        if frame.pixels is not None:
            if encoded.digest != header.digest:
                raise LogError(f"record {delivery.ordinal} was damaged on its way")
            return encoded
        if not self._reader.still_there(delivery.ordinal, delivery.offset):
            raise LogError(f"record {delivery.ordinal} was overwritten while it was read")
        if encoded.digest != header.digest:
            raise FrameError(ROTTEN)
        return encoded

    def _next_is_ready(self) -> bool:
        following = self._held.get(self._receipt.base)
        return following is not None and following.is_ready()

    def _flush_if_due(self) -> bool:
        """Archive what is next in order and ready, when it is enough or late; tell if so."""
        now_s = self._clock()
        if not self._next_is_ready() or now_s < self._retry_at_s:
            return False
        ready = self._ready()
        is_due = (
            len(ready) >= self._flush_frames
            or now_s - self._flushed_s >= self._flush_s
            or (self._is_idle() and now_s - self._flushed_s >= IDLE_FLUSH_S)
            or self._is_marked
            or any(isinstance(held.message, ControlRecord) for held in ready)
        )
        if not is_due:
            return False
        began = time.perf_counter()
        with self._meter.spend("work"):
            n_settled = self._archive(ready)
        self._meter.stage_seconds.observe(time.perf_counter() - began)
        self._flushed_s = self._clock()
        return n_settled > 0

    def _is_idle(self) -> bool:
        """Tell whether nothing is being encoded: then there is time to flush what is ready."""
        return all(held.is_ready() for held in self._held.values())

    def _ready(self) -> list[_Held]:
        """List what is next in order and ready, at most one flush."""
        ready: list[_Held] = []
        while len(ready) < self._flush_frames:
            held = self._held.get(self._receipt.base + len(ready))
            if held is None or not held.is_ready():
                break
            ready.append(held)
        return ready

    def _archive(self, ready: list[_Held]) -> int:
        """Archive records in order, frames of a series together; give the number settled."""
        n_settled = 0
        while n_settled < len(ready):
            if self._drop_unread(ready[n_settled]):
                break
            frames = self._leading_frames(ready[n_settled:])
            group = ready[n_settled : n_settled + max(1, len(frames))]
            try:
                if not self._open_archive(group[0].message):
                    break
                if frames:
                    self._archive_frames(frames)
                else:
                    self._archive_record(group[0].message)
            except ArchiveError as error:
                self._wait_for_disk(error)
                break
            ordinals = [held.message.delivery.ordinal for held in group]
            self._receipt.settle(ordinals)
            for ordinal in ordinals:
                del self._held[ordinal]
            n_settled += len(group)
            if self._full_since_s is not None:
                self._full_since_s = None
                self._meter.archive_waiting.set(0)
        return n_settled

    def _leading_frames(self, ready: Sequence[_Held]) -> list[tuple[SegmentedFrame, Encoded]]:
        frames: list[tuple[SegmentedFrame, Encoded]] = []
        for held in ready:
            message = held.message
            if not isinstance(message, SegmentedFrame) or held.encoding is None:
                break
            if frames and message.header.series_id != frames[0][0].header.series_id:
                break
            if held.encoding.exception() is not None:
                break
            frames.append((message, held.encoding.result()))
        return frames

    def _drop_unread(self, held: _Held) -> bool:
        """Forget a frame whose pixels could not be read in the log, so that it is sent again.

        Tell whether it was one. A `FrameError` is a loss; what is neither is a bug, and is raised.
        """
        error = held.encoding.exception() if held.encoding is not None else None
        if error is None:
            return False
        if isinstance(error, FrameError):
            return False
        if not isinstance(error, LogError):
            raise error
        logger.warning("a frame is asked for again: %s", error)
        self._meter.count_rejected("log")
        ordinal = held.message.delivery.ordinal
        self._receipt.drop(ordinal)
        del self._held[ordinal]
        return True

    def _open_archive(self, message: SegmentedFrame | ControlRecord) -> bool:
        """Have the archive of a record open; tell if that must wait until a frame shows its shape.

        An archive is made with the first image, since only that knows shape and dtype. Until then
        nothing of the series is settled, the start neither.
        """
        series_id, name = _series_of(message)
        if self._series.is_known(series_id) or _is_void(message):
            return True
        if self._series.resume(name, series_id):
            self._announcements.follow(series_id, self._series.ranking(series_id))
            return True
        following = self._following(series_id)
        first = next((m.header for m in following if _is_image(m)), None)
        is_ended = any(isinstance(getattr(m, "record", None), SeriesEnd) for m in following)
        if first is None and not is_ended and not self._has_waited_for_image(following):
            return False
        self._without_image_since_s = None
        start = getattr(message, "record", None)
        if not isinstance(start, SeriesStart):
            start = SeriesStart(series=name, series_id=series_id)
        shape, dtype = (first.shape, first.dtype) if first else PLACEHOLDER
        # Where the file with the earlier frames was taken away, the others go on with their rows.
        first_row = message.header.row if isinstance(message, SegmentedFrame) else 0
        self._series.create(start, message.delivery, shape=shape, dtype=dtype, first_row=first_row)
        return True

    def _has_waited_for_image(self, following: Sequence[Any]) -> bool:
        """Tell whether torn frames have waited long enough for an image to show the shape."""
        if not any(isinstance(message, SegmentedFrame) for message in following):
            return False
        now_s = self._clock()
        if self._without_image_since_s is None:
            self._without_image_since_s = now_s
        return now_s - self._without_image_since_s >= IMAGE_WAIT_S

    def _following(self, series_id: str) -> list[Any]:
        """List what is held of a series, in order."""
        return [
            self._held[ordinal].message
            for ordinal in sorted(self._held)
            if _series_of(self._held[ordinal].message)[0] == series_id
        ]

    def _archive_frames(self, frames: list[tuple[SegmentedFrame, Encoded]]) -> None:
        new = self._series.numbered(frames)
        self._meter.duplicates.inc(len(frames) - len(new))
        for n, (frame, _) in enumerate(new):
            if _is_image(frame) and self._series.is_placeholder_for(frame.header):
                self._append(new[:n])
                self._series.replace_placeholder(frame)
                new = new[n:]
                break
        self._append(new)

    def _append(self, new: list[tuple[SegmentedFrame, Encoded]]) -> None:
        if not new:
            return
        fitting = [
            (frame, encoded if self._series.fits(frame.header) else self._set_aside(frame, encoded))
            for frame, encoded in new
        ]
        archived_ns = self._clock_ns()
        self._series.append(fitting, archived_ns)
        for frame, encoded in fitting:
            self._count(frame, encoded, archived_ns)
        self._announcements.tell_frames((frame for frame, _ in fitting), archived_ns)

    def _set_aside(self, frame: SegmentedFrame, encoded: Encoded) -> SetAsideFrame:
        """Keep the bytes of a frame that does not fit the images of its series."""
        if isinstance(encoded, SetAsideFrame):
            return encoded
        return self._series.set_aside(frame, self._pixels_of(frame))

    def _pixels_of(self, frame: SegmentedFrame) -> Pixels:
        """Give the pixels of a frame, out of its message or out of the log."""
        if frame.pixels is not None:
            return frame.pixels
        delivery, header = frame.delivery, frame.header
        return self._reader.pixels(
            delivery.log_id, delivery.ordinal, delivery.offset, header.dtype, header.shape
        )

    def _archive_record(self, message: SegmentedFrame | ControlRecord) -> None:
        record = message.record if isinstance(message, ControlRecord) else _rotten(message.header)
        match record:
            case LossRange() if record.n_frames:
                self._series.declare_loss(record, message.delivery.ordinal)
            case SeriesEnd():
                is_open = record.series_id in self._series.open_ids
                status = self._series.status(record.series_id) if is_open else None
                imbalance = self._series.close(
                    record, message.delivery.ordinal, self._receipt.n_duplicates
                )
                self._meter.ledger_imbalance.inc(imbalance)
                self._announcements.forget(record.series_id)
                if status is not None:
                    self._announcements.tell_closed(status)

    def _wait_for_disk(self, error: ArchiveError) -> None:
        """Take a full disk as a reason to wait; anything else ends the stage."""
        self._meter.archive_errors.inc()
        cause = error.__cause__
        full = (errno.ENOSPC, errno.EDQUOT)
        if not (isinstance(cause, OSError) and cause.errno in full):
            raise error
        now_s = self._clock()
        if self._full_since_s is None:
            self._full_since_s = now_s
            logger.error("%s; frames wait in the frame log until there is room", error)
        if now_s - self._full_since_s > self._full_disk_wait_s:
            raise error
        self._meter.archive_waiting.set(1)
        self._retry_at_s = now_s + RETRY_S

    def _send_state(self, now_s: float) -> None:
        if self._receipt.log_id != -1:
            state = self._receipt.state(leaving=self._stations.leaving)
            self._acknowledge.send([TOPIC, state.encode()])
        self._told_s = now_s
        self._is_marked = False
        self._meter.queue_frames.set(len(self._held))
        if now_s - self._status_s >= STATUS_INTERVAL_S:
            self._status_s = now_s
            self._announcements.tell_status(
                [self._series.status(series_id) for series_id in self._series.open_ids]
            )
            self._announcements.tell_stations(self._stations.told(now_s))

    def _count(self, frame: SegmentedFrame, encoded: Encoded, archived_ns: int) -> None:
        header = frame.header
        n_stored = encoded.stored_bytes if isinstance(encoded, EncodedFrame) else header.n_bytes
        self._heart.n_done += 1
        self._meter.frames_sent.inc()
        self._meter.raw_bytes.inc(header.n_bytes)
        self._meter.stored_bytes.inc(n_stored)
        self._meter.frame_age_seconds.observe(latency_of(frame, archived_ns))
        if frame.method != "none":
            self._meter.graphene_ratio.observe(frame.graphene_fraction)


def _series_of(message: SegmentedFrame | ControlRecord) -> tuple[str, str]:
    """Give identity and, where the message has it, name of the series."""
    if isinstance(message, SegmentedFrame):
        return message.header.series_id, message.header.series
    record = message.record
    return record.series_id, record.series


def _rotten(header: FrameHeader) -> LossRange:
    """Declare a frame lost whose pixels changed in the frame log."""
    logger.error("series %s frame %d is lost: %s", header.series, header.sequence, ROTTEN)
    return LossRange(
        series=header.series, series_id=header.series_id, first=header.sequence, n_frames=1,
        reason=ROTTEN,
    )  # fmt: skip


def _is_void(message: SegmentedFrame | ControlRecord) -> bool:
    """Tell whether a record only holds the place of one that is not wanted: a loss of nothing."""
    record = getattr(message, "record", None)
    return isinstance(record, LossRange) and not record.n_frames


def _is_image(message: Any) -> bool:
    return isinstance(message, SegmentedFrame) and message.header.shape[1] > 0
