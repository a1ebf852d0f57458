"""A camera that sends frames over the native feed while a test looks on."""

from __future__ import annotations

import socket
import threading
from typing import Any

import msgpack
import numpy as np
import zmq


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Camera(threading.Thread):
    """Sends frames in turn, so many a second, until told to end."""

    def __init__(
        self,
        frames: list[np.ndarray],
        *,
        rate: float,
        n_expected: int | None = None,
        endpoint: str = "",
        hold_after: int = 0,
    ) -> None:
        super().__init__(daemon=True)
        self.endpoint = endpoint or f"tcp://127.0.0.1:{free_port()}"
        self.n_sent = 0
        self._frames, self._rate, self._n_expected = frames, rate, n_expected
        self._to_skip = 0
        self._hold_after = hold_after
        self._wake, self._go = threading.Event(), threading.Event()
        self._is_ending = False

    def skip(self, n_frames: int) -> None:
        """Lose frames on the way."""
        self._to_skip += n_frames

    def go_on(self) -> None:
        """Hold no longer after the first `hold_after` frames."""
        self._go.set()

    def end(self) -> None:
        """End the series."""
        self._is_ending = True
        self._go.set()
        self._wake.set()
        self.join(30)

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.PUSH) as feed:
            feed.setsockopt(zmq.LINGER, 5000)
            feed.bind(self.endpoint)
            known = {} if self._n_expected is None else {"n_frames": self._n_expected}
            self._send(feed, {"type": "start", "pixel_size_nm": 0.02, **known})
            sequence = 0
            while not self._wake.wait(1 / self._rate):
                sequence += self._to_skip
                self._to_skip = 0
                image = self._frames[sequence % len(self._frames)]
                header = {"type": "frame", "sequence": sequence, "shape": image.shape,
                          "dtype": image.dtype.newbyteorder("<").str}  # fmt: skip
                self._send(feed, header, image.tobytes())
                sequence += 1
                self.n_sent += 1
                if self.n_sent == self._hold_after:
                    self._go.wait()
            if self._is_ending:
                self._send(feed, {"type": "end", "n_frames": sequence})

    def stop(self) -> None:
        """Fall silent."""
        self._wake.set()
        self._go.set()

    def _send(self, feed: Any, header: dict[str, Any], *pixels: bytes) -> None:
        known = {"version": 1, "series": "real frames", **header}
        feed.send_multipart([msgpack.packb(known), *pixels])
