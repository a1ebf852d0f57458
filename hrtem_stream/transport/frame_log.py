"""The frame log: one preallocated, memory-mapped ring of records.

Layout of the file (little endian)::

    0     superblock: magic, version, log id, capacity, generation of the writer, counters
    512   two cells, written in turn: sequence, oldest offset, oldest ordinal, base, checksum
    4096  ring of `capacity` bytes, records at multiples of 64 bytes

A record is a 64-byte head, the meta (published as it is), the account (for a restart), and the
pixels, aligned to 64. Its head holds a dense ordinal and a checksum over log id, head, meta and
account; its magic is written last, so a record that is torn by a kill does not count. A record is
overwritten only when its ordinal lies below `base`, which is what the archive has acknowledged,
and as late as possible; the cell that names the oldest record is written before the bytes go.

The writer is the only one; any number of readers map the same pages.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.errors import LogError

MAGIC = b"HRTEMLOG"
VERSION = 1
RECORD_MAGIC = 0x5245_434F_5244_3031
WRAP_KIND = 255
RING_START = 4096
ALIGNMENT = 64
COPY_BYTES = 1 << 18

_SUPER = struct.Struct("<8sQQQ")  # magic, version, log id, capacity
_COUNTERS = struct.Struct("<QQ")  # generation, republished
_COUNTERS_OFFSET = 64
_CELL = struct.Struct("<QQQQQ")  # sequence, oldest offset, oldest ordinal, base, checksum
_CELL_OFFSETS = (512, 576)
_HEAD = struct.Struct("<QQQIIIIQQQ")
# magic, ordinal, checksum, kind, meta bytes, account bytes, spare, pixel bytes, span, digest


@dataclass(frozen=True, slots=True)
class LoggedRecord:
    """A record in the log, without its pixels."""

    ordinal: int
    offset: int
    kind: int
    meta: bytes
    account: bytes
    n_pixel_bytes: int
    span: int
    digest: int


class FrameLog:
    """The writer of a frame log.

    Made by `create` or `take_over`. `base` is the first ordinal that is not acknowledged,
    `next_ordinal` the one that the next record gets; `generation` grows with each writer.
    """

    def __init__(self, path: Path, buffer: mmap.mmap, log_id: int, capacity: int) -> None:
        self.path = path
        self.log_id = log_id
        self.capacity = capacity
        self.base = 0
        self.next_ordinal = 0
        self.generation = 0
        self._buffer = buffer
        self._pixels = np.frombuffer(buffer, np.uint8)
        self._records: deque[tuple[int, int, int]] = deque()  # ordinal, offset, span
        self._head = 0
        self._cell_sequence = 0

    @classmethod
    def create(cls, path: Path, capacity: int) -> FrameLog:
        """Make a new log under a new identity, replacing whatever lies at `path`.

        Raises
        ------
        LogError
            There is no room for it; the message says how much is needed.
        """
        capacity = _align(capacity)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RING_START + capacity)
            buffer = _map(descriptor, RING_START + capacity, write=True)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise LogError(
                f"frame log {path}: {capacity >> 20} MiB cannot be had: {error.strerror}"
            ) from None
        finally:
            os.close(descriptor)
        log_id = secrets.randbits(63)
        log = cls(path, buffer, log_id, capacity)
        _SUPER.pack_into(buffer, 0, MAGIC, VERSION, log_id, capacity)
        log._write_cell(0, 0)
        log._write_cell(0, 0)
        log._begin_generation()
        fresh.replace(path)
        return log

    @classmethod
    def take_over(cls, path: Path) -> tuple[FrameLog, list[LoggedRecord]]:
        """Open the log that an earlier writer left, cutting a torn record at its end.

        Returns
        -------
        log
            The log, ready to append.
        records
            What lies in it, oldest first; some of it may lie below `log.base`.

        Raises
        ------
        LogError
            There is no log, or its end is neither clean nor torn in the last record.
        """
        buffer, log_id, capacity = _open(path, write=True)
        cells = _read_cells(buffer)
        if not cells:
            raise LogError(f"frame log {path}: neither of its two cells is whole")
        sequence, oldest_offset, oldest_ordinal, base = max(cells)
        log = cls(path, buffer, log_id, capacity)
        log.base = base
        log._cell_sequence = sequence
        log._head = oldest_offset
        log.next_ordinal = oldest_ordinal
        records = list(_walk(buffer, log_id, capacity, oldest_offset, oldest_ordinal))
        for record in records:
            log._records.append((record.ordinal, record.offset, record.span))
        if records:
            last = records[-1]
            log.next_ordinal = last.ordinal + 1
            log._head = last.offset + last.span
            if last.n_pixel_bytes and _digest(buffer, last) != last.digest:
                raise LogError(f"frame log {path}: the last record's pixels fail their digest")
        if base > log.next_ordinal:
            raise LogError(
                f"frame log {path}: records up to {base} were acknowledged, "
                f"but it ends at {log.next_ordinal}"
            )
        log._begin_generation()
        return log, records

    @property
    def fill(self) -> float:
        """Share of the ring that holds records which are not acknowledged."""
        held = sum(span for ordinal, _, span in self._unacknowledged())
        return held / self.capacity

    @property
    def republished(self) -> int:
        """Publications beyond the first, kept over restarts."""
        return int(_COUNTERS.unpack_from(self._buffer, _COUNTERS_OFFSET)[1])

    def count_republished(self, n_messages: int) -> None:
        """Add to `republished`."""
        _COUNTERS.pack_into(
            self._buffer, _COUNTERS_OFFSET, self.generation, self.republished + n_messages
        )

    def acknowledge(self, base: int) -> None:
        """Note that every record below `base` is in the archive."""
        if base > self.base:
            self.base = min(base, self.next_ordinal)
            oldest = self._records[0] if self._records else (self.next_ordinal, self._head, 0)
            self._write_cell(oldest[1], oldest[0])

    def fits(self, n_meta_bytes: int, n_pixel_bytes: int) -> bool:
        """Tell whether a record of this size can be appended now.

        Raises
        ------
        LogError
            It could never be: the record is larger than the log.
        """
        span = _span(n_meta_bytes, n_pixel_bytes)
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
        span = _span(n_meta_bytes, n_pixel_bytes)
        start, n_victims = self._place(span)
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
            digest = self._copy_pixels(body + _align(n_meta_bytes), pixels)
        head = (self.next_ordinal, kind, len(meta), len(account), n_pixel_bytes, span, digest)
        _write_head(self._buffer, where, self.log_id, head, meta + account)
        record = LoggedRecord(
            self.next_ordinal, start, kind, meta, account, n_pixel_bytes, span, digest
        )
        self._records.append((self.next_ordinal, start, span))
        self._head = start + span
        self.next_ordinal += 1
        return record

    def close(self) -> None:
        """Let go of the mapping; the file stays."""
        del self._pixels
        self._buffer.close()

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

    def _unacknowledged(self) -> Iterator[tuple[int, int, int]]:
        for record in reversed(self._records):
            if record[0] < self.base:
                return
            yield record

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
        where = RING_START + self._head
        rest = self.capacity - self._head
        head = (self.next_ordinal, WRAP_KIND, 0, 0, 0, rest, 0)
        _write_head(self._buffer, where, self.log_id, head, b"")

    def _write_cell(self, oldest_offset: int, oldest_ordinal: int) -> None:
        self._cell_sequence += 1
        values = (self._cell_sequence, oldest_offset, oldest_ordinal, self.base)
        checksum = xxhash.xxh3_64_intdigest(struct.pack("<QQQQ", *values))
        _CELL.pack_into(self._buffer, _CELL_OFFSETS[self._cell_sequence % 2], *values, checksum)

    def _begin_generation(self) -> None:
        generation, republished = _COUNTERS.unpack_from(self._buffer, _COUNTERS_OFFSET)
        self.generation = generation + 1
        _COUNTERS.pack_into(self._buffer, _COUNTERS_OFFSET, self.generation, republished)


class FrameLogReader:
    """A reader of the frame log: the pixels of a frame, without a copy.

    The log is opened when the first frame asks for it, and anew when the log's identity changes.
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
        where = RING_START + offset + ALIGNMENT + _align(n_meta_bytes)
        view = np.frombuffer(buffer, dtype, shape[0] * shape[1], where).reshape(shape)
        view.flags.writeable = False
        return view

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
            self._buffer, self._log_id, _ = _open(self.path, write=False)
            if self._log_id != log_id:
                raise LogError(f"frame log {self.path} is {self._log_id}, asked for {log_id}")
        return self._buffer

    @staticmethod
    def _check(buffer: mmap.mmap, ordinal: int, offset: int) -> tuple[int, int]:
        if offset < 0 or offset % ALIGNMENT or RING_START + offset + ALIGNMENT > len(buffer):
            raise LogError(f"offset {offset} does not lie in the log")
        head = _HEAD.unpack_from(buffer, RING_START + offset)
        if head[0] != RECORD_MAGIC or head[1] != ordinal:
            raise LogError(f"offset {offset} does not hold record {ordinal} any more")
        if RING_START + offset + head[8] > len(buffer):
            raise LogError(f"record {ordinal} claims to reach beyond the log")
        return head[4] + head[5], head[7]


