"""A Merlin (Medipix) detector's data socket, as its readout PC would serve it.

It listens, serves one client at a time, and says nothing when an acquisition ends or is aborted.
Raw pixels are packed from the description of their words, in another way than the source unpacks
them, so that a mistake in one does not cancel one in the other.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Depth: TypeAlias = Literal["U08", "U16", "U32", "R1", "R6", "R12", "R24"]

HEADER_BYTES: Final = 384
_UNSIGNED: Final = {"U08": (">u1", 6), "U16": (">u2", 12), "U32": (">u4", 24)}
_MAX_COUNT: Final = {"R1": 1, "R6": 63, "R12": 4095, "R24": (1 << 24) - 1}


def message(payload: bytes) -> bytes:
    """Frame a payload; the number counts the comma before it."""
    return b"MPX,%010d," % (len(payload) + 1) + payload


def acquisition_header(*, n_frames: int, depth: int) -> bytes:
    """Make the header of an acquisition; no frames: until it is stopped."""
    now = dt.datetime.now().astimezone()
    return (
        f"HDR,\t\nTime and Date Stamp (day, mnth, yr, hr, min, s):\t{now:%d/%m/%Y %H:%M:%S}\n"
        "Chip ID:\tSIMULATED,-,-,-\nAssembly Size (NX1, 2X2):\t   1x1\n"
        f"Counter Depth (number):\t{depth}\nAcquisition Type (Normal, Th_scan, Config):\tNormal\n"
        f"Frames in Acquisition (Number):\t{n_frames}\nFrames per Trigger (Number):\t1\n"
        "Sensor Bias (V):\t120 V\nMedipix Clock (MHz):\t120MHz\nEnd\t"
    ).encode("latin1")


def pack_raw(image: NDArray[Any], depth: Depth) -> bytes:
    """Pack counts as the chips are read out: in each 64-bit word, the last pixel comes first.

    Raises
    ------
    ValueError
        When the image does not fill its last word.
    """
    if image.size % 64:
        raise ValueError(f"raw pixels come in words of 64 bits, {image.shape} does not fill them")
    if depth == "R24":
        high, low = image >> 12, image & 0xFFF
        return pack_raw(high, "R12") + pack_raw(low, "R12")
    flat: NDArray[Any] = np.minimum(image, _MAX_COUNT[depth]).reshape(-1)
    if depth == "R1":
        return np.packbits(flat.reshape(-1, 64)[:, ::-1].astype(np.uint8)).tobytes()
    if depth == "R6":
        return bytes(flat.reshape(-1, 8)[:, ::-1].astype("u1").tobytes())
    return bytes(flat.reshape(-1, 4)[:, ::-1].astype(">u2").tobytes())


def frame(
    image: NDArray[Any],
    *,
    sequence: int,
    depth: Depth = "U16",
    exposure_s: float = 0.001,
    acquired: dt.datetime | None = None,
) -> bytes:
    """Make the payload of one (M, N) frame, numbered from 1."""
    acquired = acquired or dt.datetime.now().astimezone()
    rows, columns = image.shape
    if depth in _UNSIGNED:
        code, bits = _UNSIGNED[depth]
        kind: str = depth
        pixels = image.astype(code).tobytes()
    else:
        kind, bits, pixels = "R64", int(depth[1:]), pack_raw(image, depth)
    if depth == "R24":
        columns *= 2
    universal = acquired.astimezone(dt.UTC)
    lasted_ns = round(exposure_s * 1e9)
    header = (
        f"MQ1,{sequence:06d},{HEADER_BYTES:05d},01,{columns:04d},{rows:04d},{kind},   1x1,01,"
        f"{acquired:%Y-%m-%d %H:%M:%S.%f},{exposure_s:.6f},0,0,0,1.2E+1,5.11E+2,0,0,0,0,0,0,0,"
        f"3RX,175,511,000,MQ1A,{universal:%Y-%m-%dT%H:%M:%S.%f}000Z,{lasted_ns}ns,{bits},"
    )
    return header.encode("ascii").ljust(HEADER_BYTES, b"\0") + pixels


class MerlinSender:
    """Serves series over TCP to the client that connects."""

    def __init__(
        self,
        endpoint: str,
        *,
        depth: Depth = "U16",
        exposure_s: float = 0.001,
        client_within_s: float | None = None,
    ) -> None:
        """Listen at `endpoint`, such as tcp://127.0.0.1:6342; port 0 takes a free one.

        Parameters
        ----------
        depth
            How pixels are sent: as numbers of 8, 16 or 32 bits, or raw with 1, 6, 12, 24 bits.
        exposure_s
            What the detector says of its exposure.
        client_within_s
            How long `begin` waits for a client; None: for ever.
        """
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._listener = socket.create_server((host, int(port)))
        self._listener.settimeout(client_within_s)
        self._depth: Depth = depth
        self._exposure_s = exposure_s
        self._client: socket.socket | None = None

    @property
    def endpoint(self) -> str:
        """The address in use."""
        host, port = self._listener.getsockname()[:2]
        return f"tcp://{host}:{port}"

    def begin(self, number: int, *, n_frames: int | None) -> None:
        """Wait for a client if there is none, and announce acquisition `number`."""
        bits = _UNSIGNED[self._depth][1] if self._depth in _UNSIGNED else int(self._depth[1:])
        self.send_bytes(message(acquisition_header(n_frames=n_frames or 0, depth=bits)))

    def send(self, sequence: int, image: NDArray[Any], *, is_damaged: bool = False) -> None:
        """Send frame `sequence`, from 0; a damaged one lacks half of its pixels."""
        payload = frame(
            image, sequence=sequence + 1, depth=self._depth, exposure_s=self._exposure_s
        )
        self.send_bytes(message(payload[: len(payload) // 2] if is_damaged else payload))

    def end(self, *, n_frames: int = 0, is_aborted: bool = False) -> None:
        """Say nothing, as the detector does."""

    def send_bytes(self, content: bytes) -> None:
        """Send bytes as they are, well formed or not."""
        if self._client is None:
            self._client, _ = self._listener.accept()
            self._client.settimeout(None)
        self._client.sendall(content)

    def hang_up(self) -> None:
        """Close the connection; the next frame waits for another client."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        """Return once the client has taken all or is gone."""
        if self._client is not None:
            with contextlib.suppress(OSError):  # the client was quicker
                self._client.shutdown(socket.SHUT_WR)
        self.hang_up()
        self._listener.close()

    def __enter__(self) -> MerlinSender:
        """Return the sender."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the sockets."""
        self.close()
