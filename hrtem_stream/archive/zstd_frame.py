"""Zstandard frames made for counting noise: runs and prefix codes, and no search for anything else.

Counts have no repetitions worth a search, but flattened regions and the upper bytes of small
counts are runs. A general compressor spends most of its time looking for the former and coding
the latter byte by byte. Here a run becomes one byte and one match with what lies just before it;
all other bytes are literals under one prefix code a plane. What comes out is an ordinary frame of
RFC 8878, which any decoder reads.

A *plane* holds one byte of each value, the k-th of its bytes, as HDF5's shuffle lays them out.
"""

from __future__ import annotations

import numpy as np

from hrtem_stream.archive.byte_runs import LEAST_BYTES, SLACK_BYTES, part
from hrtem_stream.archive.finite_state import (
    Integers,
    close,
    describe_shares,
    first_state,
    flush,
    next_state,
    push,
    state_table,
)
from hrtem_stream.archive.prefix_code import (
    MAX_BITS,
    SMALL_BITS,
    Bytes,
    Words,
    are_small,
    code_lengths,
    coded_bits,
    count_bytes,
    encode_two,
    encode_two_paired,
    fill_code_table,
    fill_pair_table,
)
from hrtem_stream.science.compiled import compiled

BLOCK_BYTES = 1 << 17
_MAGIC = 0xFD2FB528
_SINGLE_SEGMENT = 0b1010_0000
"""Frame header: its size follows in four bytes, and is the window as well."""
_HEADER_BYTES = 9
_SLACK_BYTES = 8 * BLOCK_BYTES
"""What a block may take before it is found to be larger than its bytes."""

_WORTH_CODING = 0.97
"""A prefix code that saves less than a thirtieth of its plane is not worth its time."""

_LEAST_CODED = 64
"""Fewer literals are not worth four streams."""

_RAW_BLOCK, _COMPRESSED_BLOCK = 0, 2
_RAW_LITERALS, _REPEATED_LITERALS, _CODED_LITERALS, _CODED_AS_BEFORE = range(4)
_MATCH_MODES = 0b0001_0000
"""Lengths by the predefined distributions; one offset throughout: the byte just before."""

_LITERAL_SHARES = (
    4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
    -1, -1, -1, -1,
)  # fmt: skip
_MATCH_SHARES = (
    1, 4, 3, 2, 2, 2, 2, 2, 2, *(1,) * 37, *(-1,) * 7,
)  # fmt: skip
_WEIGHT_SHARES = (8, 10, 10, 9, 8, 7, 5, 3, 1, 1, 1, 1)
"""For the lengths of prefix codes: whatever code there is, it is described in fewer than 128
bytes, since long weights are few: two to their power adds up to at most 2048."""


def _length_codes(extra_bits: list[int], first: int) -> tuple[Integers, Integers]:
    """Return the least length of each code, and how many bits tell the length within it."""
    extra = np.array(extra_bits, np.int64)
    return first + np.concatenate([[0], np.cumsum(1 << extra)[:-1]]), extra


_LITERAL_BASE, _LITERAL_EXTRA = _length_codes(
    [0] * 16 + [1] * 4 + [2] * 2 + [3] * 2 + [4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], 0
)
_MATCH_BASE, _MATCH_EXTRA = _length_codes(
    [0] * 32 + [1] * 4 + [2] * 2 + [3] * 2 + [4] * 2 + [5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], 3
)
_LITERAL_CODES = np.searchsorted(_LITERAL_BASE, np.arange(64), side="right") - 1
_MATCH_CODES = np.searchsorted(_MATCH_BASE, np.arange(131), side="right") - 1
_LITERAL_TABLE = state_table(_LITERAL_SHARES, accuracy=6)
_MATCH_TABLE = state_table(_MATCH_SHARES, accuracy=6)
_WEIGHT_TABLE = state_table(_WEIGHT_SHARES, accuracy=6)
_LITERAL_STATES = (_LITERAL_TABLE.states, _LITERAL_TABLE.bits, _LITERAL_TABLE.offsets)
_MATCH_STATES = (_MATCH_TABLE.states, _MATCH_TABLE.bits, _MATCH_TABLE.offsets)
_WEIGHT_STATES = (_WEIGHT_TABLE.states, _WEIGHT_TABLE.bits, _WEIGHT_TABLE.offsets)
_WEIGHT_DESCRIPTION = np.frombuffer(describe_shares(_WEIGHT_SHARES, accuracy=6), np.uint8)