def read_log(path: Path) -> tuple[int, int, list[LoggedRecord]]:
    """Read identity, base and all records of a log that nobody writes, oldest first."""
    buffer, log_id, capacity = _open(path, write=False)
    cells = _read_cells(buffer)
    if not cells:
        raise LogError(f"frame log {path}: neither of its two cells is whole")
    _, offset, ordinal, base = max(cells)
    return log_id, base, list(_walk(buffer, log_id, capacity, offset, ordinal))


def _walk(
    buffer: mmap.mmap, log_id: int, capacity: int, offset: int, ordinal: int
) -> Iterator[LoggedRecord]:
    """Go from record to record until one is not whole or not the next."""
    n_walked = 0
    while n_walked <= capacity:
        if capacity - offset < ALIGNMENT:
            n_walked += capacity - offset
            offset = 0
        where = RING_START + offset
        magic, number, checksum, kind, n_meta, n_account, _, n_pixels, span, digest = (
            _HEAD.unpack_from(buffer, where)
        )
        if magic != RECORD_MAGIC or number != ordinal or offset + span > capacity:
            return
        n_body = n_meta + n_account
        if span < ALIGNMENT or ALIGNMENT + n_body > span:
            return
        body = buffer[where + ALIGNMENT : where + ALIGNMENT + n_body]
        values = (number, kind, n_meta, n_account, n_pixels, span, digest)
        if _checksum(log_id, values, body) != checksum:
            return
        n_walked += span
        if kind == WRAP_KIND:
            offset = 0
            continue
        yield LoggedRecord(
            number, offset, kind, body[:n_meta], body[n_meta:], n_pixels, span, digest
        )
        offset += span
        ordinal += 1


