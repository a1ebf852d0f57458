"""What a Direct Electron camera's server is asked, through deapi."""

from __future__ import annotations

import importlib.util
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import SettingsError
from hrtem_stream.messages import Calibration
from hrtem_stream.sources.stack import MAX_SIDE
from hrtem_stream.sources.tcp_address import tcp_address

POLL_MS: Final = 200
"""How long the server waits for frames before it answers that there are none yet."""
CLIENT_ERRORS: Final = (
    ArithmeticError, AttributeError, LookupError, MemoryError, NameError, OSError, RuntimeError,
    TypeError, ValueError, struct.error,
)  # fmt: skip
"""What deapi raises when the server ends in the middle of an answer; UnboundLocalError too."""
_DTYPES: Final = {"DE8u": "|u1", "DE16u": "<u2", "DE16s": "<i2", "DE32f": "<f4"}
_MAX_FRAMES_PER_BUFFER: Final = 4096


@dataclass(frozen=True, slots=True)
class MovieBuffer:
    """Frames as the server handed them out."""

    numbers: NDArray[np.int64]
    """(n,), of each frame in its acquisition."""
    frames: NDArray[Any]
    """(n, M, N)."""


class Camera:
    """What is asked of DE-Server, in our words.

    Every method raises one of `CLIENT_ERRORS` when the server is gone, and `ValueError` when what
    it says makes no sense or is beyond the bound.
    """

    def __init__(self, host: str, port: int, *, max_buffer_bytes: int) -> None:
        """Connect."""
        import deapi

        # Its errors come to us as exceptions, or as properties that the server does not have.
        logging.getLogger("DECameraClientLib").setLevel(logging.CRITICAL)
        self._max_buffer_bytes = max_buffer_bytes
        self._client = deapi.Client()
        self._client.usingMmf = False  # shared memory is for Windows, on the server's own host
        self._client.connect(host, port)

    def start(self, n_frames: int) -> None:
        """Start one acquisition, of so many frames, or with 0 of as many as are set."""
        if n_frames:
            self._client["Frame Count"] = n_frames
        self._client.start_acquisition(1, request_movie_buffer=True)

    def n_frames(self) -> int | None:
        """Return how many frames an acquisition has, None when it is not known."""
        n_frames = self._number("Frame Count")
        return int(n_frames) if n_frames and 1 <= n_frames < 2**31 else None

    def calibration(self) -> Calibration:
        """Return what the server knows of the exposure."""
        frames_per_s = self._number("Frames Per Second")
        voltage_v = self._number("Instrument Accelerating Voltage (V)")
        return Calibration(
            pixel_size_nm=self._number("Specimen Pixel Size X (nanometers)"),
            exposure_s=1 / frames_per_s if frames_per_s else None,
            voltage_kv=voltage_v / 1000 if voltage_v else None,
        )

    def metadata(self) -> dict[str, str]:
        """Return what else identifies the acquisition, as text."""
        names = ("Camera Name", "Server Software Version", "Image Processing - Mode", "Frame Count")
        found = {name: self._client.GetProperty(name) for name in names}
        return {
            name: str(value)[:500] for name, value in found.items() if value not in (None, False)
        }

    def take(self) -> MovieBuffer | bool | None:
        """Take what the server holds: frames, None when it has none yet, False when it is through.

        Raises
        ------
        ValueError
            When the buffer makes no sense, or is beyond the bound.
        OSError
            When the server failed to hand it out.
        """
        info = self._client.get_movie_buffer_info()
        dtype = np.dtype(_DTYPES.get(info.imageDataType.name, "V"))
        n_max, rows, columns = info.framesInBuffer, info.imageH, info.imageW
        if not dtype.itemsize or not 1 <= n_max <= _MAX_FRAMES_PER_BUFFER:
            raise ValueError(f"movie buffer holds {n_max} frames of {info.imageDataType}")
        if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
            raise ValueError(f"frames must have sides of 1 to {MAX_SIDE}, got {rows}, {columns}")
        n_frame_bytes = rows * columns * dtype.itemsize
        n_bytes = info.headerBytes + n_max * n_frame_bytes
        if not 0 <= info.headerBytes <= 1 << 20 or n_bytes > self._max_buffer_bytes:
            raise ValueError(f"movie buffer of {n_bytes} bytes, allowed {self._max_buffer_bytes}")
        status, _, n_frames, content = self._client.get_movie_buffer(
            b"", n_bytes, n_max, timeoutMsec=POLL_MS
        )
        if status.name == "TIMEOUT":
            return None
        if status.name == "FINISHED":
            return False
        if status.name != "OK":
            raise ConnectionError(f"DE-Server answered {status.name}")
        n_needed = info.imageStartPos + n_frames * n_frame_bytes
        if not 0 <= n_frames <= n_max or len(content) < n_needed:
            raise ValueError(f"{n_frames} frames in {len(content)} bytes, there may be {n_max}")
        numbers = np.frombuffer(content, "<i8", n_frames, info.frameIndexStartPos)
        frames = np.frombuffer(
            content, dtype, n_frames * rows * columns, info.imageStartPos
        ).reshape(n_frames, rows, columns)
        return MovieBuffer(numbers, frames)

    def close(self) -> None:
        """Let the server go."""
        self._client.disconnect()

    def _number(self, name: str) -> float | None:
        """Return a property that is a number above 0, None when there is none."""
        try:
            value = float(self._client.GetProperty(name))
        except (TypeError, ValueError):
            return None
        return value if 0 < value < 1e30 else None


def camera_at(endpoint: str, *, max_buffer_bytes: int) -> Callable[[], Camera]:
    """Return what connects to the server at an endpoint such as tcp://de-server:13240.

    Raises
    ------
    SettingsError
        When deapi is not installed, or the endpoint is malformed.
    """
    host, port = tcp_address(endpoint)
    if importlib.util.find_spec("deapi") is None:
        raise SettingsError(
            "feed.kind = direct_electron needs deapi: pip install 'hrtem-stream[direct-electron]'"
        )
    return lambda: Camera(host, port, max_buffer_bytes=max_buffer_bytes)
