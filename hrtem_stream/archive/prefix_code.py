"""Huffman's prefix codes of bytes, as the literals of Zstandard use them.

A code has at most `MAX_BITS` bits a symbol. Codes are canonical: given the lengths, the longest
come first, from zero on, symbols of a length in their order (RFC 8878, section 4.2.1).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled, store_word

Bytes: TypeAlias = NDArray[np.uint8]
Integers: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]
Number: TypeAlias = Any
"""A machine integer, which is neither an int nor a NumPy scalar while it is compiled."""

MAX_BITS = 11
_SAMPLED = 1 << 16
"""From so many bytes on a sample of them tells how often each occurs."""
_SAMPLE_BYTES = 1 << 15
"""Of the sample: a code made from it is longer than the best one by less than a hundredth bit."""
SMALL = 16
"""Bytes below this are coded two at a time."""
SMALL_BITS = 8
"""Limit of their codes, so that three pairs of them fit a word."""


@compiled
def count_bytes(values: Bytes, counts: Integers) -> None:
    """Count how often each byte occurs.

    Of many bytes a sample is counted, and one is added for each byte that may occur: those as
    near to the most frequent one as the farthest that does, counting round from 255 to 0.
    """
    if values.size < _SAMPLED:
        _count(values, 64, counts)
        return
    # An odd number of stretches apart, so that the sample has all columns of a frame.
    _count(values, 64 * (values.size // _SAMPLE_BYTES | 1), counts)
    centre = 0
    for i in range(256):
        if counts[i] > counts[centre]:
            centre = i
    below, above = _reach(values, np.uint8(centre))
    for distance in range(below, above + 1):
        counts[(centre + distance) & 255] += 1


@compiled
def _reach(values: Bytes, centre: Any) -> tuple[Number, Number]:
    """Return how far values lie below and above a centre, the shorter way round."""
    below = above = np.int8(0)
    for i in range(values.size):
        distance = np.int8(np.uint8(values[i] - centre))
        below, above = min(below, distance), max(above, distance)
    return np.int64(below), np.int64(above)


@compiled
def are_small(values: Bytes) -> bool:
    """Tell whether all are below `SMALL`."""
    highest = np.uint8(0)
    for i in range(values.size):
        highest = max(highest, values[i])
    return bool(highest < SMALL)


@compiled
def _count(values: Bytes, step: int, counts: Integers) -> None:
    """Count the first 64 of every `step` bytes."""
    partial = np.zeros((4, 256), np.uint32)
    for first in range(0, values.size, step):
        _count_stretch(values[first : first + 64], partial)
    for i in range(256):
        counts[i] = partial[0, i] + partial[1, i] + partial[2, i] + partial[3, i]


@compiled
def _count_stretch(values: Bytes, partial: Any) -> None:
    # Four tables, since a byte that follows its like would have to wait for the count before.
    n = values.size // 4 * 4
    for i in range(0, n, 4):
        partial[0, values[i]] += 1
        partial[1, values[i + 1]] += 1
        partial[2, values[i + 2]] += 1
        partial[3, values[i + 3]] += 1
    for i in range(n, values.size):
        partial[0, values[i]] += 1


@compiled
def code_lengths(counts: Integers, most_bits: int, lengths: Integers) -> Number:
    """Write the length in bits of the code of each symbol, 0 where it has none; return the longest.

    `counts` must be positive for two symbols at least, and for 2**most_bits at most.
    """
    order = _by_count(counts)
    first = 0
    while counts[order[first]] == 0:
        first += 1
    n = counts.size - first
    weight, parent = np.empty(2 * n, np.int64), np.empty(2 * n, np.int64)
    for i in range(n):
        weight[i] = counts[order[first + i]]
    # Leaves and inner nodes both come in the order of their weight: two queues.
    leaf, node = 0, n
    for new in range(n, 2 * n - 1):
        total = 0
        for _ in range(2):
            if leaf < n and (node >= new or weight[leaf] <= weight[node]):
                taken, leaf = leaf, leaf + 1
            else:
                taken, node = node, node + 1
            parent[taken] = new
            total += weight[taken]
        weight[new] = total
    depth = np.zeros(2 * n, np.int64)
    for i in range(2 * n - 3, -1, -1):
        depth[i] = depth[parent[i]] + 1
    _limit(depth[:n], most_bits)
    lengths[:] = 0
    for i in range(n):
        lengths[order[first + i]] = depth[i]
    return depth[0]


@compiled
def _by_count(counts: Integers) -> Integers:
    """Return the symbols from the rarest to the most frequent, by Shell's sort."""
    order = np.empty(counts.size, np.int64)
    n_sorted = 0
    for is_used in (False, True):
        for symbol in range(counts.size):
            if (counts[symbol] > 0) == is_used:
                order[n_sorted] = symbol
                n_sorted += 1
    for apart in (57, 23, 10, 4, 1):
        for i in range(apart, counts.size):
            symbol, k = order[i], i
            while k >= apart and counts[order[k - apart]] > counts[symbol]:
                order[k] = order[k - apart]
                k -= apart
            order[k] = symbol
    return order