def _open(path: Path, *, write: bool) -> tuple[mmap.mmap, int, int]:
    try:
        descriptor = os.open(path, os.O_RDWR if write else os.O_RDONLY)
    except OSError as error:
        raise LogError(f"frame log {path} cannot be opened: {error.strerror}") from None
    try:
        n_bytes = os.fstat(descriptor).st_size
        if n_bytes < RING_START:
            raise LogError(f"frame log {path} is too short: {n_bytes} bytes")
        magic, version, log_id, capacity = _SUPER.unpack(os.pread(descriptor, _SUPER.size, 0))
        if magic != MAGIC or version != VERSION or n_bytes != RING_START + capacity:
            raise LogError(f"{path} is not a frame log of version {VERSION}")
        return _map(descriptor, n_bytes, write=write), log_id, capacity
    finally:
        os.close(descriptor)


def _map(descriptor: int, n_bytes: int, *, write: bool) -> mmap.mmap:
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    return mmap.mmap(descriptor, n_bytes, mmap.MAP_SHARED | mmap.MAP_POPULATE, protection)


def _read_cells(buffer: mmap.mmap) -> list[tuple[int, int, int, int]]:
    whole = []
    for offset in _CELL_OFFSETS:
        *values, checksum = _CELL.unpack_from(buffer, offset)
        if values[0] and xxhash.xxh3_64_intdigest(struct.pack("<QQQQ", *values)) == checksum:
            whole.append((values[0], values[1], values[2], values[3]))
    return whole


def _write_head(
    buffer: mmap.mmap, where: int, log_id: int, values: tuple[int, ...], body: bytes
) -> None:
    ordinal, kind, n_meta, n_account, n_pixels, span, digest = values
    checksum = _checksum(log_id, values, body)
    _HEAD.pack_into(
        buffer, where, 0, ordinal, checksum, kind, n_meta, n_account, 0, n_pixels, span, digest
    )
    struct.pack_into("<Q", buffer, where, RECORD_MAGIC)


def _checksum(log_id: int, values: tuple[int, ...], body: bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(struct.pack("<8Q", log_id, *values) + body))


def _digest(buffer: mmap.mmap, record: LoggedRecord) -> int:
    n_meta = len(record.meta) + len(record.account)
    where = RING_START + record.offset + ALIGNMENT + _align(n_meta)
    return int(xxhash.xxh3_64_intdigest(memoryview(buffer)[where : where + record.n_pixel_bytes]))


def _span(n_meta_bytes: int, n_pixel_bytes: int) -> int:
    return ALIGNMENT + _align(n_meta_bytes) + _align(n_pixel_bytes)


def _align(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT
