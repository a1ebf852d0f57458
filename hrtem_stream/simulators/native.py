"""A sender of the native feed, for tests and as the example of the wire format.

The same in plain pyzmq, for a camera script. The two `with` matter: leaving them waits until the
last frame is taken, whereas a script that merely ends loses what still waits in its socket.

    import msgpack, numpy, zmq

    def send(feed, header, *pixels):
        feed.send_multipart([msgpack.packb({"version": 1, "series": "S1", **header}), *pixels])

    with zmq.Context() as context, context.socket(zmq.PUSH) as feed:
        feed.bind("tcp://127.0.0.1:5555")
        send(feed, {"type": "start", "n_frames": 10, "pixel_size_nm": 0.02})
        for n in range(10):
            image = numpy.random.poisson(100, (1024, 1024)).astype("<u2")
            header = {"type": "frame", "sequence": n, "shape": image.shape, "dtype": "<u2"}
            send(feed, header, image.tobytes())
        send(feed, {"type": "end", "n_frames": 10})
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Literal

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

VERSION: Final = 1


def encode_start(series: str, **fields: Any) -> list[bytes]:
    """Make the message that begins a series; `fields` are those of the wire format."""
    return [_header("start", series, **fields)]


def encode_frame(
    series: str, *, sequence: int, image: NDArray[np.generic], **fields: Any
) -> list[bytes | memoryview]:
    """Make the message of one (M, N) frame."""
    image = np.ascontiguousarray(image)
    header = _header(
        "frame",
        series,
        sequence=sequence,
        shape=list(image.shape),
        dtype=image.dtype.str,
        **fields,
    )
    return [header, image.reshape(-1).view(np.uint8).data]


def encode_end(series: str, *, n_frames: int | None) -> list[bytes]:
    """Make the message that ends a series."""
    return [_header("end", series, n_frames=n_frames)]


class NativeSender:
    """Sends series as a camera would, over a PUSH or a PUB socket."""

    def __init__(
        self,
        endpoint: str,
        *,
        pattern: Literal["push", "pub"] = "push",
        bind: bool = True,
        n_buffered: int = 64,
        linger_s: float = 5.0,
    ) -> None:
        """Bind, or connect to, `endpoint`.

        Parameters
        ----------
        endpoint
            ZeroMQ address.
        pattern
            push waits for the receiver, pub drops what it does not take.
        bind
            Whether we bind and the receiver connects.
        n_buffered
            Messages that wait in the socket before `send` blocks (push) or drops (pub).
        linger_s
            How long `close` waits for messages not yet taken, in seconds.
        """
        kind = zmq.PUSH if pattern == "push" else zmq.PUB
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._socket.setsockopt(zmq.SNDHWM, n_buffered)
        self._socket.setsockopt(zmq.LINGER, round(linger_s * 1000))
        if bind:
            self._socket.bind(endpoint)
        else:
            self._socket.connect(endpoint)

    @property
    def endpoint(self) -> str:
        """The address in use, with the port that a `*` was given."""
        return self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send one message as it is, well formed or not."""
        self._socket.send_multipart(parts)

    def send_series(self, series: str, images: Sequence[NDArray[np.generic]]) -> None:
        """Send a start, the images and an end."""
        self.send(encode_start(series, n_frames=len(images)))
        for sequence, image in enumerate(images):
            self.send(encode_frame(series, sequence=sequence, image=image))
        self.send(encode_end(series, n_frames=len(images)))

    def close(self) -> None:
        """Return once all is taken, or `linger_s` has passed.

        Closing the socket alone leaves the messages to a thread that dies with the process.
        """
        self._socket.close()
        self._context.term()

    def __enter__(self) -> NativeSender:
        """Return the sender."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the socket."""
        self.close()


class NativeFeed(NativeSender):
    """Sends a programme in the words of the native feed."""

    def __init__(self, endpoint: str, *, exposure_s: float = 0.001) -> None:
        """Bind `endpoint`; `exposure_s` is what the start says."""
        super().__init__(endpoint, linger_s=60.0)
        self._exposure_s = exposure_s
        self._name = ""

    def begin(self, number: int, *, n_frames: int | None) -> None:
        """Begin series `number`."""
        self._name = f"simulated-{number}"
        start = encode_start(self._name, n_frames=n_frames, exposure_s=self._exposure_s)
        self._socket.send_multipart(start)

    def send(  # type: ignore[override]
        self, sequence: int, image: NDArray[Any], *, is_damaged: bool = False
    ) -> None:
        """Send frame `sequence`; a damaged one lacks half of its pixels."""
        acquired_ns = time.time_ns()
        header, pixels = encode_frame(
            self._name, sequence=sequence, image=image, acquired_ns=acquired_ns
        )
        self._socket.send_multipart([header, pixels[: len(pixels) // 2] if is_damaged else pixels])

    def end(self, *, n_frames: int, is_aborted: bool = False) -> None:
        """End the series after `n_frames`, whether it was aborted or not."""
        self._socket.send_multipart(encode_end(self._name, n_frames=n_frames))


def _header(kind: str, series: str, **fields: Any) -> bytes:
    header = {"version": VERSION, "type": kind, "series": series, **fields}
    return bytes(msgpack.packb(header))
