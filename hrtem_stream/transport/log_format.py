"""How a frame log lies in its file: what writer, readers and salvage agree on.

Layout (little endian)::

    0      superblock: magic, version, log id, capacity, generation of the writer, counters,
           next ordinal, boot of the host
    512    two cells, written in turn: sequence, oldest offset, oldest ordinal, base, checksum
    4096   two accounts, written in turn: ordinal, length, checksum, then the account
    69632  ring of `capacity` bytes, records at multiples of 64 bytes

A record is a 64-byte head, the meta (published as it is), the account (for a restart), and the
pixels, aligned to 64. Its head holds a dense ordinal, the digest of the pixels, and a checksum over
log id, head, meta and account; its magic is written last, so a record that is torn by a kill does
not count.
"""

from __future__ import annotations

import mmap
import os
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from hrtem_stream.errors import LogError

MAGIC = b"HRTEMLOG"
VERSION = 2
RECORD_MAGIC = 0x5245_434F_5244_3031
WRAP_KIND = 255
ALIGNMENT = 64
ACCOUNT_BYTES = 32_768
RING_START = 4096 + 2 * ACCOUNT_BYTES
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

SUPER = struct.Struct("<8sQQQ")  # magic, version, log id, capacity
COUNTERS = struct.Struct("<QQ")  # generation, republished
COUNTERS_OFFSET = 64
NEXT_ORDINAL = struct.Struct("<Q")
NEXT_ORDINAL_OFFSET = 128
BOOT = struct.Struct("<16s")
BOOT_OFFSET = 192
CELL = struct.Struct("<QQQQQ")  # sequence, oldest offset, oldest ordinal, base, checksum
CELL_OFFSETS = (512, 576)
ACCOUNT = struct.Struct("<QQQ")  # ordinal of the record after it, bytes, checksum
ACCOUNT_OFFSETS = (4096, 4096 + ACCOUNT_BYTES)
HEAD = struct.Struct("<QQQIIIIQQQ")
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


@dataclass(frozen=True, slots=True)
class Cell:
    """What the log says of itself; of two, the one with the higher sequence holds."""

    sequence: int
    oldest_offset: int
    oldest_ordinal: int
    base: int


