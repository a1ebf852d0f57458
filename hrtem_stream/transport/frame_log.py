"""The frame log: one preallocated, memory-mapped ring of records; `log_format` has its layout.

A record is overwritten only when its ordinal lies below `base`, which is what the archive has
acknowledged, and as late as possible; the cell that names the oldest record is written before the
bytes go. The writer is the only one, and holds a lock; any number of readers map the same pages.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import struct
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.errors import LogError, SettingsError
from hrtem_stream.transport.log_format import (
    ALIGNMENT,
    BOOT,
    BOOT_OFFSET,
    COUNTERS,
    COUNTERS_OFFSET,
    HEAD,
    MAGIC,
    NEXT_ORDINAL,
    NEXT_ORDINAL_OFFSET,
    RECORD_MAGIC,
    RING_START,
    SUPER,
    VERSION,
    WRAP_KIND,
    Cell,
    LoggedRecord,
    aligned,
    host_boot,
    log_id_at,
    map_file,
    open_log_file,
    read_account,
    read_cell,
    span_of,
    walk,
    write_account,
    write_cell,
    write_head,
)

COPY_BYTES = 1 << 18


class FrameLog:
    """The writer of a frame log.

    Made by `create` or `take_over`. `base` is the first ordinal that is not acknowledged,
    `next_ordinal` the one that the next record gets; `generation` grows with each writer;
    `account` lies beside the last record, also when nothing of that is left in the ring.
    """

    def __init__(
        self, path: Path, buffer: mmap.mmap, log_id: int, capacity: int, *, lock: int
    ) -> None:
        self.path = path
        self.log_id = log_id
        self.capacity = capacity
        self.base = 0
        self.next_ordinal = 0
        self.generation = 0
        self.account = b""
        self._lock = lock
        self._buffer = buffer
        self._pixels = np.frombuffer(buffer, np.uint8)
        self._records: deque[tuple[int, int, int]] = deque()  # ordinal, offset, span
        self._unacknowledged: deque[tuple[int, int]] = deque()  # ordinal, span
        self._n_held_bytes = 0
        self._head = 0
        self._cell_sequence = 0

    @classmethod
    def create(cls, path: Path, capacity: int, *, boot: bytes | None = None) -> FrameLog:
        """Make a new log under a new identity, replacing whatever lies at `path`.

        Parameters
        ----------
        boot
            Identity of this boot of the host; by default it is asked for.

        Raises
        ------
        LogError
            There is no room for it; the message says how much is needed.
        """
        capacity = aligned(capacity)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        lock = lock_log(fresh)
        try:
            os.posix_fallocate(lock, 0, RING_START + capacity)
            buffer = map_file(lock, RING_START + capacity, write=True)
        except OSError as error:
            os.close(lock)
            fresh.unlink(missing_ok=True)
            raise LogError(
                f"frame log {path}: {capacity >> 20} MiB cannot be had: {error.strerror}"
            ) from None
        log_id = secrets.randbits(63)
        log = cls(path, buffer, log_id, capacity, lock=lock)
        SUPER.pack_into(buffer, 0, MAGIC, VERSION, log_id, capacity)
        BOOT.pack_into(buffer, BOOT_OFFSET, boot or host_boot())
        log._write_cell(0, 0)
        log._write_cell(0, 0)
        log._begin_generation()
        fresh.replace(path)
        return log

    @classmethod
    def take_over(
        cls, path: Path, *, boot: bytes | None = None
    ) -> tuple[FrameLog, list[LoggedRecord]]:
        """Open the log that an earlier writer left, cutting a torn record at its end.

        Parameters
        ----------
        boot
            Identity of this boot of the host; by default it is asked for.

        Returns
        -------
        log
            The log, ready to append.
        records
            What lies in it, oldest first; some of it may lie below `log.base`.

        Raises
        ------
        LogError
            There is no log, the host was restarted since (its last numbers may be lost, and must
            not be given twice), or a record amid it is damaged.
        SettingsError
            Another process writes it.
        """
        lock = lock_log(path)
        try:
            buffer, log_id, capacity = open_log_file(path, write=True)
            cell = _cell_of(path, buffer)
            if BOOT.unpack_from(buffer, BOOT_OFFSET)[0] != (boot or host_boot()):
                raise LogError(f"frame log {path} was written before the host was restarted")
            place = {"offset": cell.oldest_offset, "ordinal": cell.oldest_ordinal}
            records = list(walk(buffer, log_id, capacity, **place))
            end = records[-1].ordinal + 1 if records else cell.oldest_ordinal
            (expected,) = NEXT_ORDINAL.unpack_from(buffer, NEXT_ORDINAL_OFFSET)
            if max(expected, cell.base) > end:
                raise LogError(
                    f"frame log {path}: record {end} is damaged, and "
                    f"{max(expected, cell.base)} were appended"
                )
        except LogError:
            os.close(lock)
            raise
        log = cls(path, buffer, log_id, capacity, lock=lock)
        log._recall(cell, records)
        log._begin_generation()
        return log, records

    def _recall(self, cell: Cell, records: list[LoggedRecord]) -> None:
        """Take up the state that an earlier writer left."""
        self.base = cell.base
        self._cell_sequence = cell.sequence
        self._head = cell.oldest_offset
        self.next_ordinal = cell.oldest_ordinal
        for record in records:
            self._note(record)
        if records:
            self._head = records[-1].offset + records[-1].span
            self.account = records[-1].account
        else:
            self.account = read_account(self._buffer, self.next_ordinal)

    def _note(self, record: LoggedRecord) -> None:
        self._records.append((record.ordinal, record.offset, record.span))
        if record.ordinal >= self.base:
            self._unacknowledged.append((record.ordinal, record.span))
            self._n_held_bytes += record.span
        self.next_ordinal = record.ordinal + 1

    @property
    def fill(self) -> float:
        """Share of the ring that holds records which are not acknowledged."""
        return self._n_held_bytes / self.capacity

    @property
    def republished(self) -> int:
        """Publications beyond the first, kept over restarts."""
        return int(COUNTERS.unpack_from(self._buffer, COUNTERS_OFFSET)[1])

    def count_republished(self, n_messages: int) -> None:
        """Add to `republished`."""
        COUNTERS.pack_into(
            self._buffer, COUNTERS_OFFSET, self.generation, self.republished + n_messages
        )

    def acknowledge(self, base: int) -> None:
        """Note that every record below `base` is in the archive."""
        if base > self.base:
            self.base = min(base, self.next_ordinal)
            while self._unacknowledged and self._unacknowledged[0][0] < self.base:
                self._n_held_bytes -= self._unacknowledged.popleft()[1]
            oldest = self._records[0] if self._records else (self.next_ordinal, self._head, 0)
            self._write_cell(oldest[1], oldest[0])

    def fits(self, n_meta_bytes: int, n_pixel_bytes: int) -> bool:
        """Tell whether a record of this size can be appended now.

        Raises
        ------
        LogError
            It could never be: the record is larger than the log.
        """
        span = span_of(n_meta_bytes, n_pixel_bytes)
        if span > self.capacity:
            raise LogError(
                f"a record of {span} bytes exceeds the frame log of {self.capacity} bytes; "
                f"raise frame_log.capacity_mib above {span / 2**20:.0f}"
            )
        _, n_victims = self._place(span)
        return n_victims == 0 or self._records[n_victims - 1][0] < self.base

    def append(
        self, kind: int, meta: bytes, account: bytes, pixels: NDArray[Any] | None = None
    ) -> LoggedRecord:
        """Append a record; ask `fits` first.

        The digest is taken while the pixels are copied, so that they are read once.

        Raises
        ------
        LogError
            There is no room.
        """
        n_pixel_bytes = 0 if pixels is None else pixels.nbytes
        n_meta_bytes = len(meta) + len(account)
        if not self.fits(n_meta_bytes, n_pixel_bytes):
            raise LogError("the frame log is full")
        span = span_of(n_meta_bytes, n_pixel_bytes)
        start, n_victims = self._place(span)
        if n_victims == len(self._records):  # while this one is written, no other is whole
            write_account(self._buffer, self.next_ordinal, self.account)
        for _ in range(n_victims):
            self._records.popleft()
        oldest = self._records[0] if self._records else (self.next_ordinal, start, span)
        if n_victims or start != self._head:
            self._write_cell(oldest[1], oldest[0])
        if start != self._head and self.capacity - self._head >= ALIGNMENT:
            self._write_wrap()
        where = RING_START + start
        struct.pack_into("<Q", self._buffer, where, 0)
        body = where + ALIGNMENT
        self._buffer[body : body + len(meta)] = meta
        self._buffer[body + len(meta) : body + n_meta_bytes] = account
        digest = 0
        if pixels is not None:
            digest = self._copy_pixels(body + aligned(n_meta_bytes), pixels)
        record = LoggedRecord(
            self.next_ordinal, start, kind, meta, account, n_pixel_bytes, span, digest
        )
        write_head(self._buffer, self.log_id, record)
        self._note(record)
        NEXT_ORDINAL.pack_into(self._buffer, NEXT_ORDINAL_OFFSET, self.next_ordinal)
        self._head = start + span
        self.account = account
        return record

    def pixel_bytes(self, record: LoggedRecord) -> bytes:
        """Copy the pixels of a record that is not acknowledged, for a message to another host."""
        where = RING_START + record.offset + ALIGNMENT
        where += aligned(len(record.meta) + len(record.account))
        return self._pixels[where : where + record.n_pixel_bytes].tobytes()

    def close(self) -> None:
        """Let go of the mapping; the file stays."""
        del self._pixels
        self._buffer.close()
        os.close(self._lock)

    def remove(self) -> None:
        """Remove the file and its folder if that is empty; mapped readers keep their pages."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def _place(self, span: int) -> tuple[int, int]:
        """Find where a record of `span` bytes goes, and how many old ones it overwrites."""
        wraps = self.capacity - self._head < span
        start = 0 if wraps else self._head
        n_victims = 0
        crossed = False  # whether the search went over the ring's end, where old offsets restart
        previous = -1
        for _, offset, _ in self._records:
            crossed = crossed or offset < previous
            previous = offset
            if wraps:
                overwritten = (offset >= self._head and not crossed) or offset < span
            else:
                overwritten = self._head <= offset < self._head + span and not crossed
            if not overwritten:
                break
            n_victims += 1
        return start, n_victims

    def _copy_pixels(self, where: int, pixels: NDArray[Any]) -> int:
        source = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
        target = self._pixels
        hasher = xxhash.xxh3_64()
        for first in range(0, source.size, COPY_BYTES):
            block = source[first : first + COPY_BYTES]
            target[where + first : where + first + block.size] = block
            hasher.update(block.data)
        return int(hasher.intdigest())

    def _write_wrap(self) -> None:
        rest = self.capacity - self._head
        wrap = LoggedRecord(self.next_ordinal, self._head, WRAP_KIND, b"", b"", 0, rest, 0)
        write_head(self._buffer, self.log_id, wrap)

    def _write_cell(self, oldest_offset: int, oldest_ordinal: int) -> None:
        self._cell_sequence += 1
        write_cell(
            self._buffer, Cell(self._cell_sequence, oldest_offset, oldest_ordinal, self.base)
        )

    def _begin_generation(self) -> None:
        generation, republished = COUNTERS.unpack_from(self._buffer, COUNTERS_OFFSET)
        self.generation = generation + 1
        COUNTERS.pack_into(self._buffer, COUNTERS_OFFSET, self.generation, republished)


class FrameLogReader:
    """A reader of the frame log: the pixels of a frame, without a copy.

    The log is opened when it is followed, or when the first frame asks for it, and anew when its
    identity changes. Opening takes a tenth of a second a gigabyte.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._buffer: mmap.mmap | None = None
        self._log_id = -1

    def pixels(
        self, log_id: int, ordinal: int, offset: int, dtype: str, shape: tuple[int, int]
    ) -> NDArray[Any]:
        """Give a read-only view of a record's pixels.

        Raises
        ------
        LogError
            The log is another one, or the record at `offset` is not `ordinal` any more.
        """
        buffer = self._mapped(log_id)
        n_meta_bytes, n_pixel_bytes = self._check(buffer, ordinal, offset)
        shape = shape if shape[1] else (1, shape[0])
        expected = shape[0] * shape[1] * np.dtype(dtype).itemsize
        if expected != n_pixel_bytes:
            raise LogError(
                f"record {ordinal} has {n_pixel_bytes} pixel bytes, its header says {expected}"
            )
        where = RING_START + offset + ALIGNMENT + aligned(n_meta_bytes)
        view = np.frombuffer(buffer, dtype, shape[0] * shape[1], where).reshape(shape)
        view.flags.writeable = False
        return view

    def follow(self, log_id: int) -> None:
        """Open the log before a frame asks for it; nothing happens where it does not lie."""
        with contextlib.suppress(LogError):
            self._mapped(log_id)

    def may_be(self, log_id: int) -> bool:
        """Tell whether a message can come from this log: unless another one lies here."""
        return log_id_at(self.path) in (log_id, None)

    def still_there(self, ordinal: int, offset: int) -> bool:
        """Tell whether a record was not overwritten meanwhile."""
        if self._buffer is None:
            return False
        try:
            self._check(self._buffer, ordinal, offset)
        except LogError:
            return False
        return True

    def close(self) -> None:
        """Let go of the mapping; views that are still held keep it alive."""
        self._buffer = None
        self._log_id = -1

    def _mapped(self, log_id: int) -> mmap.mmap:
        if self._buffer is None or self._log_id != log_id:
            self._buffer, self._log_id, _ = open_log_file(self.path, write=False)
            if self._log_id != log_id:
                raise LogError(f"frame log {self.path} is {self._log_id}, asked for {log_id}")
        return self._buffer

    @staticmethod
    def _check(buffer: mmap.mmap, ordinal: int, offset: int) -> tuple[int, int]:
        if offset < 0 or offset % ALIGNMENT or RING_START + offset + ALIGNMENT > len(buffer):
            raise LogError(f"offset {offset} does not lie in the log")
        head = HEAD.unpack_from(buffer, RING_START + offset)
        if head[0] != RECORD_MAGIC or head[1] != ordinal:
            raise LogError(f"offset {offset} does not hold record {ordinal} any more")
        if RING_START + offset + head[8] > len(buffer):
            raise LogError(f"record {ordinal} claims to reach beyond the log")
        return head[4] + head[5], head[7]


def read_log(path: Path) -> tuple[int, int, list[LoggedRecord]]:
    """Read identity, base and all records of a log that nobody writes, oldest first.

    Raises
    ------
    LogError
        There is none, or it does not say where it begins.
    """
    buffer, log_id, capacity = open_log_file(path, write=False)
    cell = _cell_of(path, buffer)
    place = {"offset": cell.oldest_offset, "ordinal": cell.oldest_ordinal}
    return log_id, cell.base, list(walk(buffer, log_id, capacity, **place))


def _cell_of(path: Path, buffer: mmap.mmap) -> Cell:
    cell = read_cell(buffer)
    if cell is None:
        raise LogError(f"frame log {path}: neither of its two cells is whole")
    return cell


def lock_log(path: Path) -> int:
    """Take the lock of a log's writer; give the descriptor that holds it.

    Raises
    ------
    LogError
        There is no such file.
    SettingsError
        Another process holds it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError as error:
        raise LogError(f"frame log {path} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingsError(
            f"frame log {path} is in use by another process; every session needs its own"
        ) from None
    return descriptor
