"""A frame, flattened and compressed into the chunks of the image dataset.

The stage `sort` spends most of its time here, so a frame is taken band by band: a band is one
chunk, whole rows of at most `BAND_BYTES`. One pass flattens, digests and shuffles it (`bands`), and
the compression finds it in the cache. Nothing of the size of a frame is allocated.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.archive.bands import BandPass
from hrtem_stream.archive.codec import ChunkCompressor, Codec
from hrtem_stream.archive.digest import LEAST_BYTES
from hrtem_stream.science.run_length import N_PIXELS_MAX, runs_of_mask

Bits: TypeAlias = NDArray[np.bool_]
Pixels: TypeAlias = NDArray[Any]
Keep: TypeAlias = Literal["graphene", "all"]

BAND_BYTES = 1 << 20
"""Upper limit of a band: it and its shuffled copy fit a second-level cache of 2 MiB."""
SIDE_MAX = 65_535
DTYPES = ("<u1", "<u2", "<u4", "<i1", "<i2", "<i4", "<f4", "<f8")
"""The dtypes that an image dataset can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One chunk of a frame, as it goes into the file."""

    corner: tuple[int, int]
    """Row and column of its first pixel."""
    filter_mask: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFrame:
    """A frame that is ready to be appended."""

    chunks: tuple[Chunk, ...]
    start: NDArray[np.uint32]
    length: NDArray[np.uint32]
    value: Pixels
    digest: int
    """xxh3, 64 bit, of the pixel bytes as given."""
    stored_digest: int
    """xxh3, 64 bit, of the pixel bytes as stored, with the runs flattened."""
    raw_bytes: int
    stored_bytes: int
    """Size of the compressed pixels, without tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAsideFrame:
    """A frame that does not fit the image dataset: its bytes are kept as they came."""

    payload: bytes
    shape: tuple[int, int]
    """(M, N), or (n, 0) where only n bytes are known."""
    dtype: str
    reason: str
    digest: int


