"""Reads a frame log that its writer will not take up again, as far as it can be read.

The log may be damaged anywhere: torn by a host that went down, cut short, with bits that flipped.
So nothing in it is followed from one place to the next: the whole ring is searched for records, and
each of them is believed only by its checksum, its pixels only by their digest.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.errors import LogError
from hrtem_stream.transport.frame_log import lock_log
from hrtem_stream.transport.log_format import (
    ALIGNMENT,
    BOOT,
    BOOT_OFFSET,
    MAGIC,
    NEXT_ORDINAL,
    NEXT_ORDINAL_OFFSET,
    RING_START,
    SUPER,
    VERSION,
    LoggedRecord,
    host_boot,
    map_file,
    pixels_offset,
    read_account,
    read_cell,
    scan,
)


def is_log(path: Path) -> bool:
    """Tell whether a file begins as a frame log."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class SalvagedLog:
    """What can be read of a frame log; made by `open`, which keeps writers away until `close`.

    Attributes
    ----------
    log_id, base
        Its identity, and the first ordinal that was not acknowledged, 0 if that is not known.
    records
        The whole records by ordinal, in order. Of those below `base` some may be missing: their
        places were used again.
    end
        The ordinal after the last that is known to have been given.
    account
        The account when the last whole record was logged, empty if it is not known.
    """

    def __init__(self, path: Path, buffer: mmap.mmap, log_id: int, capacity: int, lock: int):
        self.path = path
        self.log_id = log_id
        self._buffer = buffer
        self._lock = lock
        cell = read_cell(buffer)
        self.base = cell.base if cell else 0
        found = scan(buffer, log_id, capacity)
        self.records = {record.ordinal: record for record in sorted(found, key=_ordinal)}
        (following,) = NEXT_ORDINAL.unpack_from(buffer, NEXT_ORDINAL_OFFSET)
        self.end = max([self.base, *(ordinal + 1 for ordinal in self.records)])
        # After a restart of the host the number of the last record may have reached the disk
        # without the record: what was not written cannot be told from what was not received.
        same_boot = BOOT.unpack_from(buffer, BOOT_OFFSET)[0] == host_boot()
        if same_boot and self.end <= following <= self.end + capacity // ALIGNMENT:
            self.end = following
        last = next(reversed(self.records.values()), None)
        if last is not None and last.ordinal >= self.base - 1:
            self.account = last.account
        else:
            self.account = read_account(buffer, self.base)

    @classmethod
    def open(cls, path: Path) -> SalvagedLog:
        """Open a log and take its lock.

        Raises
        ------
        LogError
            It is not a frame log, or its first page is damaged.
        SettingsError
            A process writes it.
        """
        lock = lock_log(path)
        try:
            n_bytes = os.fstat(lock).st_size
            if n_bytes < RING_START:
                raise LogError(f"frame log {path} is cut to {n_bytes} bytes: nothing is left of it")
            magic, version, log_id, capacity = SUPER.unpack(os.pread(lock, SUPER.size, 0))
            if magic != MAGIC or version != VERSION:
                raise LogError(f"{path} is not a frame log of version {VERSION}")
            capacity = min(capacity, n_bytes - RING_START) // ALIGNMENT * ALIGNMENT
            buffer = map_file(lock, RING_START + capacity, write=False)
        except LogError:
            os.close(lock)
            raise
        return cls(path, buffer, log_id, capacity, lock)

    @property
    def missing(self) -> list[int]:
        """Ordinals that were not acknowledged and of which no whole record is left."""
        return [n for n in range(self.base, self.end) if n not in self.records]

    def is_sound(self, record: LoggedRecord) -> bool:
        """Tell whether the pixels of a record are those that were received."""
        first = pixels_offset(record)
        pixels = memoryview(self._buffer)[first : first + record.n_pixel_bytes]
        return int(xxhash.xxh3_64_intdigest(pixels)) == record.digest

    def pixels(
        self, log_id: int, ordinal: int, offset: int, dtype: str, shape: tuple[int, int]
    ) -> NDArray[Any]:
        """Give a read-only view of a record's pixels, as a `FrameLogReader` does.

        Raises
        ------
        LogError
            There is no such record, or its size is another.
        """
        record = self.records.get(ordinal)
        shape = shape if shape[1] else (1, shape[0])
        n_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
        if record is None or log_id != self.log_id or record.n_pixel_bytes != n_bytes:
            raise LogError(f"record {ordinal} with {n_bytes} pixel bytes is not in {self.path}")
        view = np.frombuffer(self._buffer, dtype, shape[0] * shape[1], pixels_offset(record))
        return view.reshape(shape)

    def may_be(self, log_id: int) -> bool:
        """Tell whether a message can come from this log."""
        return log_id == self.log_id

    def still_there(self, ordinal: int, offset: int) -> bool:
        """Tell whether a record was not overwritten meanwhile: nobody writes."""
        return ordinal in self.records

    def close(self) -> None:
        """Let go of the log, for others to write."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # views may still hold the mapping, and so the file
        os.close(self._lock)

    def remove(self) -> None:
        """Remove the file, which nobody needs any more."""
        self.path.unlink(missing_ok=True)


def _ordinal(record: LoggedRecord) -> int:
    return record.ordinal
