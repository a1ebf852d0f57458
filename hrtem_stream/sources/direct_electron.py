"""The Direct Electron feed: takes frames out of DE-Server's movie buffer, through deapi.

A call of deapi blocks for as long as the server takes to answer and a buffer of many frames to
arrive, so a thread makes the calls and hands finished buffers over, two at most. A server that is
gone is tried again; frames carry the server's numbers, so what was missed meanwhile shows as a gap.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from hrtem_stream.messages import (
    FeedFinished,
    FeedFrame,
    FeedItem,
    FeedPosition,
    FeedReject,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.sources.direct_electron_camera import CLIENT_ERRORS, Camera, MovieBuffer
from hrtem_stream.sources.stack import supported

logger = logging.getLogger(__name__)

FEED: Final = "direct_electron"
REJECT_REASONS: Final = ("connection_broken", "bad_field")
IDLE_S: Final = 0.2
RETRY_S: Final = 1.0
GIVE_UP_S: Final = 30.0
"""An acquisition that we started counts as ended when the server is gone for so long."""


class DirectElectronSource:
    """Receives acquisitions of a Direct Electron camera, each a series."""

    can_wait = True

    def __init__(
        self, connect: Callable[[], Camera], *, start: bool = False, n_frames: int = 0
    ) -> None:
        """Note how to reach the server.

        Parameters
        ----------
        connect
            Connects to the server, or raises one of `CLIENT_ERRORS`.
        start
            Whether we start one acquisition, after which the feed is finished; else those are
            waited for that others start and ask a movie buffer for.
        n_frames
            Frames of the acquisition that we start, 0 for as many as are set at the server.
        """
        self._reader = _Reader(connect, starts=start, n_frames=n_frames)
        self._pending: deque[FeedItem] = deque()

    @property
    def is_connected(self) -> bool:
        """Whether the server answers."""
        return self._reader.is_connected

    def open(self, position: FeedPosition | None) -> None:
        """Begin to ask the server; with a position, the acquisition under way goes on."""
        self._reader.begin(is_resumed=position is not None)

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return the next item, None when none came within `timeout_s`."""
        if not self._pending:
            try:
                self._pending.extend(self._reader.items.get(timeout=max(1e-4, timeout_s)))
            except queue.Empty:
                return None
        return self._pending.popleft() if self._pending else None

    def close(self) -> None:
        """Ask no more; a second call does nothing."""
        self._reader.close()


class _Reader:
    """The thread that asks the server."""

    def __init__(self, connect: Callable[[], Camera], *, starts: bool, n_frames: int) -> None:
        self.items: queue.Queue[list[FeedItem]] = queue.Queue(maxsize=2)
        self.is_connected = False
        self._connect = connect
        self._starts = starts
        self._n_frames = n_frames
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._is_under_way = False
        self._is_started = False
        self._n_seen = 0
        self._n_expected: int | None = None

    def begin(self, *, is_resumed: bool) -> None:
        """Begin to ask."""
        self._is_under_way = self._is_started = is_resumed
        self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _work(self) -> None:
        n_failures = 0
        while not self._closed.is_set():
            try:
                camera = self._connect()
            except CLIENT_ERRORS as error:
                logger.debug("DE-Server cannot be reached: %s", error)
                n_failures += 1
                if self._is_started and self._starts and n_failures * RETRY_S > GIVE_UP_S:
                    self._finish(f"DE-Server was gone for {GIVE_UP_S:g} s")
                    return
                self._closed.wait(RETRY_S)
                continue
            n_failures, self.is_connected = 0, True
            try:
                if self._attend(camera):
                    return
            except CLIENT_ERRORS as error:
                self.is_connected = False
                reason = "bad_field" if type(error) is ValueError else "connection_broken"
                message = f"DE-Server: {type(error).__name__}: {error}"
                self._give([FeedReject(reason=reason, message=message)])
                self._closed.wait(RETRY_S)
            finally:
                camera.close()

    def _attend(self, camera: Camera) -> bool:
        """Take frames until we are closed, or the one acquisition is through; tell if it is."""
        if self._starts and not self._is_started:
            camera.start(self._n_frames)
            self._is_started = True
            self._begin_series(camera)
        while not self._closed.is_set():
            found = camera.take()
            if isinstance(found, MovieBuffer):
                self._take(camera, found)
            elif found is False:
                if self._is_started and self._starts:
                    self._finish("")
                    return True
                self._end_series("")
                self._closed.wait(IDLE_S)
        return True

    def _take(self, camera: Camera, buffer: MovieBuffer) -> None:
        """Hand over the frames of a buffer; numbers that begin anew are another acquisition."""
        items: list[FeedItem] = []
        for number, image in zip(buffer.numbers.tolist(), buffer.frames, strict=True):
            if self._is_under_way and number == 0 and self._n_seen > 0:
                self._give(items)
                items = []
                self._end_series("another acquisition began")
            if not self._is_under_way:
                self._begin_series(camera)
            if not 0 <= number < 2**31:
                items.append(FeedReject(reason="bad_field", message=f"frame number {number}"))
                continue
            self._n_seen = max(self._n_seen, number + 1)
            found = supported(image)
            items.append(
                FeedFrame(
                    sequence=number,
                    pixels=found.pixels,
                    name=f"frame {number}",
                    fault=found.fault,
                )
            )
        self._give(items)

    def _begin_series(self, camera: Camera) -> None:
        self._is_under_way = True
        self._n_seen = 0
        self._n_expected = camera.n_frames()
        self._give(
            [
                SeriesStart(
                    series="",
                    n_expected=self._n_expected,
                    feed=FEED,
                    calibration=camera.calibration(),
                    metadata=camera.metadata(),
                )
            ]
        )

    def _end_series(self, reason: str) -> None:
        if not self._is_under_way:
            return
        if self._n_expected is not None and self._n_seen < self._n_expected:
            reason = reason or "ended at the server"
            reason = f"{reason} after {self._n_seen} of {self._n_expected} frames"
        self._is_under_way = False
        self._give([SeriesEnd(n_frames=self._n_seen, reason=reason)])

    def _finish(self, reason: str) -> None:
        self._end_series(reason)
        self._give([FeedFinished()])

    def _give(self, items: list[FeedItem]) -> None:
        """Hand over, waiting while the last two are not taken."""
        while items and not self._closed.is_set():
            try:
                self.items.put(items, timeout=0.1)
            except queue.Full:
                continue
            return