class FrameCompressor:
    """Compresses chunks of one shape; belongs to one thread.

    Parameters
    ----------
    n_planes, n_values
        Bytes of a value, and values of a chunk.

    Attributes
    ----------
    planes
        (n_planes, at least n_values) uint8, to be filled with the planes of a chunk.
    """

    def __init__(self, n_planes: int, n_values: int) -> None:
        n_padded = -(-n_values // 8) * 8 + SLACK_BYTES
        self.planes: Bytes = np.zeros((n_planes, n_padded), np.uint8)
        self._n_values = n_values
        n_blocks = -(-n_values // BLOCK_BYTES)
        self._literals = np.zeros(n_values + SLACK_BYTES, np.uint8)
        self._scratch = np.zeros((2, max(n_values, 2 * BLOCK_BYTES)), np.uint8)
        self._out = np.zeros(n_planes * (n_values + 3 * n_blocks) + _SLACK_BYTES, np.uint8)

    def compress(self) -> bytes:
        """Return the planes, one after the other, as one frame."""
        size = _compress(self.planes, self._n_values, self._literals, self._scratch, self._out)
        return self._out[:size].tobytes()


@compiled
def _compress(planes: Bytes, n_values: int, literals: Bytes, scratch: Bytes, out: Bytes) -> int:
    _put_number(out, 0, _MAGIC, 4)
    out[4] = _SINGLE_SEGMENT
    _put_number(out, 5, planes.shape[0] * n_values, 4)
    at = last_block = _HEADER_BYTES
    runs = np.empty((2, n_values // LEAST_BYTES + 1), np.int64)
    for k in range(planes.shape[0]):
        at, last_block = _write_plane(planes[k], n_values, literals, runs, scratch, out, at)
    out[last_block] |= 1
    return at


@compiled
def _write_plane(
    plane: Bytes,
    n_values: int,
    literals: Bytes,
    runs: Integers,
    scratch: Bytes,
    out: Bytes,
    at: int,
) -> tuple[int, int]:
    """Write the blocks of a plane; return the end, and where the last one begins."""
    n_blocks = (n_values + BLOCK_BYTES - 1) // BLOCK_BYTES
    ends = np.zeros((2, n_blocks + 1), np.int64)
    marks = np.empty(BLOCK_BYTES // 8 + 8, np.uint8)
    for b in range(n_blocks):
        first, stop = b * BLOCK_BYTES, min((b + 1) * BLOCK_BYTES, n_values)
        ends[0, b + 1], ends[1, b + 1] = part(
            plane, first, stop, literals, ends[0, b], runs, ends[1, b], marks
        )
    tables, description = np.zeros((2, 256), np.uint64), np.empty(160, np.uint8)
    mode, is_small, size = _prefix_code(literals[: ends[0, -1]], tables, description)
    begin = at
    for b in range(n_blocks):
        first, stop = b * BLOCK_BYTES, min((b + 1) * BLOCK_BYTES, n_values)
        begin = at
        at, has_code = _write_block(
            literals[ends[0, b] : ends[0, b + 1]], runs[:, ends[1, b] : ends[1, b + 1]],
            mode, is_small, tables, description[:size], scratch, out, begin + 3,
        )  # fmt: skip
        n_bytes = at - begin - 3
        if n_bytes < stop - first:
            _put_number(out, begin, _COMPRESSED_BLOCK << 1 | n_bytes << 3, 3)
            if has_code:
                mode = _CODED_AS_BEFORE
        else:
            _put_number(out, begin, _RAW_BLOCK << 1 | (stop - first) << 3, 3)
            at = begin + 3 + stop - first
            _copy(plane[first:stop], out[begin + 3 : at])
    return at, begin


@compiled
def _prefix_code(literals: Bytes, tables: Words, description: Bytes) -> tuple[int, bool, int]:
    """Make the code of a plane's literals.

    Returns how to write them, whether they are all small, and the size of the code's description.
    """
    counts, lengths = np.empty(256, np.int64), np.empty(256, np.int64)
    is_small = are_small(literals)
    count_bytes(literals, counts)
    n_kinds = total = 0
    for i in range(256):
        n_kinds += counts[i] > 0
        total += counts[i]
    if n_kinds < 2:
        return _REPEATED_LITERALS, is_small, 0
    longest = code_lengths(counts, SMALL_BITS if is_small else MAX_BITS, lengths)
    if coded_bits(counts, lengths) > 8 * _WORTH_CODING * total:
        return _RAW_LITERALS, is_small, 0
    fill_code_table(lengths, longest, tables[0])
    fill_pair_table(tables[0], tables[1])
    highest = 0
    for i in range(256):
        if lengths[i] > 0:
            lengths[i] = longest + 1 - lengths[i]
            highest = i
    return _CODED_LITERALS, is_small, _describe_code(lengths, highest, description)


@compiled
def _describe_code(weights: Integers, highest: int, out: Bytes) -> int:
    """Write the weights of all symbols but the highest; return the size.

    The weight of a symbol is the length of the longest code plus one, less that of its own.
    """
    if highest <= 128:
        out[0] = 127 + highest
        for i in range(0, highest, 2):
            low = weights[i + 1] if i + 1 < highest else 0
            out[1 + i // 2] = weights[i] << 4 | low
        return 1 + (highest + 1) // 2
    n_shares = _WEIGHT_DESCRIPTION.size
    _copy(_WEIGHT_DESCRIPTION, out[1 : 1 + n_shares])
    states, bits, offsets = _WEIGHT_STATES
    # Two states take turns, the first one on the even symbols.
    state = np.empty(2, np.int64)
    state[(highest - 1) % 2] = first_state(states, bits, offsets, weights[highest - 1])
    state[highest % 2] = first_state(states, bits, offsets, weights[highest - 2])
    at, acc, n_acc = 1 + n_shares, np.uint64(0), np.uint64(0)
    for i in range(highest - 3, -1, -1):
        n, following = next_state(states, bits, offsets, state[i % 2], weights[i])
        acc, n_acc = push(acc, n_acc, state[i % 2], n)
        at, acc, n_acc = flush(out, at, acc, n_acc)
        state[i % 2] = following
    acc, n_acc = push(acc, n_acc, state[1], 6)
    acc, n_acc = push(acc, n_acc, state[0], 6)
    at = close(out, at, acc, n_acc)
    out[0] = at - 1
    return at


@compiled
def _write_block(
    literals: Bytes,
    runs: Integers,
    mode: int,
    is_small: bool,
    tables: Words,
    description: Bytes,
    scratch: Bytes,
    out: Bytes,
    at: int,
) -> tuple[int, bool]:
    """Write the inside of a block; return its end, and whether it holds coded literals."""
    n = literals.size
    has_code = mode >= _CODED_LITERALS and n >= _LEAST_CODED
    if has_code:
        at = _write_coded(literals, mode, is_small, tables, description, scratch, out, at)
    elif mode == _REPEATED_LITERALS and n > 0:
        _put_number(out, at, _REPEATED_LITERALS | 3 << 2 | n << 4, 3)
        out[at + 3] = literals[0]
        at += 4
    else:
        _put_number(out, at, _RAW_LITERALS | 3 << 2 | n << 4, 3)
        _copy(literals, out[at + 3 : at + 3 + n])
        at += 3 + n
    return _write_runs(runs, out, at), has_code


@compiled
def _write_coded(
    literals: Bytes,
    mode: int,
    is_small: bool,
    tables: Words,
    description: Bytes,
    scratch: Bytes,
    out: Bytes,
    at: int,
) -> int:
    """Write literals under the prefix code, as four streams of a quarter each."""
    head = at
    at += 5
    if mode == _CODED_LITERALS:
        _copy(description, out[at : at + description.size])
        at += description.size
    sizes = at
    at += 6
    quarter = (literals.size + 3) // 4
    for k in range(0, 4, 2):
        one = literals[k * quarter : (k + 1) * quarter]
        other = literals[(k + 1) * quarter : (k + 2) * quarter]
        spare = scratch[1]
        if is_small:
            n, n_other = encode_two_paired(
                one, other, tables[0], tables[1], scratch[0], out[at:], spare
            )
        else:
            n, n_other = encode_two(one, other, tables[0], out[at:], spare)
        _copy(spare[:n_other], out[at + n : at + n + n_other])
        _put_number(out, sizes + 2 * k, n, 2)
        if k == 0:
            _put_number(out, sizes + 2, n_other, 2)
        at += n + n_other
    _put_number(out, head, mode | 3 << 2 | literals.size << 4 | (at - head - 5) << 22, 5)
    return at


@compiled
def _write_runs(runs: Integers, out: Bytes, at: int) -> int:
    """Write the section of sequences, each some literals and a match at offset one."""
    n = runs.shape[1]
    if n < 128:
        out[at] = n
        at += 1
    else:
        out[at], out[at + 1] = (n >> 8) + 128, n & 255
        at += 2
    if n == 0:
        return at
    out[at], out[at + 1] = _MATCH_MODES, 0
    at += 2
    acc, n_acc = np.uint64(0), np.uint64(0)
    code, match = _literal_code(runs[0, n - 1]), _match_code(runs[1, n - 1])
    of_literals = first_state(*_LITERAL_STATES, code)
    of_matches = first_state(*_MATCH_STATES, match)
    for i in range(n - 1, -1, -1):
        if i < n - 1:
            code, match = _literal_code(runs[0, i]), _match_code(runs[1, i])
            n_bits, following = next_state(*_MATCH_STATES, of_matches, match)
            acc, n_acc = push(acc, n_acc, of_matches, n_bits)
            of_matches = following
            n_bits, following = next_state(*_LITERAL_STATES, of_literals, code)
            acc, n_acc = push(acc, n_acc, of_literals, n_bits)
            of_literals = following
        acc, n_acc = push(acc, n_acc, runs[0, i] - _LITERAL_BASE[code], _LITERAL_EXTRA[code])
        acc, n_acc = push(acc, n_acc, runs[1, i] - _MATCH_BASE[match], _MATCH_EXTRA[match])
        at, acc, n_acc = flush(out, at, acc, n_acc)
    acc, n_acc = push(acc, n_acc, of_matches, 6)
    acc, n_acc = push(acc, n_acc, of_literals, 6)
    return close(out, at, acc, n_acc)


@compiled
def _literal_code(n: int) -> int:
    return _LITERAL_CODES[n] if n < 64 else 19 + _highest_bit(n)


@compiled
def _match_code(n: int) -> int:
    return _MATCH_CODES[n] if n < 131 else 36 + _highest_bit(n - 3)


@compiled
def _highest_bit(n: int) -> int:
    bit = 0
    while n > 1:
        n >>= 1
        bit += 1
    return bit


@compiled
def _put_number(out: Bytes, at: int, number: int, n_bytes: int) -> None:
    for i in range(n_bytes):
        out[at + i] = number >> (8 * i) & 255


@compiled
def _copy(source: Bytes, target: Bytes) -> None:
    for i in range(source.size):
        target[i] = source[i]
