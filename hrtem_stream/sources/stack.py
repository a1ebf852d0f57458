"""What every file of frames has in common: a stack of frames, and how a frame may be damaged."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import ArchiveError, FeedError, FrameError
from hrtem_stream.messages import Calibration

MAX_SIDE: Final = 16384
"""Of a frame, in pixels."""
MAX_DAMAGED_BYTES: Final = 64 * 1024 * 1024
"""So many bytes of a damaged file go into the archive."""
MAX_FRAMES: Final = 2**31 - 1

DECODE_ERRORS: Final = (
    ArchiveError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    FrameError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the decoders of other people's formats raise on a damaged file: nearly anything."""

_EXACT: Final = {"|b1": "|u1", "|i1": "<i2", "<f2": "<f4"}
_NARROWED: Final = {"<u8": "<u4", "<i8": "<i4"}
_SUPPORTED: Final = frozenset(("|u1", "<u2", "<u4", "<i2", "<i4", "<f4", "<f8"))


class FramePixels(NamedTuple):
    """The pixels of a frame, or the bytes of one that is damaged."""

    pixels: NDArray[np.generic]
    """(M, N) in a supported dtype, read-only; with a `fault`, 1-D uint8."""
    fault: str


Read: TypeAlias = Callable[[int], FramePixels]
"""Reads one frame by its index in the stack; raises one of `DECODE_ERRORS` when it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameStack:
    """The frames of one file, described but not read."""

    path: Path
    n_frames: int
    reader: Callable[[], AbstractContextManager[Read]]
    """Opens the file for reading."""
    name: Callable[[int], str]
    n_missing: int = 0
    """Frames that the file announces after `n_frames` and does not hold."""
    acquired_ns: Callable[[int], int] = field(default=lambda index: 0)
    calibration: Calibration = field(default_factory=Calibration)
    notes: tuple[str, ...] = ()
    """What has to be said of the calibration: what is implausible, or means something else."""


def supported(image: NDArray[Any]) -> FramePixels:
    """Convert an image to a dtype that the pipeline takes, exactly or not at all.

    Parameters
    ----------
    image
        (M, N), or (M, N, 3) or (M, N, 4) colours that are all equal and opaque.

    Returns
    -------
    FramePixels
        Little endian u1, u2, u4, i2, i4, f4 or f8. Colour, another dtype, or 64-bit integers
        that do not fit into 32 bits are a fault, with the bytes kept.
    """
    if image.ndim == 3 and image.shape[2] in (3, 4):
        opaque = image.shape[2] == 3 or np.all(image[..., 3] == image[..., 3].max())
        if not opaque or np.any(image[..., :3] != image[..., :1]):
            return _refused(image, "image has colours, a frame must be grey")
        image = image[..., 0]
    if image.ndim != 2 or not all(1 <= side <= MAX_SIDE for side in image.shape):
        return _refused(image, f"frame must be 2-D with sides 1 to {MAX_SIDE}, has {image.shape}")
    code = image.dtype.newbyteorder("<").str
    if code in _NARROWED:
        narrow = image.astype(_NARROWED[code])
        if np.any(narrow != image):
            return _refused(image, f"values do not fit into {_NARROWED[code]}")
        image, code = narrow, _NARROWED[code]
    code = _EXACT.get(code, code)
    if code not in _SUPPORTED:
        return _refused(image, f"dtype must be u1, u2, u4, i2, i4, f4 or f8, got {image.dtype}")
    pixels = np.ascontiguousarray(image, dtype=code).view()
    pixels.flags.writeable = False
    return FramePixels(pixels, "")


def damaged(content: bytes, *, fault: str) -> FramePixels:
    """Keep the bytes of a frame that cannot be read."""
    if len(content) > MAX_DAMAGED_BYTES:
        fault = f"{fault}; first {MAX_DAMAGED_BYTES} of {len(content)} bytes kept"
    return FramePixels(np.frombuffer(content[:MAX_DAMAGED_BYTES], np.uint8), fault)


def damaged_file(path: Path, *, fault: str) -> FramePixels:
    """Keep the bytes of a file that cannot be read, as far as they can be had."""
    try:
        n_bytes = path.stat().st_size
        with path.open("rb") as file:
            content = file.read(MAX_DAMAGED_BYTES)
    except OSError as error:
        return damaged(b"", fault=f"{fault}; {error}")
    if n_bytes > MAX_DAMAGED_BYTES:
        fault = f"{fault}; first {MAX_DAMAGED_BYTES} of {n_bytes} bytes kept"
    return damaged(content, fault=fault)


def damaged_stack(path: Path, *, fault: str) -> FrameStack:
    """Take a file that cannot be opened for one damaged frame, so that it is accounted for."""

    @contextmanager
    def reader() -> Iterator[Read]:
        yield lambda index: damaged_file(path, fault=fault)

    return FrameStack(path=path, n_frames=1, reader=reader, name=lambda index: path.stem)


def single_frame(path: Path, *, decode: Callable[[Path], NDArray[Any]]) -> FrameStack:
    """Describe a file that holds one image; it is first opened when the frame is read."""

    def read(index: int) -> FramePixels:
        try:
            return supported(decode(path))
        except DECODE_ERRORS as error:
            return damaged_file(path, fault=f"cannot read {path.name}: {error}")

    @contextmanager
    def reader() -> Iterator[Read]:
        yield read

    return FrameStack(path=path, n_frames=1, reader=reader, name=lambda index: path.stem)


def raw_stack(
    path: Path,
    *,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    calibration: Calibration | None = None,
    notes: tuple[str, ...] = (),
    acquired_ns: Callable[[int], int] = lambda index: 0,
) -> FrameStack:
    """Describe frames that lie one behind the other in a file, uncompressed, in C order.

    They are read and not mapped: a file that shrinks under a map, or lies on a disk that fails,
    kills the process. What a truncated file does not hold at all is counted in `n_missing`.

    Raises
    ------
    FeedError
        When `shape` is not that of a frame or a stack of frames.
    """
    n_claimed, (M, N) = stack_shape(shape, path=path)
    n_frame_bytes = M * N * dtype.itemsize
    available = max(0, path.stat().st_size - offset)
    n_frames = min(n_claimed, math.ceil(available / n_frame_bytes))

    @contextmanager
    def reader() -> Iterator[Read]:
        with path.open("rb", buffering=0) as file:

            def read(index: int) -> FramePixels:
                start = index * n_frame_bytes
                received = np.empty(min(n_frame_bytes, available - start), np.uint8)
                file.seek(offset + start)
                n_read = read_into(file, received)
                if n_read < n_frame_bytes:
                    fault = f"{path.name} is truncated: {n_read} of {n_frame_bytes} bytes"
                    return damaged(received[:n_read].tobytes(), fault=fault)
                return supported(received.view(dtype).reshape(M, N))

            yield read

    return FrameStack(
        path=path,
        n_frames=n_frames,
        n_missing=n_claimed - n_frames,
        reader=reader,
        name=indexed_names(path.stem, shape=shape),
        calibration=calibration or Calibration(),
        notes=notes,
        acquired_ns=acquired_ns,
    )


def stack_shape(shape: tuple[int, ...], *, path: Path) -> tuple[int, tuple[int, int]]:
    """Return the number of frames and the (M, N) of each.

    Raises
    ------
    FeedError
        When there are no frames, or they are not 2-D, or too large.
    """
    if len(shape) not in (2, 3):
        raise FeedError(f"{path}: frames must be 2-D, or 3-D with the frame first, got {shape}")
    n_frames = 1 if len(shape) == 2 else shape[0]
    M, N = shape[-2:]
    if not (1 <= M <= MAX_SIDE and 1 <= N <= MAX_SIDE):
        raise FeedError(f"{path}: sides must be 1 to {MAX_SIDE}, got {shape}")
    if not 0 <= n_frames <= MAX_FRAMES:
        raise FeedError(f"{path}: must have at most {MAX_FRAMES} frames, got {n_frames}")
    return n_frames, (M, N)


def indexed_names(stem: str, *, shape: tuple[int, ...]) -> Callable[[int], str]:
    """Name the frames after their file, with the index when there are several."""
    if len(shape) == 2:
        return lambda index: stem
    return lambda index: f"{stem}[{index}]"


def read_into(file: Any, buffer: NDArray[np.uint8]) -> int:
    """Fill `buffer` from a binary file, and return the number of bytes that there were."""
    view = buffer.data
    n_read = 0
    while n_read < len(view):
        n_more = file.readinto(view[n_read:])
        if not n_more:
            break
        n_read += n_more
    return n_read


def _refused(image: NDArray[Any], fault: str) -> FramePixels:
    return damaged(image.tobytes(), fault=fault)
