"""One pass over the pixels of a frame: runs flattened, both digests taken, the bytes shuffled.

A band is taken a tile at a time, which stays in the first-level cache: the digest of what came,
the copy, the flattening, the digest of what is stored and the shuffle read memory once together.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.archive.codec import Bytes, split_bytes
from hrtem_stream.archive.digest import LEAST_BYTES, DigestState, Integers, Words, absorb
from hrtem_stream.science.compiled import compiled, stretch
from hrtem_stream.science.run_length import (
    Pixels,
    Positions,
    fill_stretch,
    flatten,
    mean_floats,
    mean_integers,
)

State: TypeAlias = tuple[Words, Bytes, Integers]

TILE_BYTES = 1 << 14


class BandPass:
    """Takes frames of one dtype, band by band; belongs to one thread.

    Parameters
    ----------
    dtype
        Of the pixels.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._tile = np.zeros(TILE_BYTES // dtype.itemsize, dtype)
        self._received, self._stored = DigestState(), DigestState()
        self._next = np.zeros(2, np.int64)

    def begin(self, flat: Pixels, *, start: Positions, length: Positions, flatten: bool) -> None:
        """Begin a frame.

        Parameters
        ----------
        flat
            (n,) its pixels.
        start, length
            Its runs.
        flatten
            Whether they are flattened.
        """
        self._flat, self._start, self._length = flat.view(), start, length
        self._flat.flags.writeable = False
        self.value: Pixels = np.empty(start.size, flat.dtype)
        """The mean of each run, of those that begin in the bands that were taken."""
        self._flatten = flatten and start.size > 0
        self._received.begin()
        self._stored.begin()
        self._next[:] = 0

    def take(self, first: int, stop: int, *, planes: Bytes) -> None:
        """Take a band: the pixels from `first` to `stop`, which follow on the last ones.

        Parameters
        ----------
        planes
            (n, at least the values of a band), filled with the planes of the band; with n = 1 its
            bytes stay as they are.
        """
        received, stored = self._received, self._stored
        _take(
            self._flat, first, stop, self._start, self._length, self.value, self._flatten,
            self._flat.dtype.kind == "f", self._tile, planes, self._next,
            (received.sums, received.held, received.counts),
            (stored.sums, stored.held, stored.counts),
        )  # fmt: skip

    def digests(self) -> tuple[int, int]:
        """Return the digests of a frame as given, and as stored, once all of it was taken."""
        if self._flat.nbytes < LEAST_BYTES:
            flat = flatten(self._flat, start=self._start, length=self._length)[0]
            stored = flat if self._flatten else self._flat
            return (
                xxhash.xxh3_64_intdigest(self._flat.data),
                xxhash.xxh3_64_intdigest(stored.data),
            )
        received = self._received.finish()
        return received, self._stored.finish() if self._flatten else received


@compiled
def _take(
    flat: Pixels,
    first: int,
    stop: int,
    start: Positions,
    length: Positions,
    value: Pixels,
    flattens: bool,
    is_float: bool,
    tile: Pixels,
    planes: Bytes,
    following: NDArray[np.int64],
    received: State,
    stored: State,
) -> None:
    """Take the pixels of a band.

    `following` holds the first run whose mean is not known, and the first that may reach into
    what comes next.
    """
    for at in range(first, stop, tile.size):
        end = min(at + tile.size, stop)
        _mean_until(flat, end, start, length, value, is_float, following)
        came = stretch(flat, at, end - at)
        more_follow = end < flat.size
        absorb(came.view(np.uint8), more_follow, *received)
        if not flattens:
            split_bytes(came, planes, at - first)
            continue
        kept = stretch(tile, 0, end - at)
        _copy(came, kept)
        following[1] = fill_stretch(kept, start, length, value, at, following[1])
        absorb(kept.view(np.uint8), more_follow, *stored)
        split_bytes(kept, planes, at - first)


@compiled
def _mean_until(
    flat: Pixels,
    end: int,
    start: Positions,
    length: Positions,
    value: Pixels,
    is_float: bool,
    following: NDArray[np.int64],
) -> None:
    """Write the means of the runs that begin before `end` and are not known yet."""
    known = n = following[0]
    while n < start.size and start[n] < end:
        n += 1
    if n > known and is_float:
        mean_floats(flat, start[known:n], length[known:n], value[known:n])
    elif n > known:
        mean_integers(flat, start[known:n], length[known:n], value[known:n])
    following[0] = n


@compiled
def _copy(source: Pixels, target: Pixels) -> None:
    for i in range(source.size):
        target[i] = source[i]
