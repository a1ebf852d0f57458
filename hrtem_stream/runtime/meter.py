"""Metrics of one stage, on one Prometheus port, with `/healthz` beside `/metrics`."""

from __future__ import annotations

import logging
import math
import platform
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app
from prometheus_client.process_collector import ProcessCollector

from hrtem_stream.messages import SegmentedFrame
from hrtem_stream.runtime.access import behind_token
from hrtem_stream.runtime.profile import PARTS, Stopwatch
from hrtem_stream.runtime.tally import Tallies, TallyCollector
from hrtem_stream.version import __version__

logger = logging.getLogger(__name__)

SECONDS_BUCKETS = (
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60,
)  # fmt: skip
RATIO_BUCKETS = tuple(step / 10 for step in range(11))
HEALTHY_S = 10.0
REQUEST_S = 5.0
"""A visitor who has not asked by then is dropped."""


class Meter:
    """The metrics of one process.

    Parameters
    ----------
    stage
        Name of the stage, the only identity in the labels.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.registry = CollectorRegistry()
        self.beat_s = time.monotonic()
        ProcessCollector(registry=self.registry)
        numbers = TallyCollector(stage)
        counter, gauge, histogram = numbers.tally, numbers.level, numbers.spread
        self.frames_received = counter("frames_received", "Frames taken in")
        self.frames_sent = counter("frames_sent", "Frames handed on")
        self.bytes_received = counter("received_bytes", "Bytes taken in")
        self.bytes_sent = counter("sent_bytes", "Bytes handed on")
        self.stage_seconds = histogram("stage_seconds", "Work on one batch", SECONDS_BUCKETS)
        self.frame_age_seconds = histogram(
            "frame_age_seconds", "Time since the frame was received", SECONDS_BUCKETS
        )
        self.queue_frames = gauge("queue_frames", "Frames waiting in this stage")
        self.in_progress_frames = gauge("in_progress_frames", "Frames being worked on")
        self.republished = counter("republished_frames", "Publications beyond the first")
        self.duplicates = counter("duplicate_messages", "Messages of frames that were here already")
        self.graphene_ratio = histogram("graphene_ratio", "Graphene fraction", RATIO_BUCKETS)
        self.confidence = histogram("segment_confidence_ratio", "Confidence", RATIO_BUCKETS)
        self.agreement = histogram(
            "segment_agreement_ratio", "Pixels on which U-Net and Bragg agree", RATIO_BUCKETS
        )
        self.raw_bytes = counter("raw_bytes", "Bytes of frames archived, as received")
        self.stored_bytes = counter("stored_bytes", "Bytes of frames archived, as stored")
        self.frame_log_fill = gauge("frame_log_fill_ratio", "Share of the frame log in use")
        self.ledger_imbalance = gauge(
            "ledger_imbalance", "received - archived - lost of closed series: 0 always"
        )
        self.series_open = gauge("series_open", "1 while a series is under way")
        self.feed_silent_seconds = gauge(
            "feed_silent_seconds", "Time since the feed last said anything, while it was asked"
        )
        self.archive_errors = counter("archive_errors", "Writes that failed, tried again or not")
        self.archive_waiting = gauge(
            "archive_waiting", "1 while frames wait because the archive cannot be written"
        )
        self.stopwatch = Stopwatch()
        self._spent = numbers.tallies("loop_seconds", "Time of the stage's loop", "part")
        for part in PARTS:
            self._spent.inc(part, 0.0)
        self._lost = numbers.tallies("frames_lost", "Frames declared lost", "reason")
        self._rejected = numbers.tallies("messages_rejected", "Messages not understood", "reason")
        self._segmented = numbers.tallies("frames_segmented", "Frames segmented", "method")
        self._switches = numbers.tallies(
            "segmenter_fallbacks", "Batches that the Bragg filter took over", "reason"
        )
        self._scales = numbers.tallies(
            "frames_scaled", "Frames by where the size of their working image is from", "source"
        )
        self._faulty = counter("frames_faulty", "Frames archived raw, without analysis")
        self.registry.register(numbers)  # which learns their names now
        build = Gauge("hrtem_build_info", "Version", ["version", "python"], registry=self.registry)
        build.labels(__version__, platform.python_version()).set(1)

    def count_lost(self, reason: str, n_frames: int) -> None:
        """Count frames that are declared lost."""
        self._lost.inc(reason, n_frames)

    def count_rejected(self, reason: str) -> None:
        """Count a message that could not be understood."""
        self._rejected.inc(reason)

    def note_segmented(self, frame: SegmentedFrame) -> None:
        """Count a frame by the method that segmented it, and note how sure that was."""
        self._segmented.inc(frame.method)
        self._scales.inc(frame.scale)
        if not math.isnan(frame.confidence):
            self.confidence.observe(frame.confidence)
        if not math.isnan(frame.agreement):
            self.agreement.observe(frame.agreement)

    def count_switch(self, reason: str) -> None:
        """Count a batch that the Bragg filter took over from the U-Net."""
        self._switches.inc(reason)

    def count_faulty(self) -> None:
        """Count a frame that cannot be analysed and is archived raw."""
        self._faulty.inc()

    def spend(self, part: str) -> _Spending:
        """Count the time of what is done inside as a part of the loop: wait, copy or work."""
        if part != "wait" and not self.stopwatch.has_begun:
            self.stopwatch.begin()
        return _Spending(self.stopwatch, self._spent, part)

    def beat(self) -> None:
        """Say that the loop turns, for `/healthz`."""
        self.beat_s = time.monotonic()

    def serve(self, host: str, port: int, *, token: str | None = None) -> int:
        """Open the metrics port in a thread; another free one if it is taken. Give the port.

        With a token, `/metrics` asks for it; `/healthz` tells nothing but that the loop turns.
        """
        return serve_metrics(self.registry, host, port, token=token, is_healthy=self._is_healthy)

    def _is_healthy(self) -> bool:
        return time.monotonic() - self.beat_s < HEALTHY_S


class _Spending:
    """Takes the time of what is done inside."""

    __slots__ = ("_began", "_part", "_spent", "_stopwatch")

    def __init__(self, stopwatch: Stopwatch, spent: Tallies, part: str) -> None:
        self._stopwatch = stopwatch
        self._spent = spent
        self._part = part
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        seconds = time.perf_counter() - self._began
        self._stopwatch.seconds[self._part] += seconds
        self._spent.inc(self._part, seconds)


def serve_metrics(
    registry: CollectorRegistry,
    host: str,
    port: int,
    *,
    token: str | None = None,
    is_healthy: Callable[[], bool] = lambda: True,
) -> int:
    """Serve a registry in a thread, on another free port if this one is taken; give the port."""
    metrics = behind_token(make_wsgi_app(registry), token)
    application = _with_health(metrics, is_healthy)
    try:
        server = make_server(host, port, application, _Server, _QuietHandler)
    except OSError as error:
        logger.warning("metrics port %s:%d: %s; a free one is taken", host, port, error.strerror)
        server = make_server(host, 0, application, _Server, _QuietHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_port)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: a visitor who says nothing keeps nobody waiting."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """A request handler that logs nothing."""

    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _with_health(metrics: Any, is_healthy: Callable[[], bool]) -> Any:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == "/healthz":
            ok = is_healthy()
            status = "200 OK" if ok else "503 Service Unavailable"
            start_response(status, [("Content-Type", "text/plain")])
            return [b"ok\n" if ok else b"the loop does not turn\n"]
        answer: Iterable[bytes] = metrics(environ, start_response)
        return answer

    return application