class FrameEncoder:
    """Encodes the frames of one series; may be used by many threads at once.

    Parameters
    ----------
    shape, dtype
        Of each frame.
    codec
        How chunks are compressed.
    keep
        `graphene` replaces each run of amorphous pixels by its mean, `all` stores every pixel
        as it came. Either way the runs are listed.

    Raises
    ------
    ValueError
        If shape, dtype, codec or keep is not one that an archive can hold.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        dtype: str | np.dtype[Any],
        codec: Codec = "deflate",
        keep: Keep = "graphene",
    ) -> None:
        self.dtype = checked_dtype(dtype)
        self.shape = checked_shape(shape)
        if codec not in get_args(Codec):
            raise ValueError(f"codec must be one of {get_args(Codec)}, got {codec!r}")
        if keep not in get_args(Keep):
            raise ValueError(f"keep must be one of {get_args(Keep)}, got {keep!r}")
        self.codec: Codec = codec
        self.keep: Keep = keep
        self.chunk_shape = chunk_shape(self.shape, dtype=self.dtype)
        self._threads = threading.local()
        _compile(self.dtype, codec)

    def encode(
        self, pixels: Pixels, amorphous: Bits, *, helper: Executor | None = None
    ) -> EncodedFrame:
        """Encode a frame and the mask of its amorphous pixels.

        Parameters
        ----------
        pixels
            (M, N), dtype of the series.
        amorphous
            (P, Q) bool, True where the runs are.
        helper
            Threads that compress every other band meanwhile; what they do not begin in time is
            done here, so that the caller may be one of them.

        Raises
        ------
        ValueError
            If the pixels do not have the shape and dtype of the series, or the mask is not a
            two-dimensional array of bool.
        """
        return self._encode(pixels, amorphous, self.keep == "graphene", helper)

    def encode_as_received(self, pixels: Pixels) -> EncodedFrame:
        """Encode a frame without runs, one that could not be analysed.

        Raises
        ------
        ValueError
            If the pixels do not have the shape and dtype of the series.
        """
        return self._encode(pixels, np.zeros((1, 1), np.bool_), False, None)

    def _encode(
        self, pixels: Pixels, amorphous: Bits, flatten: bool, helper: Executor | None
    ) -> EncodedFrame:
        if pixels.shape != self.shape or pixels.dtype != self.dtype:
            raise ValueError(
                f"frame must be {self.shape} {self.dtype}, got {pixels.shape} {pixels.dtype}"
            )
        flat = np.require(pixels, requirements=["C", "A"]).reshape(-1)
        start, length = runs_of_mask(amorphous, shape=self.shape)
        scratch = self._scratch()
        bands = scratch.bands
        bands.begin(flat, start=start, length=length, flatten=flatten)
        jobs = self._compress(flat.size, scratch, helper)
        chunks = tuple(
            Chunk(corner=(k * self.chunk_shape[0], 0), filter_mask=mask, payload=payload)
            for k, (mask, payload) in enumerate(job.finish() for job in jobs)
        )
        digest, stored_digest = bands.digests()
        return EncodedFrame(
            chunks=chunks,
            start=start,
            length=length,
            value=bands.value,
            digest=digest,
            stored_digest=stored_digest,
            raw_bytes=flat.nbytes,
            stored_bytes=sum(len(chunk.payload) for chunk in chunks),
        )

    def _compress(self, n_pixels: int, scratch: _Scratch, helper: Executor | None) -> list[_Job]:
        """Take the frame that `scratch.bands` has begun, and begin the compression of each band."""
        n_chunk = self.chunk_shape[0] * self.chunk_shape[1]
        jobs: list[_Job] = []
        try:
            for k, first in enumerate(range(0, n_pixels, n_chunk)):
                stop = min(first + n_chunk, n_pixels)
                if helper is not None and k % 2 == 0 and stop < n_pixels:
                    if k:
                        jobs[k - 2].finish()  # whose planes are used again
                    scratch.bands.take(first, stop, planes=scratch.given.planes)
                    jobs.append(_Job(scratch.given, stop - first, helper))
                else:
                    scratch.bands.take(first, stop, planes=scratch.own.planes)
                    jobs.append(_Job(scratch.own, stop - first))
        except BaseException:
            for job in jobs:
                job.finish()  # no helper may be at work when the next frame comes
            raise
        return jobs

    def _scratch(self) -> _Scratch:
        scratch: _Scratch | None = getattr(self._threads, "scratch", None)
        if scratch is None:
            n = self.chunk_shape[0] * self.chunk_shape[1]
            scratch = _Scratch(n, dtype=self.dtype, codec=self.codec)
            self._threads.scratch = scratch
        return scratch


class _Scratch:
    """The buffers of one thread."""

    def __init__(self, n: int, *, dtype: np.dtype[Any], codec: Codec) -> None:
        self.bands = BandPass(dtype)
        self.own, self.given = (ChunkCompressor(codec, dtype=dtype, n_values=n) for _ in range(2))
        """For the bands that this thread compresses, and those that it gives to another."""


class _Job:
    """The compression of a band of `n` values: done here at once, or by a helper."""

    def __init__(self, compressor: ChunkCompressor, n: int, helper: Executor | None = None) -> None:
        self._compress = partial(compressor.compress_planes, n)
        self._future = helper.submit(self._compress) if helper is not None else None
        self._done = self._compress() if helper is None else None

    def finish(self) -> tuple[int, bytes]:
        """Return filter mask and payload; what no helper has begun is done here."""
        if self._done is None:
            if self._future is None or self._future.cancel():
                self._done = self._compress()
            else:
                self._done = self._future.result()
        return self._done


def _compile(dtype: np.dtype[Any], codec: Codec) -> None:
    """Compile all loops for a dtype, or load them, before a frame has to wait for that."""
    n = 2 * LEAST_BYTES
    scratch = _Scratch(n, dtype=dtype, codec=codec)
    start, length = runs_of_mask(np.ones((1, 1), np.bool_), shape=(1, n))
    scratch.bands.begin(np.zeros(n, dtype), start=start, length=length, flatten=True)
    scratch.bands.take(0, n, planes=scratch.own.planes)
    scratch.bands.digests()
    scratch.own.compress_planes(n)


def set_aside(
    received: bytes | Pixels, *, shape: tuple[int, int], dtype: str, reason: str
) -> SetAsideFrame:
    """Return a frame that keeps the bytes of an array, or those that came of one."""
    payload = received if isinstance(received, bytes) else received.tobytes()
    return SetAsideFrame(
        payload=payload,
        shape=shape,
        dtype=dtype,
        reason=reason,
        digest=xxhash.xxh3_64_intdigest(payload),
    )


def chunk_shape(shape: tuple[int, int], *, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the shape of a chunk: whole rows, in bands of nearly equal height."""
    M, N = shape
    rows = max(1, BAND_BYTES // (N * dtype.itemsize))
    n_bands = -(-M // rows)
    return -(-M // n_bands), N


def checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape of a frame as two ints.

    Raises
    ------
    ValueError
        If it is not two lengths of 1 to `SIDE_MAX` with at most `N_PIXELS_MAX` pixels.
    """
    if len(shape) != 2 or not all(1 <= n <= SIDE_MAX for n in shape):
        raise ValueError(f"shape must be two lengths from 1 to {SIDE_MAX}, got {tuple(shape)}")
    if shape[0] * shape[1] > N_PIXELS_MAX:
        raise ValueError(f"a frame must have at most {N_PIXELS_MAX} pixels, got {tuple(shape)}")
    return int(shape[0]), int(shape[1])


def checked_dtype(dtype: str | np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a frame.

    Raises
    ------
    ValueError
        If it is not one of `DTYPES`.
    """
    try:
        known = np.dtype(dtype)
    except TypeError as error:
        raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}") from error
    if known not in [np.dtype(name) for name in DTYPES]:
        raise ValueError(f"dtype must be one of {DTYPES}, got {known.str}")
    return known
