"""Chunks as HDF5's own filters would write them, coded and decoded outside HDF5.

HDF5 runs its filters one chunk at a time under a global lock. Here a chunk is shuffled and
compressed by code that releases Python's lock, so threads share the work, and stored by a direct
chunk write. Any HDF5 reader undoes it: shuffle and deflate are built in, zstd needs its plugin.

A *filter mask* has bit i set where filter i of the dataset was left out for one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import zstandard
from isal import igzip_lib, isal_zlib
from numpy.typing import NDArray

from hrtem_stream.errors import ArchiveError
from hrtem_stream.science.compiled import compiled

Codec: TypeAlias = Literal["deflate", "zstd", "none"]
Bytes: TypeAlias = NDArray[np.uint8]

SHUFFLE, DEFLATE, ZSTD = 2, 1, 32015
"""Numbers of the filters, as registered with the HDF Group."""

LEVEL = 1
"""Counting noise is entropy-coded, not matched: higher levels take longer for 1 % in size."""

# isal's type stub takes the class for an instance.
_INFLATE_ERROR = cast(type[Exception], igzip_lib.IsalError)


def filters_of(codec: Codec, dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the filters of a dataset, in the order in which a writer applies them."""
    if codec == "none":
        return ()
    shuffle = (SHUFFLE,) if dtype.itemsize in (2, 4, 8) else ()
    return (*shuffle, DEFLATE if codec == "deflate" else ZSTD)


def compressor_of(codec: Codec) -> Callable[[memoryview], bytes]:
    """Return a function that compresses one chunk; it belongs to the thread that asked for it."""
    if codec == "deflate":
        return _deflate
    # Noise has no matches worth a search: a small table stays in the first-level cache.
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=20, hash_log=12, min_match=7, write_content_size=True
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress


def _deflate(chunk: memoryview) -> bytes:
    compressed: bytes = igzip_lib.compress(
        chunk, level=LEVEL, flag=igzip_lib.COMP_ZLIB, mem_level=igzip_lib.MEM_LEVEL_EXTRA_LARGE
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
        (n * itemsize,) overwritten.
    """
    size = values.itemsize
    if size == 2:
        _shuffle_2(values.view(np.uint16), out)
    elif size == 4:
        _shuffle_4(values.view(np.uint32), out)
    elif size == 8:
        _shuffle_8(values.view(np.uint64), out)
    else:
        raise ValueError(f"values must have 2, 4 or 8 bytes, got {size}")


# One small loop a plane over slices: in this form LLVM vectorises it.


@compiled
def _plane(words: NDArray[Any], bits: Any, out: Bytes) -> None:
    for i in range(words.size):
        out[i] = np.uint8(words[i] >> bits)


@compiled
def _shuffle_2(words: NDArray[Any], out: Bytes) -> None:
    n = words.size
    for k in range(2):
        _plane(words, np.uint16(8 * k), out[k * n : (k + 1) * n])


@compiled
def _shuffle_4(words: NDArray[Any], out: Bytes) -> None:
    n = words.size
    for k in range(4):
        _plane(words, np.uint32(8 * k), out[k * n : (k + 1) * n])


@compiled
def _shuffle_8(words: NDArray[Any], out: Bytes) -> None:
    n = words.size
    for k in range(8):
        _plane(words, np.uint64(8 * k), out[k * n : (k + 1) * n])
