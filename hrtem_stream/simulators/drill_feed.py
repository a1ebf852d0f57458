"""A verifiable feed for drills: writes down what it sends, and makes the faults of real feeds.

Frames come at a set rate, in series of changing length. Some are torn, refused, repeated, late or
missing, as the seed says; the book knows of each what is to be found in the archive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

from hrtem_stream.simulators.camera import SimulatedCamera
from hrtem_stream.simulators.drill_book import FeedBook, SentFrame, SentSeries, payload_digest
from hrtem_stream.simulators.drill_session import DrillError
from hrtem_stream.simulators.native import encode_end, encode_frame, encode_start

N_IMAGES: Final = 12
FAULT_SHARE: Final = 0.02
"""Share of the frames with which something is wrong."""
LATEST: Final = 24
"""A late frame comes after so many others at most: beyond `ingest.late_frames`, too."""
SEND_WAIT_MS: Final = 50
END_INTERVAL_S: Final = 0.5
CLOSE_WAIT_S: Final = 300.0
KINDS: Final = (
    "feed_truncated", "feed_header_corrupted", "feed_shape_corrupted", "feed_junk",
    "feed_repeated", "feed_repeated_otherwise", "feed_reordered", "feed_late", "feed_missing",
)  # fmt: skip


class DrillFeed:
    """Sends series after series from a thread, until told to stop.

    Parameters
    ----------
    book
        Where it writes down what it sends.
    endpoint, pattern
        ZeroMQ address to bind, and whether the feed waits (push) or not (pub).
    size, rate
        Side of a frame in pixels, and frames per second.
    series_s
        Mean length of a series in seconds.
    is_begun, is_closed
        Tell whether the pipeline has begun, and closed, the archive of a series. One that nobody
        hears at all, as a PUB feed allows, cannot be missed, so a series is long enough to be
        heard.
    """

    def __init__(
        self,
        book: FeedBook,
        *,
        endpoint: str,
        pattern: Literal["push", "pub"],
        size: int,
        rate: float,
        series_s: float,
        seed: int,
        prefix: str,
        is_begun: Callable[[str], bool],
        is_closed: Callable[[str], bool],
    ) -> None:
        self.has_faults = False
        """Whether the feed makes faults; the drill begins without."""
        self.cut = False
        """Set from outside: the present series is to break off. Taken back when that is done."""
        self.error: BaseException | None = None
        self.spans: list[tuple[float, float]] = []
        """When frames were sent, monotonic: between the series the feed waits."""
        self._book = book
        self._pattern = pattern
        self._rate = rate
        self._series_s = series_s
        self._prefix = prefix
        self._is_begun = is_begun
        self._is_closed = is_closed
        self._rng = np.random.default_rng(seed)
        camera = SimulatedCamera(n_frames=N_IMAGES, size=size, seed=seed)
        self._images = [np.ascontiguousarray(frame.pixels) for frame in camera]
        self._stamp = 0
        self._number = 0
        self._late: list[tuple[int, list[Any]]] = []
        """Messages held back, with the sequence after which they go."""
        self._stopping = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH if pattern == "push" else zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, 16)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(endpoint)
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """End the present series in order, and return when it is through."""
        self._stopping.set()
        self._thread.join()
        self._socket.close()
        self._context.term()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._send_series(self._next_name())
        except BaseException as error:  # handed to the thread that joins
            self.error = error

    def _send_series(self, name: str) -> None:
        series = self._book.begin(name, may_lose=self._pattern == "pub")
        n_frames = max(10, round(self._rate * self._series_s * self._rng.uniform(0.6, 1.4)))
        announced = n_frames if self._rng.random() < 0.5 else None
        self._send(encode_start(name, n_frames=announced))
        began_s = time.monotonic()
        sequence = 0
        while self._goes_on(series, sequence, n_frames):
            self._wait_until(began_s + sequence / self._rate)
            sequence = self._send_next(series, sequence)
            self._send_late(sequence)
        self.spans.append((began_s, time.monotonic()))
        self._send_late(sequence + LATEST)
        if self.cut:
            self._break_off(series, sequence)
        else:
            self._finish(series, sequence)

    def _goes_on(self, series: SentSeries, sequence: int, n_frames: int) -> bool:
        if sequence < n_frames and not self._stopping.is_set() and not self.cut:
            return True
        return series.may_lose and not self._is_begun(series.name)

    def _wait_until(self, due_s: float) -> None:
        time.sleep(max(0.0, due_s - time.monotonic()))

    def _finish(self, series: SentSeries, n_frames: int) -> None:
        """Send the end, again and again until the archive is closed: an end can be lost, too."""
        deadline = time.monotonic() + CLOSE_WAIT_S
        while time.monotonic() < deadline:
            self._send(encode_end(series.name, n_frames=n_frames))
            again_s = time.monotonic() + END_INTERVAL_S
            while time.monotonic() < again_s:
                if self._is_closed(series.name):
                    series.is_over = True
                    return
                time.sleep(0.02)
        raise DrillError(f"series {series.name} was not closed within {CLOSE_WAIT_S:g} s")

    def _break_off(self, series: SentSeries, sequence: int) -> None:
        """Leave a series without an end; the next one begins, and ends it.

        Nobody can know of frames that are followed neither by another one nor by an end. So the
        last one is sound, and the drill lets `ingest` in peace meanwhile.
        """
        self._send_sound(series, sequence)
        following = self._book.begin(self._next_name(), may_lose=series.may_lose)
        self._send(encode_start(following.name))
        self._send_sound(following, 0)
        deadline = time.monotonic() + CLOSE_WAIT_S
        while not self._is_closed(series.name):
            if time.monotonic() > deadline:
                raise DrillError(f"series {series.name} was cut off and never closed")
            time.sleep(0.02)
        series.is_over = True
        self._finish(following, 1)
        self.cut = False

    def _send_sound(self, series: SentSeries, sequence: int) -> None:
        image = self._next_image()
        series.frames[sequence] = SentFrame(time.monotonic(), [payload_digest(image)])
        self._send(encode_frame(series.name, sequence=sequence, image=image))

    def _send_next(self, series: SentSeries, sequence: int) -> int:
        """Send a frame, with or without a fault; give the next number."""
        kind = ""
        if self.has_faults and self._rng.random() < FAULT_SHARE:
            kind = KINDS[self._rng.integers(len(KINDS))]
            self._book.faults[kind] += 1
        if kind == "feed_missing":
            for missing in range(sequence, sequence + int(self._rng.integers(1, 4))):
                series.frames[missing] = SentFrame(time.monotonic())
                sequence = missing + 1
            return sequence
        image = self._next_image()
        message = encode_frame(series.name, sequence=sequence, image=image)
        frame = series.frames[sequence] = SentFrame(time.monotonic(), [payload_digest(image)])
        match kind:
            case "feed_truncated":
                short = bytes(message[1])[: int(self._rng.integers(0, image.nbytes))]
                frame.digests = [payload_digest(short)]
                message = [message[0], short]
            case "feed_header_corrupted":
                frame.digests = []  # nobody can tell which frame that was
                message = [b"\xc1" + bytes(message[0])[1:], message[1]]
            case "feed_shape_corrupted":
                message = [_with_shape(message[0], [-1, 7]), message[1]]
            case "feed_junk":
                self._send([self._rng.bytes(int(self._rng.integers(1, 300)))])
            case "feed_repeated":
                self._send(message)
            case "feed_repeated_otherwise":
                other = self._next_image()
                frame.digests.append(payload_digest(other))
                self._send(message)
                message = encode_frame(series.name, sequence=sequence, image=other)
            case "feed_reordered" | "feed_late":
                most = 4 if kind == "feed_reordered" else LATEST
                after = sequence + int(self._rng.integers(1, most + 1))
                self._late.append((after, list(message)))
                return sequence + 1
        self._send(message)
        return sequence + 1

    def _send_late(self, sequence: int) -> None:
        due = [message for after, message in self._late if after < sequence]
        self._late = [(after, message) for after, message in self._late if after >= sequence]
        for message in due:
            self._send(message)

    def _next_name(self) -> str:
        self._number += 1
        return f"{self._prefix}{self._number:05d}"

    def _next_image(self) -> NDArray[np.generic]:
        """Take the next image, with a stamp that makes it the only one of its kind."""
        image = self._images[self._stamp % N_IMAGES].copy()
        stamp = np.array([self._stamp], np.uint64).view(np.uint8)
        image.reshape(-1).view(np.uint8)[: stamp.size] = stamp
        self._stamp += 1
        return image

    def _send(self, message: Any) -> None:
        """Send a message, waiting as long as it takes (push) or not at all (pub)."""
        while True:
            if self._pattern == "pub" or self._socket.poll(SEND_WAIT_MS, zmq.POLLOUT):
                self._socket.send_multipart(message)
                return


def _with_shape(header: bytes | memoryview, shape: list[int]) -> bytes:
    packed: bytes = msgpack.packb({**msgpack.unpackb(header), "shape": shape})
    return packed
