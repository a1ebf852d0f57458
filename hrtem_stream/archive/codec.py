"""Chunks as HDF5's own filters would write them, coded and decoded outside HDF5.

HDF5 runs its filters one chunk at a time under a global lock. Here a chunk is shuffled and
compressed by code that releases Python's lock, so threads share the work, and stored by a direct
chunk write. Any HDF5 reader undoes it: shuffle and deflate are built in, zstd needs its plugin.

A *filter mask* has bit i set where filter i of the dataset was left out for one chunk.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast

import numpy as np
import zstandard
from isal import igzip_lib, isal_zlib
from numpy.typing import NDArray

from hrtem_stream.archive.zstd_frame import FrameCompressor
from hrtem_stream.errors import ArchiveError
from hrtem_stream.science.compiled import compiled, stretch

Codec: TypeAlias = Literal["deflate", "zstd", "none"]
Bytes: TypeAlias = NDArray[np.uint8]

SHUFFLE, DEFLATE, ZSTD = 2, 1, 32015
"""Numbers of the filters, as registered with the HDF Group."""

_LEVEL = 1
"""Counting noise is entropy-coded, not matched: higher levels take longer for 1 % in size."""

# isal's type stub takes the class for an instance.
_INFLATE_ERROR = cast(type[Exception], igzip_lib.IsalError)


def filters_of(codec: Codec, dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the filters of a dataset, in the order in which a writer applies them."""
    if codec == "none":
        return ()
    shuffle = (SHUFFLE,) if dtype.itemsize in (2, 4, 8) else ()
    return (*shuffle, DEFLATE if codec == "deflate" else ZSTD)


