"""Runs a stage between two sockets: batching, order, suspects, metrics, heartbeat, stopping.

The runner emits in the order in which it received, marks and control records included: the
delivery guarantee rests on that. It is stateless; what it holds when it dies is sent again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from hrtem_stream.errors import LogError, WireError
from hrtem_stream.messages import ControlRecord, Mark, Station
from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.meter import Meter
from hrtem_stream.runtime.process import StopRequest
from hrtem_stream.runtime.stage import Stage
from hrtem_stream.runtime.suspicion import Suspicions

logger = logging.getLogger(__name__)

IDLE_WAIT_S = 0.1

Taken = TypeVar("Taken")
Given = TypeVar("Given")


class Inbox(Protocol):
    """Where messages come from."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for a message."""

    def receive(self) -> Sequence[Any] | None:
        """Give the next message's parts, None when there is none."""


class Outbox(Protocol):
    """Where messages go."""

    def send(self, parts: Sequence[Any]) -> None:
        """Send one."""


class Runner(Generic[Taken, Given]):
    """One stage in its process.

    Parameters
    ----------
    decode, encode
        The wire format, as functions.
    batch_frames, batch_wait_s
        A batch is worked on when it has so many messages, or when it has waited so long.
    station
        Which process this is, for the marks that pass.
    patience_s, leave_within_s
        Told to stop, a stage goes at the last mark of its shard, or when nothing has come for its
        patience. A stage of all shards has none: it goes as soon as nothing comes. It goes in any
        case after `leave_within_s`.
    """

    def __init__(
        self,
        stage: Stage[Taken, Given],
        *,
        inbox: Inbox,
        outbox: Outbox,
        decode: Callable[[Sequence[Any]], Any],
        encode: Callable[[Any], Sequence[Any]],
        suspicions: Suspicions,
        meter: Meter,
        heart: Heart,
        stop: StopRequest,
        batch_frames: int,
        batch_wait_s: float,
        station: Station,
        patience_s: float = 0.0,
        leave_within_s: float = math.inf,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._stage = stage
        self._inbox = inbox
        self._outbox = outbox
        self._decode = decode
        self._encode = encode
        self._suspicions = suspicions
        self._meter = meter
        self._heart = heart
        self._stop = stop
        self._batch_frames = batch_frames
        self._batch_wait_s = batch_wait_s
        self._station = station
        self._patience_s = patience_s
        self._leave_within_s = leave_within_s
        self._clock_ns = clock_ns
        self._log_id = -1
        self._is_last_marked = False
        self._quiet_since_s = time.monotonic()
        self._stopped_s = math.inf

    def run(self) -> None:
        """Work until told to stop and nothing more comes."""
        while True:
            self._heart.beat()
            self._meter.beat()
            messages = self._gather()
            if messages:
                self._work(messages)
                last = messages[-1]
                self._is_last_marked = isinstance(last, Mark) and last.is_last
                self._quiet_since_s = time.monotonic()
            if self._stop.is_set and self._may_go(is_idle=not messages):
                break
        self._stage.flush()

    def _may_go(self, *, is_idle: bool) -> bool:
        """Tell whether a stage that was told to stop leaves nothing behind, or has no more time."""
        now_s = time.monotonic()
        self._stopped_s = min(self._stopped_s, now_s)
        if now_s - self._stopped_s > self._leave_within_s:
            logger.warning("stopped with frames under way: they are sent again")
            return True
        if self._patience_s and self._is_last_marked:
            return True
        return is_idle and now_s - self._quiet_since_s >= self._patience_s

    def _gather(self) -> list[Any]:
        """Collect messages up to a batch of frames."""
        messages: list[Any] = []
        n_frames = 0
        deadline = time.monotonic() + IDLE_WAIT_S
        while n_frames < self._batch_frames:
            parts = self._inbox.receive()
            if parts is None:
                left = deadline - time.monotonic()
                with self._meter.spend("wait"):
                    has_come = left > 0 and self._inbox.wait(left)
                if not has_come:
                    break
                continue
            message = self._read(parts)
            if message is None:
                continue
            if not messages:
                deadline = time.monotonic() + self._batch_wait_s
            messages.append(message)
            n_frames += not isinstance(message, Mark | ControlRecord)
        return messages

    def _read(self, parts: Sequence[Any]) -> Any:
        try:
            with self._meter.spend("copy"):
                return self._decode(parts)
        except WireError as error:
            self._meter.count_rejected(error.reason)
            logger.debug("message dropped: %s", error)
            return None

    def _work(self, messages: list[Any]) -> None:
        for message in messages:
            self._follow_log(message.delivery.log_id)
        frames = [m for m in messages if not isinstance(m, Mark | ControlRecord)]
        self._meter.frames_received.inc(len(frames))
        self._meter.in_progress_frames.set(len(frames))
        results = dict(self._process(frames))
        for message in messages:
            if isinstance(message, Mark):
                self._outbox.send(self._encode(self._signed(message)))
            elif isinstance(message, ControlRecord):
                self._outbox.send(self._encode(message))
            elif message.delivery.pub in results:
                self._send(results[message.delivery.pub])
        self._meter.in_progress_frames.set(0)

    def _follow_log(self, log_id: int) -> None:
        """Make ready for a new log: no frame is sent before its first mark has come back."""
        if log_id != self._log_id:
            self._log_id = log_id
            self._stage.follow_log(log_id)

    def _signed(self, mark: Mark) -> Mark:
        """Let a mark tell that it passed here."""
        station = replace(self._station, n_done=self._heart.n_done, is_leaving=self._stop.is_set)
        return replace(mark, stations=(*mark.stations, station))

    def _process(self, frames: list[Any]) -> list[tuple[int, Given]]:
        """Work on frames: the unsuspected together, suspects alone, the condemned not at all."""
        results: list[tuple[int, Given]] = []
        together: list[Any] = []
        for frame in frames:
            delivery = frame.delivery
            self._suspicions.follow_log(delivery.log_id)
            if self._suspicions.is_condemned(delivery.ordinal):
                logger.error(
                    "series %s frame %d: passed on without work, it ended this stage twice",
                    frame.header.series, frame.header.sequence,
                )  # fmt: skip
                reason = f"the frame ended {self._stage.name} twice"
                results.append((delivery.pub, self._stage.pass_on(frame, reason)))
            elif self._suspicions.is_suspect(delivery.ordinal):
                results += self._run_stage([frame])
                self._suspicions.clear(delivery.ordinal)
            else:
                together.append(frame)
        return results + self._run_stage(together)

    def _run_stage(self, frames: list[Any]) -> list[tuple[int, Given]]:
        if not frames:
            return []
        self._suspicions.note([frame.delivery.ordinal for frame in frames])
        began = time.perf_counter()
        try:
            with self._meter.spend("work"):
                given = self._stage.process(frames)
        except LogError as error:  # overwritten meanwhile, so it was archived long ago
            logger.debug("frames dropped: %s", error)
            self._meter.count_rejected("log")
            self._suspicions.wipe()
            return [] if len(frames) == 1 else self._one_by_one(frames)
        self._suspicions.wipe()
        self._meter.stage_seconds.observe(time.perf_counter() - began)
        return [(f.delivery.pub, g) for f, g in zip(frames, given, strict=True)]

    def _one_by_one(self, frames: list[Any]) -> list[tuple[int, Given]]:
        return [result for frame in frames for result in self._run_stage([frame])]

    def _send(self, result: Any) -> None:
        with self._meter.spend("copy"):
            parts = self._encode(result)
            self._outbox.send(parts)
        self._meter.frames_sent.inc()
        self._meter.bytes_sent.inc(sum(map(len, parts)))
        self._meter.frame_age_seconds.observe(
            max(0.0, (self._clock_ns() - result.header.received_ns) / 1e9)
        )
        self._heart.n_done += 1
