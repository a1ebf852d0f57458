"""Heartbeats: a stage writes a few numbers into a small mapped file, the supervisor reads them.

A mapped file needs no socket, costs nothing per beat, and its last state outlives the process.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

_BEAT = struct.Struct("<QQQQQ")


@dataclass(frozen=True, slots=True)
class Beat:
    """The last beat of a process."""

    pid: int
    beat_ns: int
    """Monotonic clock of the host, in nanoseconds; 0 before the first beat."""
    n_done: int
    """Frames done by this process."""
    n_expected: int
    """Frames of the series where the feed announced them, else 0."""
    metrics_port: int


class Heart:
    """The writing end, one for each process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _BEAT.size)
            self._buffer = mmap.mmap(descriptor, _BEAT.size)
        finally:
            os.close(descriptor)
        self.n_done = 0
        self.n_expected = 0
        self.metrics_port = 0
        _BEAT.pack_into(self._buffer, 0, os.getpid(), 0, 0, 0, 0)

    def beat(self) -> None:
        """Say that the loop turns."""
        _BEAT.pack_into(
            self._buffer, 0, os.getpid(), time.monotonic_ns(),
            self.n_done, self.n_expected, self.metrics_port,
        )  # fmt: skip


def read_beat(path: Path) -> Beat:
    """Read the last beat; zeros when there is none."""
    try:
        packed = path.read_bytes()
    except OSError:
        packed = b""
    if len(packed) != _BEAT.size:
        return Beat(0, 0, 0, 0, 0)
    return Beat(*_BEAT.unpack(packed))
