"""A dataset that grows by rows, without HDF5's chunk cache.

The chunk in progress is kept in memory and stored unfiltered, so that it never moves: at its first
flush whole, then each time only the rows that are new. A chunk that is full is shuffled and
compressed once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.archive.codec import SHUFFLE, deflate, shuffle

WriteAt: TypeAlias = Callable[[int, memoryview], None]
"""Writes bytes at an offset of a file."""

BLOCK_ROWS = 65_536
"""Rows that are read at once."""


def digest_of(dataset: h5py.Dataset) -> int:
    """Return the xxh3, 64 bit, of all rows of a dataset, as a `Column` takes it.

    Of one value it is that of the bytes, and of a text that of its UTF-8.
    """
    digest = xxhash.xxh3_64()
    if not dataset.shape:
        value = dataset[()]
        digest.update(value if isinstance(value, bytes) else _bytes_of(np.asarray(value)))
        return int(digest.intdigest())
    for first in range(0, len(dataset), BLOCK_ROWS):
        digest.update(_bytes_of(dataset[first : first + BLOCK_ROWS]))
    return int(digest.intdigest())


def _bytes_of(rows: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def filters_of_dataset(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the numbers of a dataset's filters, in the order in which a writer applies them."""
    plist = dataset.id.get_create_plist()
    return tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))


class Column:
    """Appends rows to one dataset, made by `layout.column`.

    Parameters
    ----------
    dataset
        Chunked along its first axis only.
    digest
        Is told of every row as it is stored, those that are there first; None for none.
    write_at
        That of the file below HDF5; without it a chunk is always stored whole.
    """

    def __init__(
        self,
        dataset: h5py.Dataset,
        *,
        digest: xxhash.xxh3_64 | None = None,
        write_at: WriteAt | None = None,
    ) -> None:
        self.digest = digest
        self._id = dataset.id
        self._name = dataset.name
        self._trailing: tuple[int, ...] = dataset.shape[1:]
        self._rows: int = dataset.chunks[0]
        self._filters = filters_of_dataset(dataset)
        self._unfiltered = (1 << len(self._filters)) - 1
        dtype = np.dtype(dataset.dtype.str)
        self._tail = np.zeros((self._rows, *self._trailing), dtype)
        self._shuffled = np.zeros(self._tail.nbytes if SHUFFLE in self._filters else 0, np.uint8)
        self._bytes = _bytes_of(self._tail)
        self._row_bytes = self._tail[:1].nbytes
        self._dirty = False
        self._write_at = write_at
        self._place = -1
        """Where the chunk in progress lies in the file, -1 where that is not known."""
        self._n_stored = 0
        """Rows of the chunk in progress that lie there."""
        self._known = (b"", b"")
        """The chunk that was compressed last where a chunk is a row, and what came of it."""
        self.n: int = dataset.shape[0]
        """Rows, including those not yet flushed."""
        self._load_tail(dataset)
        self._take_digest(dataset)

    def extend(self, rows: NDArray[Any]) -> None:
        """Append rows."""
        while len(rows):
            at = self.n % self._rows
            stop = min(self._rows, at + len(rows))
            self._tail[at:stop] = rows[: stop - at]
            if self.digest is not None:
                self.digest.update(self._bytes[at * self._row_bytes : stop * self._row_bytes])
            self.n += stop - at
            rows = rows[stop - at :]
            self._dirty = True
            if stop == self._rows:
                self._store_full()

    def flush(self) -> None:
        """Store the chunk in progress."""
        if self._dirty:
            self._id.set_extent((self.n, *self._trailing))
            self._store_tail()
            self._dirty = False

    def cut(self, n: int) -> None:
        """Keep only the first n rows; nothing may be unflushed."""
        if n < self.n:
            self._id.set_extent((n, *self._trailing))
            self.n = n
            self._place = -1
            self._load_tail(h5py.Dataset(self._id))
            self._take_digest(h5py.Dataset(self._id))

    def _take_digest(self, dataset: h5py.Dataset) -> None:
        if self.digest is not None:
            self.digest.reset()
            for first in range(0, self.n, BLOCK_ROWS):
                self.digest.update(_bytes_of(dataset[first : min(first + BLOCK_ROWS, self.n)]))

    def _load_tail(self, dataset: h5py.Dataset) -> None:
        at = self.n % self._rows
        if at:
            self._tail[:at] = dataset[self.n - at : self.n]

    def _store_tail(self) -> None:
        n = self.n % self._rows
        if self._write_at is not None and self._place >= 0:
            first, stop = self._n_stored * self._row_bytes, n * self._row_bytes
            self._write_at(self._place + first, self._bytes[first:stop])
        else:
            self._write(self._tail, self._unfiltered)
            if self._write_at is not None:
                self._place = self._id.get_chunk_info_by_coord(self._corner()).byte_offset
        self._n_stored = n

    def _store_full(self) -> None:
        self._place = -1
        self._id.set_extent((self.n, *self._trailing))
        raw = self._tail.view(np.uint8).reshape(-1)
        compressed = self._compressed(raw) if self._filters else b""
        if self._filters and len(compressed) < raw.size:
            self._write(compressed, 0)
        else:
            # Not shuffled either: HDF5 keeps the filter mask of a chunk whose size does not change.
            self._write(raw.data, self._unfiltered)
        self._dirty = False

    def _compressed(self, raw: NDArray[np.uint8]) -> bytes:
        given = raw.tobytes() if self._rows == 1 else b""
        if given and given == self._known[0]:  # a mask is often that of the frame before
            return self._known[1]
        source = raw
        if len(self._shuffled):
            shuffle(self._tail.reshape(-1), out=self._shuffled)
            source = self._shuffled
        compressed = deflate(source.data)
        self._known = given, compressed
        return compressed

    def _write(self, payload: Any, filter_mask: int) -> None:
        self._id.write_direct_chunk(self._corner(), payload, filter_mask)

    def _corner(self) -> tuple[int, ...]:
        return ((self.n - 1) // self._rows * self._rows, *(0 for _ in self._trailing))
