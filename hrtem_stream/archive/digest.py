"""xxh3, 64 bit, in compiled code: for loops that have the bytes in the cache already.

The digest of bytes that lie in memory by themselves is that of the xxhash library. Here bytes are
taken as they are laid out, a few thousand at a time, without going back to the interpreter for
each of these stretches.

A *stripe* is 64 bytes, a *block* 16 stripes. The last block, whole or not, is held back until it is
known to be the last. What follows is the algorithm for more than `LEAST_BYTES`, seed 0.

References
----------
Collet, XXH3, in the description of the format of xxHash, https://xxhash.com.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from hrtem_stream.archive.words import load_word
from hrtem_stream.science.compiled import compiled, stretch

Bytes: TypeAlias = NDArray[np.uint8]
Words: TypeAlias = NDArray[np.uint64]
Integers: TypeAlias = NDArray[np.int64]

LEAST_BYTES = 241
"""Fewer have another algorithm, which is not here."""

_STRIPE = 64
_BLOCK = 1024

_PRIME_32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_PRIME_64 = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)  # fmt: skip
_FIRST_SUMS = np.array(
    [_PRIME_32[2], *_PRIME_64[:4], _PRIME_32[1], _PRIME_64[4], _PRIME_32[0]], np.uint64
)
_LENGTH_FACTOR = np.uint64(_PRIME_64[0])
_LAST_FACTOR = np.uint64(0x165667919E3779F9)
_SECRET = np.array(
    [
        0xBE4BA423396CFEB8, 0x1CAD21F72C81017C, 0xDB979083E96DD4DE, 0x1F67B3B7A4A44072,
        0x78E5C0CC4EE679CB, 0x2172FFCC7DD05A82, 0x8E2443F7744608B8, 0x4C263A81E69035E0,
        0xCB00C391BB52283C, 0xA32E531B8B65D088, 0x4EF90DA297486471, 0xD8ACDEA946EF1938,
        0x3F349CE33F76FAA8, 0x1D4F0BC7C7BBDCF9, 0x3159B4CD4BE0518A, 0x647378D9C97E9FC8,
        0xC3EBD33483ACC5EA, 0xEB6313FAFFA081C5, 0x49DAF0B751DD0D17, 0x9E68D429265516D3,
        0xFCA1477D58BE162B, 0xCE31D07AD1B8F88F, 0x280416958F3ACB45, 0x7E404BBBCAFBD7AF,
    ],
    np.uint64,
)  # fmt: skip
_SECRET_BYTES = _SECRET.view(np.uint8)
_SCRAMBLE_AT, _LAST_STRIPE_AT, _MERGE_AT = 128, 121, 11
"""Where in the secret the words for the end of a block, of the bytes and of the sums begin."""


@dataclass(frozen=True, slots=True)
class DigestState:
    """What is known of bytes that are taken one stretch after the other."""

    sums: Words = field(default_factory=_FIRST_SUMS.copy)
    """(8,)"""
    held: Bytes = field(default_factory=lambda: np.zeros(_STRIPE + _BLOCK, np.uint8))
    """The last stripe of the block before the one that is held back, then this one."""
    counts: Integers = field(default_factory=lambda: np.zeros(2, np.int64))
    """Bytes of the block that is held back, and of all."""

    def begin(self) -> None:
        """Forget all bytes."""
        self.sums[:] = _FIRST_SUMS
        self.counts[:] = 0

    def finish(self) -> int:
        """Return the digest of all bytes that were taken.

        Raises
        ------
        ValueError
            If these are fewer than `LEAST_BYTES`.
        """
        if self.counts[1] < LEAST_BYTES:
            raise ValueError(f"there must be {LEAST_BYTES} bytes at least, got {self.counts[1]}")
        return int(_finish(self.sums.copy(), self.held, self.counts))


@compiled
def absorb(data: Bytes, more_follow: bool, sums: Words, held: Bytes, counts: Integers) -> None:
    """Take further bytes into the state of a digest, which is the last three arguments.

    `more_follow` tells that these are not the last bytes.
    """
    n_held = counts[0]
    counts[1] += data.size
    begin = 0
    n_waiting = n_held + data.size - (0 if more_follow else 1)
    if n_waiting >= _BLOCK:
        if n_held > 0:
            begin = _BLOCK - n_held
            _copy(stretch(data, 0, begin), stretch(held, _STRIPE + n_held, begin))
            _absorb_blocks(sums, held, _STRIPE, 1, _SECRET)
            n_held = 0
        n_blocks = (data.size - begin - (0 if more_follow else 1)) // _BLOCK
        _absorb_blocks(sums, data, begin, n_blocks, _SECRET)
        begin += n_blocks * _BLOCK
        if begin >= _STRIPE:
            _copy(stretch(data, begin - _STRIPE, _STRIPE), stretch(held, 0, _STRIPE))
        else:
            _copy(stretch(held, _BLOCK, _STRIPE), stretch(held, 0, _STRIPE))
    n = data.size - begin
    _copy(stretch(data, begin, n), stretch(held, _STRIPE + n_held, n))
    counts[0] = n_held + n


@compiled
def _copy(source: Bytes, target: Bytes) -> None:
    for i in range(source.size):
        target[i] = source[i]


@compiled
def _finish(sums: Words, held: Bytes, counts: Integers) -> Any:
    n_held = counts[0]
    for k in range((n_held - 1) // _STRIPE):
        _absorb_stripe(sums, held, _STRIPE * (k + 1), 8 * k)
    _absorb_stripe(sums, held, n_held, _LAST_STRIPE_AT)
    digest = np.uint64(counts[1]) * _LENGTH_FACTOR
    for k in range(0, 8, 2):
        one = sums[k] ^ load_word(_SECRET_BYTES, _MERGE_AT + 8 * k)
        other = sums[k + 1] ^ load_word(_SECRET_BYTES, _MERGE_AT + 8 * k + 8)
        digest += _folded_product(one, other)
    digest = (digest ^ digest >> np.uint64(37)) * _LAST_FACTOR
    return digest ^ digest >> np.uint64(32)


@compiled
def _absorb_stripe(sums: Words, data: Bytes, at: int, secret_at: int) -> None:
    for i in range(8):
        word = load_word(data, at + 8 * i)
        key = word ^ load_word(_SECRET_BYTES, secret_at + 8 * i)
        sums[i ^ 1] += word
        sums[i] += (key & np.uint64(0xFFFFFFFF)) * (key >> np.uint64(32))


@compiled
def _folded_product(one: Any, other: Any) -> Any:
    """Return the upper half of a product of 128 bits, exclusive or the lower one."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    lowest = (one & low) * (other & low)
    middle = (one >> half) * (other & low)
    cross = (lowest >> half) + (middle & low) + (one & low) * (other >> half)
    upper = (middle >> half) + (cross >> half) + (one >> half) * (other >> half)
    return upper ^ (cross << half | lowest & low)


