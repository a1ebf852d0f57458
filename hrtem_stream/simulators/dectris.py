"""A DECTRIS detector's stream, version 2, as its control unit would send it.

Made from the published description alone and with other libraries than the source, so that a
mistake in one does not cancel one in the other: cbor2 encodes, lz4 compresses, and the bits are
shuffled here.
"""

from __future__ import annotations

import datetime as dt
import math
import struct
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias

import cbor2
import lz4.block
import numpy as np
import zmq
from numpy.typing import NDArray

Compression: TypeAlias = Literal["bslz4", "lz4", "none"]

BLOCK_BYTES: Final = 8192
TICKS_PER_S: Final = 50_000_000
_TYPED_ARRAY: Final = {"|u1": 64, "<u2": 69, "<u4": 70, "<f4": 85, "<f8": 86}


def shuffle_bits(block: bytes, *, element_bytes: int) -> bytes:
    """Put first all lowest bits of the block's elements, then all second ones, and so on."""
    elements = np.frombuffer(block, np.uint8).reshape(-1, element_bytes)
    bits = np.unpackbits(elements, axis=1, bitorder="little")
    return np.packbits(bits.T, bitorder="little").tobytes()


def compress_bslz4(plain: bytes, *, element_bytes: int) -> bytes:
    """Compress as the HDF5 filter bitshuffle does; up to 7 elements at the end stay plain."""
    n_rest = len(plain) % (8 * element_bytes)
    n_shuffled = len(plain) - n_rest
    parts = [struct.pack(">QI", len(plain), BLOCK_BYTES)]
    for start in range(0, n_shuffled, BLOCK_BYTES):
        block = plain[start : min(start + BLOCK_BYTES, n_shuffled)]
        shuffled = shuffle_bits(block, element_bytes=element_bytes)
        parts.append(_counted(lz4.block.compress(shuffled, store_size=False)))
    return b"".join([*parts, plain[n_shuffled:]])


def compress_lz4(plain: bytes) -> bytes:
    """Compress as the HDF5 filter lz4 does; a block that would grow stays plain."""
    block_bytes = min(len(plain), 1 << 20)
    parts = [struct.pack(">QI", len(plain), block_bytes)]
    for start in range(0, len(plain), block_bytes):
        block = plain[start : start + block_bytes]
        compressed = lz4.block.compress(block, store_size=False)
        parts.append(_counted(compressed if len(compressed) < len(block) else block))
    return b"".join(parts)


def encode_array(image: NDArray[Any], *, compression: Compression = "bslz4") -> cbor2.CBORTag:
    """Make the tagged array of one (M, N) image.

    Raises
    ------
    ValueError
        When the detector has no pixels of this dtype.
    """
    image = np.ascontiguousarray(image)
    image = image.astype(image.dtype.newbyteorder("<"), copy=False)
    if image.dtype.str not in _TYPED_ARRAY:
        raise ValueError(f"dtype must be one of {', '.join(_TYPED_ARRAY)}, got {image.dtype.str}")
    plain, element_bytes = image.tobytes(), image.dtype.itemsize
    content: Any = plain
    if compression == "bslz4":
        packed = compress_bslz4(plain, element_bytes=element_bytes)
        content = cbor2.CBORTag(56500, ["bslz4", element_bytes, packed])
    elif compression == "lz4":
        content = cbor2.CBORTag(56500, ["lz4", 0, compress_lz4(plain)])
    typed = cbor2.CBORTag(_TYPED_ARRAY[image.dtype.str], content)
    return cbor2.CBORTag(40, [list(image.shape), typed])


def encode_message(kind: str, *, series: int, identity: str, **fields: Any) -> bytes:
    """Make one message; `type` comes first, as the description asks."""
    content = {"type": kind, "series_id": series, "series_unique_id": identity, **fields}
    return bytes(cbor2.dumps(cbor2.CBORTag(55799, content)))


