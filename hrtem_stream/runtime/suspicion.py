"""Poison: finding the frame that kills its worker, without condemning its neighbours.

Before work, a worker notes in a mapped file which frames it has in hand; after work it wipes the
note. A note that is left over at the next start raises a suspicion against each of those frames.
A suspect is worked on alone, so a neighbour of the culprit is cleared by surviving; at two
suspicions a frame is condemned: it is passed on without work.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path

CONDEMNED_AT = 2
MAX_SUSPECTS = 512

MAX_IN_HAND = 256

_NOTE = struct.Struct("<QQ")  # log id, number of frames in hand: 0 when idle
_ORDINAL = struct.Struct("<Q")
_COUNT = struct.Struct("<QQ")  # ordinal, suspicions: 0 when free
_ORDINALS = _NOTE.size
_TABLE = _ORDINALS + MAX_IN_HAND * _ORDINAL.size


class Suspicions:
    """The note and the table of suspects of one worker.

    Parameters
    ----------
    path
        File that outlives the worker.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        n_bytes = _TABLE + MAX_SUSPECTS * _COUNT.size
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size != n_bytes:  # of another version
                os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, n_bytes)
            self._buffer = mmap.mmap(descriptor, n_bytes)
        finally:
            os.close(descriptor)
        self._log_id, n_frames = _NOTE.unpack_from(self._buffer, 0)
        self._counts = self._read_counts()
        if n_frames:
            for number in range(min(n_frames, MAX_IN_HAND)):
                (ordinal,) = _ORDINAL.unpack_from(self._buffer, _ORDINALS + number * _ORDINAL.size)
                self._counts[ordinal] = self._counts.get(ordinal, 0) + 1
            self._write_counts()
            self.wipe()

    def follow_log(self, log_id: int) -> None:
        """Forget everything when the log's identity changed: its ordinals are others."""
        if log_id != self._log_id:
            self._log_id = log_id
            self._counts.clear()
            self._write_counts()
            self.wipe()

    def is_suspect(self, ordinal: int) -> bool:
        """Tell whether the frame must be worked on alone."""
        return ordinal in self._counts

    def is_condemned(self, ordinal: int) -> bool:
        """Tell whether the frame must be passed on without work."""
        return self._counts.get(ordinal, 0) >= CONDEMNED_AT

    def note(self, ordinals: Sequence[int]) -> None:
        """Note the frames in hand: their number last, so that a torn note does not count."""
        in_hand = ordinals[:MAX_IN_HAND]
        for number, ordinal in enumerate(in_hand):
            _ORDINAL.pack_into(self._buffer, _ORDINALS + number * _ORDINAL.size, ordinal)
        _NOTE.pack_into(self._buffer, 0, self._log_id, len(in_hand))

    def wipe(self) -> None:
        """Note that nothing is in hand."""
        _NOTE.pack_into(self._buffer, 0, self._log_id, 0)

    def clear(self, ordinal: int) -> None:
        """Drop the suspicion against a frame that was worked on alone, and survived."""
        if self._counts.pop(ordinal, None) is not None:
            self._write_counts()

    def _read_counts(self) -> dict[int, int]:
        cells = (
            _COUNT.unpack_from(self._buffer, _TABLE + number * _COUNT.size)
            for number in range(MAX_SUSPECTS)
        )
        return {ordinal: count for ordinal, count in cells if count}

    def _write_counts(self) -> None:
        newest = sorted(self._counts.items())[-MAX_SUSPECTS:]
        cells = newest + [(0, 0)] * (MAX_SUSPECTS - len(newest))
        for number, cell in enumerate(cells):
            _COUNT.pack_into(self._buffer, _TABLE + number * _COUNT.size, *cell)