def host_boot() -> bytes:
    """Return the identity of this boot of the host: what was mapped before it may be torn."""
    try:
        return uuid.UUID(BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        return bytes(BOOT.size)


def open_log_file(path: Path, *, write: bool) -> tuple[mmap.mmap, int, int]:
    """Map a frame log; give the mapping, its identity and its capacity.

    Raises
    ------
    LogError
        There is none, or it is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDWR if write else os.O_RDONLY)
    except OSError as error:
        raise LogError(f"frame log {path} cannot be opened: {error.strerror}") from None
    try:
        n_bytes = os.fstat(descriptor).st_size
        if n_bytes < RING_START:
            raise LogError(f"frame log {path} is too short: {n_bytes} bytes")
        magic, version, log_id, capacity = SUPER.unpack(os.pread(descriptor, SUPER.size, 0))
        if magic != MAGIC or version != VERSION or n_bytes != RING_START + capacity:
            raise LogError(f"{path} is not a frame log of version {VERSION}")
        return map_file(descriptor, n_bytes, write=write), log_id, capacity
    finally:
        os.close(descriptor)


def log_id_at(path: Path) -> int | None:
    """Give the identity of the frame log at a path, None if there is none."""
    try:
        with path.open("rb") as file:
            magic, version, log_id, _ = SUPER.unpack(file.read(SUPER.size))
    except (OSError, struct.error):
        return None
    return int(log_id) if magic == MAGIC and version == VERSION else None


def map_file(descriptor: int, n_bytes: int, *, write: bool) -> mmap.mmap:
    """Map an open file, pages and all."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    return mmap.mmap(descriptor, n_bytes, mmap.MAP_SHARED | mmap.MAP_POPULATE, protection)


def read_cell(buffer: mmap.mmap) -> Cell | None:
    """Read the newest cell that is whole, None if neither is."""
    whole = []
    for offset in CELL_OFFSETS:
        *values, checksum = CELL.unpack_from(buffer, offset)
        if values[0] and xxhash.xxh3_64_intdigest(struct.pack("<QQQQ", *values)) == checksum:
            whole.append(Cell(values[0], values[1], values[2], values[3]))
    return max(whole, key=lambda cell: cell.sequence, default=None)


def write_cell(buffer: mmap.mmap, cell: Cell) -> None:
    """Write a cell in the place of the older one."""
    values = (cell.sequence, cell.oldest_offset, cell.oldest_ordinal, cell.base)
    checksum = xxhash.xxh3_64_intdigest(struct.pack("<QQQQ", *values))
    CELL.pack_into(buffer, CELL_OFFSETS[cell.sequence % 2], *values, checksum)


def read_account(buffer: mmap.mmap, ordinal: int) -> bytes:
    """Read the account that was kept of all records before `ordinal`, empty if there is none."""
    for offset in ACCOUNT_OFFSETS:
        following, n_bytes, checksum = ACCOUNT.unpack_from(buffer, offset)
        if following != ordinal or n_bytes > ACCOUNT_BYTES - ACCOUNT.size:
            continue
        account = bytes(buffer[offset + ACCOUNT.size : offset + ACCOUNT.size + n_bytes])
        if _account_checksum(following, account) == checksum:
            return account
    return b""


def write_account(buffer: mmap.mmap, ordinal: int, account: bytes) -> None:
    """Keep the account of all records before `ordinal` apart from the ring."""
    if len(account) > ACCOUNT_BYTES - ACCOUNT.size:
        return
    offset = ACCOUNT_OFFSETS[ordinal % 2]
    ACCOUNT.pack_into(buffer, offset, 0, 0, 0)
    buffer[offset + ACCOUNT.size : offset + ACCOUNT.size + len(account)] = account
    checksum = _account_checksum(ordinal, account)
    ACCOUNT.pack_into(buffer, offset, ordinal, len(account), checksum)


def read_record(buffer: mmap.mmap, log_id: int, capacity: int, offset: int) -> LoggedRecord | None:
    """Read the record at an offset of the ring, None if there is no whole one.

    The pixels are not looked at: `digest` is what they should have.
    """
    magic, ordinal, checksum, kind, n_meta, n_account, _, n_pixels, span, digest = HEAD.unpack_from(
        buffer, RING_START + offset
    )
    n_body = n_meta + n_account
    if magic != RECORD_MAGIC or span < ALIGNMENT or offset + span > capacity:
        return None
    if kind != WRAP_KIND and span != span_of(n_body, n_pixels):
        return None
    first = RING_START + offset + ALIGNMENT
    body = bytes(buffer[first : first + n_body])
    values = (ordinal, kind, n_meta, n_account, n_pixels, span, digest)
    if _checksum(log_id, values, body) != checksum:
        return None
    return LoggedRecord(ordinal, offset, kind, body[:n_meta], body[n_meta:], n_pixels, span, digest)


def write_head(buffer: mmap.mmap, log_id: int, record: LoggedRecord) -> None:
    """Write the head of a record whose body is there, its magic last."""
    where = RING_START + record.offset
    n_meta, n_account = len(record.meta), len(record.account)
    numbers = (record.kind, n_meta, n_account)
    sizes = (record.n_pixel_bytes, record.span, record.digest)
    values = (record.ordinal, *numbers, *sizes)
    checksum = _checksum(log_id, values, record.meta + record.account)
    HEAD.pack_into(buffer, where, 0, record.ordinal, checksum, *numbers, 0, *sizes)
    struct.pack_into("<Q", buffer, where, RECORD_MAGIC)


def walk(
    buffer: mmap.mmap, log_id: int, capacity: int, *, offset: int, ordinal: int
) -> Iterator[LoggedRecord]:
    """Go from record to record until one is not whole or not the next."""
    n_walked = 0
    while n_walked <= capacity:
        if capacity - offset < ALIGNMENT:
            n_walked += capacity - offset
            offset = 0
        record = read_record(buffer, log_id, capacity, offset)
        if record is None or record.ordinal != ordinal:
            return
        n_walked += record.span
        if record.kind == WRAP_KIND:
            offset = 0
            continue
        yield record
        offset += record.span
        ordinal += 1


def scan(buffer: mmap.mmap, log_id: int, capacity: int) -> Iterator[LoggedRecord]:
    """Find every whole record of the ring, wherever it lies, in order of offset."""
    words = np.frombuffer(buffer, "<u8", capacity // 8, RING_START)[:: ALIGNMENT // 8]
    for place in np.flatnonzero(words == RECORD_MAGIC).tolist():
        record = read_record(buffer, log_id, capacity, place * ALIGNMENT)
        if record is not None and record.kind != WRAP_KIND:
            yield record


def span_of(n_meta_bytes: int, n_pixel_bytes: int) -> int:
    """Return how many bytes of the ring a record takes; meta and account count together."""
    return ALIGNMENT + aligned(n_meta_bytes) + aligned(n_pixel_bytes)


def aligned(n_bytes: int) -> int:
    """Round up to a whole number of places."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def pixels_offset(record: LoggedRecord) -> int:
    """Return where the pixels of a record lie in the file."""
    n_meta_bytes = len(record.meta) + len(record.account)
    return RING_START + record.offset + ALIGNMENT + aligned(n_meta_bytes)


def _checksum(log_id: int, values: tuple[int, ...], body: bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(struct.pack("<8Q", log_id, *values) + body))


def _account_checksum(ordinal: int, account: bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(struct.pack("<Q", ordinal) + account))