class DectrisSender:
    """Sends series as a control unit would, from a PUSH socket that it binds."""

    def __init__(
        self,
        endpoint: str,
        *,
        compression: Compression = "bslz4",
        n_channels: int = 1,
        exposure_s: float = 0.01,
        user_data: Mapping[str, Any] | None = None,
        n_buffered: int = 64,
        linger_s: float = 60.0,
    ) -> None:
        """Bind `endpoint`, such as tcp://127.0.0.1:31001.

        Parameters
        ----------
        compression
            Of the arrays.
        n_channels
            Energy thresholds; the second holds half of the counts of the first, and so on.
        exposure_s
            What the detector says of its exposure, and the time between two images.
        user_data
            What the user had added to the start (the control unit's `header_appendix`).
        n_buffered, linger_s
            Messages that wait in the socket, and how long `close` waits for them.
        """
        self._compression = compression
        self._names = [f"threshold_{number + 1}" for number in range(n_channels)]
        self._exposure_s = exposure_s
        self._user_data = dict(user_data or {})
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, n_buffered)
        self._socket.setsockopt(zmq.LINGER, round(linger_s * 1000))
        self._socket.bind(endpoint)
        self._series = 0
        self._identity = ""
        self._date = dt.datetime.now(dt.UTC)
        self._encoded: dict[int, tuple[NDArray[Any], dict[str, Any]]] = {}

    @property
    def endpoint(self) -> str:
        """The address in use, with the port that a `*` was given."""
        return self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def begin(self, number: int, *, n_frames: int | None) -> None:
        """Arm series `number`, once a receiver is there."""
        self._socket.poll(flags=zmq.POLLOUT)
        self._series = number
        self._identity = f"SIM{time.time_ns():023d}"
        self._date = dt.datetime.now(dt.UTC)
        counted = {} if n_frames is None else {"number_of_images": n_frames}
        start = encode_message(
            "start",
            series=number,
            identity=self._identity,
            arm_date=cbor2.CBORTag(0, self._date.isoformat()),
            channels=self._names,
            count_time=self._exposure_s,
            frame_time=self._exposure_s,
            detector_description="simulated",
            incident_energy=80_000.0,
            pixel_size_x=7.5e-5,
            pixel_size_y=7.5e-5,
            user_data=self._user_data,
            **counted,
        )
        self._socket.send(start)

    def send(self, sequence: int, image: NDArray[Any], *, is_damaged: bool = False) -> None:
        """Send image `sequence`."""
        began = math.floor(sequence * self._exposure_s * TICKS_PER_S)
        lasted = math.floor(self._exposure_s * TICKS_PER_S)
        message = encode_message(
            "image",
            series=self._series,
            identity=self._identity,
            image_id=sequence,
            real_time=[lasted, TICKS_PER_S],
            series_date=cbor2.CBORTag(0, self._date.isoformat()),
            start_time=[began, TICKS_PER_S],
            stop_time=[began + lasted, TICKS_PER_S],
            user_data=None,
            data=self._arrays(image),
        )
        self._socket.send(message[: len(message) // 2] if is_damaged else message, copy=False)

    def end(self, *, n_frames: int = 0, is_aborted: bool = False) -> None:
        """Disarm; the message is the same after an abort."""
        self._socket.send(encode_message("end", series=self._series, identity=self._identity))

    def send_bytes(self, message: bytes) -> None:
        """Send a message as it is, well formed or not."""
        self._socket.send(message)

    def close(self) -> None:
        """Return once all is taken, or `linger_s` has passed."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> DectrisSender:
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

    def _arrays(self, image: NDArray[Any]) -> dict[str, Any]:
        """Encode an image once, however often it is sent."""
        if id(image) not in self._encoded:
            arrays = {
                name: encode_array(
                    image >> number if number else image, compression=self._compression
                )
                for number, name in enumerate(self._names)
            }
            self._encoded[id(image)] = (image, arrays)
        return self._encoded[id(image)][1]


def _counted(block: bytes) -> bytes:
    return struct.pack(">I", len(block)) + block
