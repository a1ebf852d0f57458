"""The two faults that must act inside a stage: a clock that jumps, a segmenter that fails.

`drill` steers them by files in one folder, which the setting `drill.folder` names. Without that
setting no stage ever looks at this module.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import SegmenterError

_OFFSET = struct.Struct("<q")


def clock_path(folder: Path) -> Path:
    """Say which file holds the offset of the clock: 8 bytes, little endian, in nanoseconds."""
    return folder / "clock"


def segmenter_path(folder: Path) -> Path:
    """Say which file makes the segmenter fail while it exists."""
    return folder / "segmenter-fails"


def set_clock(folder: Path, offset_ns: int) -> None:
    """Let the wall clock of every stage jump."""
    with clock_path(folder).open("r+b" if clock_path(folder).exists() else "w+b") as file:
        file.write(_OFFSET.pack(offset_ns))


class JumpingClock:
    """The wall clock in nanoseconds since 1970, with an offset that another process sets."""

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(clock_path(folder), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _OFFSET.size)
            self._buffer = mmap.mmap(descriptor, _OFFSET.size)
        finally:
            os.close(descriptor)

    def __call__(self) -> int:
        """Tell the time."""
        return time.time_ns() + int(_OFFSET.unpack_from(self._buffer)[0])


class _Segmenter(Protocol):
    def segment(self, images: NDArray[np.float32]) -> Any: ...


class FailingSegmenter:
    """A segmenter that fails, as CUDA does, while a file exists."""

    def __init__(self, choice: _Segmenter, folder: Path) -> None:
        self._choice = choice
        self._path = segmenter_path(folder)

    def segment(self, images: NDArray[np.float32]) -> Any:
        """Segment images, or fail.

        Raises
        ------
        SegmenterError
            The file exists.
        """
        if self._path.exists():
            raise SegmenterError("CUDA error: an illegal memory access (injected)")
        return self._choice.segment(images)