class ChunkCompressor:
    """Compresses the chunks of one dataset; belongs to one thread.

    Parameters
    ----------
    codec
        How chunks are compressed.
    dtype, n_values
        Of a chunk.
    """

    def __init__(self, codec: Codec, *, dtype: np.dtype[Any], n_values: int) -> None:
        self._codec = codec
        is_shuffled = len(filters_of(codec, dtype)) == 2
        self._n_filters = len(filters_of(codec, dtype))
        n_planes = dtype.itemsize if is_shuffled else 1
        n_bytes = n_values * dtype.itemsize // n_planes
        self._frames = FrameCompressor(n_planes, n_bytes) if codec == "zstd" else None
        self._planes = (
            self._frames.planes if self._frames else np.zeros((n_planes, n_bytes), np.uint8)
        )
        self._n_values, self._n_bytes = n_values, n_bytes

    @property
    def planes(self) -> Bytes:
        """The planes of a chunk, to be filled: (n, at least the bytes of each)."""
        return self._planes

    def compress(self, values: NDArray[Any]) -> tuple[int, bytes]:
        """Return filter mask and payload of a chunk, given as (n_values,) contiguous values."""
        split_bytes(values, self._planes, 0)
        return self.compress_planes(values.size)

    def compress_planes(self, n_values: int) -> tuple[int, bytes]:
        """Return filter mask and payload of the chunk whose first values lie in `planes`.

        Those that are missing become 0. A chunk that does not become smaller is stored shuffled,
        without compression.
        """
        planes = self._planes[:, : self._n_bytes]
        planes[:, n_values * self._n_bytes // self._n_values :] = 0
        if self._n_filters == 0:
            return 0, planes.tobytes()
        payload = self._frames.compress() if self._frames else deflate(planes.reshape(-1).data)
        if len(payload) < planes.size:
            return 0, payload
        return 1 << (self._n_filters - 1), planes.tobytes()


def deflate(chunk: memoryview) -> bytes:
    """Compress a chunk as a zlib stream."""
    compressed: bytes = igzip_lib.compress(
        chunk, level=_LEVEL, flag=igzip_lib.COMP_ZLIB, mem_level=igzip_lib.MEM_LEVEL_EXTRA_LARGE
    )
    return compressed


def decode_chunk(
    payload: bytes,
    *,
    filter_mask: int,
    filters: tuple[int, ...],
    dtype: np.dtype[Any],
    n_values: int,
) -> NDArray[Any]:
    """Return the values of a chunk as it lies in the file.

    Parameters
    ----------
    payload
        The stored bytes.
    filter_mask
        Bits of the filters that were left out.
    filters
        Of the dataset, in the order in which a writer applies them.
    dtype, n_values
        Of the chunk.

    Raises
    ------
    ArchiveError
        If a filter is unknown, or the bytes do not decompress to a whole chunk.
    """
    for i in reversed(range(len(filters))):
        if filter_mask >> i & 1:
            continue
        if filters[i] == SHUFFLE:
            payload = _unshuffled(payload, dtype)
        else:
            payload = _decompress(payload, filters[i], n_values * dtype.itemsize)
    if len(payload) != n_values * dtype.itemsize:
        raise ArchiveError(f"chunk must hold {n_values * dtype.itemsize} bytes, got {len(payload)}")
    return np.frombuffer(payload, dtype)


def _decompress(payload: bytes, number: int, n_bytes: int) -> bytes:
    try:
        if number == DEFLATE:
            stream = isal_zlib.decompressobj()
            # One byte more than there should be: so the stream is read to its checksum.
            values: bytes = stream.decompress(payload, n_bytes + 1)
            if not stream.eof:
                raise ArchiveError("chunk does not decompress: it does not end")
            return values
        if number == ZSTD:
            # What a frame states of itself would be allocated, whatever the limit.
            stated = zstandard.frame_content_size(payload)
            if stated > n_bytes:
                raise ArchiveError(f"chunk must hold {n_bytes} bytes, states {stated}")
            return zstandard.ZstdDecompressor().decompress(payload, max_output_size=n_bytes)
    except (_INFLATE_ERROR, zstandard.ZstdError) as error:
        raise ArchiveError(f"chunk does not decompress: {error}") from error
    raise ArchiveError(f"filter must be one of shuffle, deflate, zstd, got number {number}")


def _unshuffled(payload: bytes, dtype: np.dtype[Any]) -> bytes:
    if len(payload) % dtype.itemsize:
        raise ArchiveError(f"chunk must hold whole values of {dtype}, got {len(payload)} bytes")
    planes = np.frombuffer(payload, np.uint8).reshape(dtype.itemsize, -1)
    return planes.T.tobytes()


def shuffle(values: NDArray[Any], *, out: Bytes) -> None:
    """Write byte 0 of each value, then byte 1 of each, and so on, as HDF5's shuffle does.

    Parameters
    ----------
    values
        (n,) contiguous, of 2, 4 or 8 bytes each.
    out
        (itemsize, at least n) or (n * itemsize,), overwritten.
    """
    if values.itemsize not in (2, 4, 8):
        raise ValueError(f"values must have 2, 4 or 8 bytes, got {values.itemsize}")
    split_bytes(values, out.reshape(values.itemsize, -1), 0)


@compiled
def split_bytes(values: NDArray[Any], planes: Bytes, at: int) -> None:
    """Write byte k of each value into plane k, from value `at` on.

    Parameters
    ----------
    values
        (n,) contiguous.
    planes
        (p, at least at + n), with p the bytes of a value; or a single one, which takes all bytes as
        they are.
    at
        Values that lie in the planes before these.
    """
    n = values.size
    if planes.shape[0] == 1:
        size = values.itemsize
        _copy(values.view(np.uint8), stretch(planes, at * size, n * size))
    elif planes.shape[0] == 2:
        width = planes.shape[1]
        _split_2(values.view(np.uint16), stretch(planes, at, n), stretch(planes, width + at, n))
    else:
        words = values.view(np.uint32)
        n_words = planes.shape[0] // 4
        for k in range(n_words):
            _split_4(
                words[k::n_words],
                planes[4 * k, at : at + n],
                planes[4 * k + 1, at : at + n],
                planes[4 * k + 2, at : at + n],
                planes[4 * k + 3, at : at + n],
            )


# One loop over rows that are slices: in this form LLVM vectorises it.


@compiled
def _copy(source: Bytes, target: Bytes) -> None:
    for i in range(source.size):
        target[i] = source[i]


@compiled
def _split_2(words: NDArray[Any], low: Bytes, high: Bytes) -> None:
    # One plane after the other: two streams of stores at once take a third longer.
    for i in range(words.size):
        low[i] = np.uint8(words[i])
    for i in range(words.size):
        high[i] = np.uint8(words[i] >> np.uint16(8))


@compiled
def _split_4(words: NDArray[Any], a: Bytes, b: Bytes, c: Bytes, d: Bytes) -> None:
    for i in range(words.size):
        word = words[i]
        a[i], b[i] = np.uint8(word), np.uint8(word >> np.uint32(8))
        c[i], d[i] = np.uint8(word >> np.uint32(16)), np.uint8(word >> np.uint32(24))