@intrinsic  # type: ignore[untyped-decorator]
def _absorb_blocks(_: Any, sums: Any, data: Any, first: Any, n_blocks: Any, secret: Any) -> Any:
    """Take whole blocks, from byte `first` on, into the eight sums.

    Written as vectors, since the compiler does not find that the sums fit one register.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, places = ir.IntType(64), ir.VectorType(ir.IntType(32), 8)
        vector = ir.VectorType(word, 8)
        swapped = ir.Constant(places, [1, 0, 3, 2, 5, 4, 7, 6])

        def bytes_of(k: int) -> Any:
            array = context.make_array(signature.args[k])(context, builder, arguments[k])
            return builder.bitcast(array.data, ir.IntType(8).as_pointer())

        def vector_at(pointer: Any, offset: Any) -> Any:
            place = builder.gep(pointer, [offset])
            return builder.load(builder.bitcast(place, vector.as_pointer()), align=1)

        def number(value: int) -> Any:
            return ir.Constant(word, value)

        def eight(value: int) -> Any:
            return ir.Constant(vector, [number(value)] * 8)

        target, source, key_bytes = bytes_of(0), bytes_of(1), bytes_of(4)
        kept = cgutils.alloca_once_value(builder, vector_at(target, number(0)))
        with cgutils.for_range(builder, arguments[3]) as loop:
            total = builder.load(kept)
            offset = builder.add(arguments[2], builder.mul(loop.index, number(_BLOCK)))
            block = builder.gep(source, [offset])
            for k in range(_BLOCK // _STRIPE):
                words = vector_at(block, number(_STRIPE * k))
                keys = builder.xor(words, vector_at(key_bytes, number(8 * k)))
                lower = builder.and_(keys, eight(0xFFFFFFFF))
                product = builder.mul(lower, builder.lshr(keys, eight(32)))
                total = builder.add(total, product)
                total = builder.add(total, builder.shuffle_vector(words, words, swapped))
            total = builder.xor(total, builder.lshr(total, eight(47)))
            total = builder.xor(total, vector_at(key_bytes, number(_SCRAMBLE_AT)))
            builder.store(builder.mul(total, eight(_PRIME_32[0])), kept)
        builder.store(builder.load(kept), builder.bitcast(target, vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(sums, data, types.int64, types.int64, secret), generate