@compiled
def _limit(depth: Integers, most: int) -> None:
    """Bring depths, of leaves from the rarest to the most frequent, to `most` at most."""
    free = 1 << most
    for i in range(depth.size):
        depth[i] = min(depth[i], most)
        free -= 1 << (most - depth[i])
    # Too much room is taken: the rarest of the shorter codes become longer ...
    while free < 0:
        for i in range(depth.size):
            if depth[i] < most:
                depth[i] += 1
                free += 1 << (most - depth[i])
                if free >= 0:
                    break
    # ... and what is left over then shortens the most frequent of the longest.
    while free > 0:
        for i in range(depth.size - 1, -1, -1):
            gain = 1 << (most - depth[i])
            if depth[i] > 1 and gain <= free:
                depth[i] -= 1
                free -= gain
    # The longest code is for the rarest again.
    for i in range(1, depth.size):
        longer = depth[i]
        k = i
        while k > 0 and depth[k - 1] < longer:
            depth[k] = depth[k - 1]
            k -= 1
        depth[k] = longer


@compiled
def fill_code_table(lengths: Integers, longest: int, table: Words) -> None:
    """Write the code of each symbol: its bits at the top of a word, their number at its bottom."""
    n_of_length = np.zeros(MAX_BITS + 2, np.int64)
    for i in range(lengths.size):
        n_of_length[lengths[i]] += 1
    following = np.zeros(MAX_BITS + 2, np.uint64)
    code = 0
    for n_bits in range(longest, 0, -1):
        following[n_bits] = code
        code = (code + n_of_length[n_bits]) >> 1
    for i in range(lengths.size):
        n_bits = lengths[i]
        if n_bits > 0:
            top = following[n_bits] << np.uint64(64 - n_bits)
            table[i] = top | np.uint64(n_bits)
            following[n_bits] += np.uint64(1)


@compiled
def coded_bits(counts: Integers, lengths: Integers) -> Number:
    """Return how many bits the counted symbols take."""
    total = 0
    for i in range(counts.size):
        total += counts[i] * lengths[i]
    return total


@compiled
def fill_pair_table(table: Words, pairs: Words) -> None:
    """Write the codes of two bytes at a time: the second one is written first."""
    for first in range(SMALL):
        for second in range(SMALL):
            n_bits = table[first] & np.uint64(63)
            below = table[second] & ~np.uint64(63)
            both = (table[first] & ~np.uint64(63)) | below >> n_bits
            pairs[first | second << 4] = both | (n_bits + (table[second] & np.uint64(63)))


@compiled
def encode_two(
    one: Bytes, other: Bytes, table: Words, out: Bytes, spare: Bytes
) -> tuple[Number, Number]:
    """Write two streams of codes, each from its last symbol to its first; return their sizes.

    Eight bytes behind either stream are overwritten.
    """
    n = min(one.size, other.size) // 4 * 4
    states = np.zeros((2, 3), np.uint64)
    a, b = one.size - n, other.size - n
    _encode_fours(one[a:], other[b:], table, out, spare, states)
    return (
        _encode_rest(one[:a], table, out, states[0]),
        _encode_rest(other[:b], table, spare, states[1]),
    )


@compiled
def encode_two_paired(
    one: Bytes, other: Bytes, table: Words, pairs: Words, scratch: Bytes, out: Bytes, spare: Bytes
) -> tuple[Number, Number]:
    """Write two streams of bytes below `SMALL`, as `encode_two` does, by the codes of pairs."""
    n = min(one.size, other.size) // 6 * 6
    states = np.zeros((2, 3), np.uint64)
    a, b = one.size - n, other.size - n
    half = n // 2
    _pair_up(one[a:], scratch[:half])
    _pair_up(other[b:], scratch[half:])
    _encode_three_pairs(scratch[:half], scratch[half : 2 * half], pairs, out, spare, states)
    return (
        _encode_rest(one[:a], table, out, states[0]),
        _encode_rest(other[:b], table, spare, states[1]),
    )


@compiled
def _pair_up(values: Bytes, pairs: Bytes) -> None:
    """Write each two bytes below `SMALL` as one."""
    for i in range(values.size // 2):
        pairs[i] = values[2 * i] | values[2 * i + 1] << 4


# The two loops below differ in how many codes fit a word only, but a loop over a variable number
# of them is not unrolled. They are functions of their own, since only then all of their variables
# stay in registers. Two streams at a time keep the processor busy with one while the other waits.
#
# Codes are pushed in at the top of a word. What their lengths leave at its bottom is never
# reached: seven bits and the codes of a turn are fewer than 56.


@compiled
def _encode_fours(
    one: Bytes, other: Bytes, table: Words, out: Bytes, spare: Bytes, states: Words
) -> None:
    acc, acc2, n_bits, n_bits2 = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    at: Number = 0
    at2: Number = 0
    i = one.size
    while i >= 4:
        for k in range(4):
            code = table[one[i - 1 - k]]
            acc = (acc >> (code & np.uint64(63))) | code
            n_bits += code
            code2 = table[other[i - 1 - k]]
            acc2 = (acc2 >> (code2 & np.uint64(63))) | code2
            n_bits2 += code2
        i -= 4
        n_bits &= np.uint64(63)
        n_bits2 &= np.uint64(63)
        store_word(out, at, acc >> (np.uint64(64) - n_bits))
        store_word(spare, at2, acc2 >> (np.uint64(64) - n_bits2))
        at += np.int64(n_bits >> np.uint64(3))
        at2 += np.int64(n_bits2 >> np.uint64(3))
        n_bits &= np.uint64(7)
        n_bits2 &= np.uint64(7)
    states[0, 0], states[0, 1], states[0, 2] = acc, n_bits, at
    states[1, 0], states[1, 1], states[1, 2] = acc2, n_bits2, at2


@compiled
def _encode_three_pairs(
    one: Bytes, other: Bytes, table: Words, out: Bytes, spare: Bytes, states: Words
) -> None:
    acc, acc2, n_bits, n_bits2 = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    at: Number = 0
    at2: Number = 0
    i = one.size
    while i >= 3:
        for k in range(3):
            code = table[one[i - 1 - k]]
            acc = (acc >> (code & np.uint64(63))) | code
            n_bits += code
            code2 = table[other[i - 1 - k]]
            acc2 = (acc2 >> (code2 & np.uint64(63))) | code2
            n_bits2 += code2
        i -= 3
        n_bits &= np.uint64(63)
        n_bits2 &= np.uint64(63)
        store_word(out, at, acc >> (np.uint64(64) - n_bits))
        store_word(spare, at2, acc2 >> (np.uint64(64) - n_bits2))
        at += np.int64(n_bits >> np.uint64(3))
        at2 += np.int64(n_bits2 >> np.uint64(3))
        n_bits &= np.uint64(7)
        n_bits2 &= np.uint64(7)
    states[0, 0], states[0, 1], states[0, 2] = acc, n_bits, at
    states[1, 0], states[1, 1], states[1, 2] = acc2, n_bits2, at2


@compiled
def _encode_rest(values: Bytes, table: Words, out: Bytes, state: Words) -> Number:
    """Write the codes of the first symbols, then a one above them; return the size."""
    acc, n_bits, at = state[0], state[1], np.int64(state[2])
    for i in range(values.size - 1, -1, -1):
        code = table[values[i]]
        acc = (acc >> (code & np.uint64(63))) | code
        n_bits += code & np.uint64(63)
        store_word(out, at, acc >> (np.uint64(64) - n_bits))
        at += np.int64(n_bits >> np.uint64(3))
        n_bits &= np.uint64(7)
    left = np.uint64(0)
    if n_bits > np.uint64(0):
        left = acc >> (np.uint64(64) - n_bits)
    out[at] = left | (np.uint64(1) << n_bits)
    return at + 1
