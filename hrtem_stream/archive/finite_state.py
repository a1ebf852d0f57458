"""Finite-state entropy coding (tANS), as far as Zstandard's frames need it.

A table over a distribution of 2**accuracy states turns symbols into fractions of bits. Tables are
made once, at import, for distributions that are fixed: the predefined ones of sequences, and one
of ours for the lengths of prefix codes (RFC 8878, sections 3.1.1.3.2.2 and 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled, store_word

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StateTable:
    """What an encoder needs of a distribution."""

    accuracy: int
    states: Integers
    """(2**accuracy,) following state, by rank within its symbol."""
    bits: Integers
    """(n,) by symbol: added to a state, its upper half is the number of bits to write."""
    offsets: Integers
    """(n,) by symbol: where its states lie in `states`, less the smallest reduced state."""


def state_table(shares: tuple[int, ...], *, accuracy: int) -> StateTable:
    """Make the encoding table of a distribution.

    Parameters
    ----------
    shares
        States of each symbol, adding up to 2**accuracy; -1 counts as one, of least likelihood.
    accuracy
        Logarithm of the number of states.
    """
    size = 1 << accuracy
    if sum(map(abs, shares)) != size:
        raise ValueError(f"shares must add up to {size}, got {sum(map(abs, shares))}")
    symbol_of = _spread(shares, size)
    counts = [abs(share) for share in shares]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    states = np.zeros(size, np.int64)
    following = starts.copy()
    for state, symbol in enumerate(symbol_of):
        states[following[symbol]] = size + state
        following[symbol] += 1
    bits, offsets = np.zeros(len(shares), np.int64), np.zeros(len(shares), np.int64)
    for symbol, count in enumerate(counts):
        if count == 0:
            continue
        n_bits = accuracy - max(count - 1, 1).bit_length() + 1 if count > 1 else accuracy
        bits[symbol] = (n_bits << 16) - (count << n_bits)
        offsets[symbol] = starts[symbol] - count
    return StateTable(accuracy, states, bits, offsets)


def _spread(shares: tuple[int, ...], size: int) -> list[int]:
    """Give the symbol of each state: the rarest at the end, the others far apart."""
    symbol_of = [-1] * size
    last = size - 1
    for symbol, share in enumerate(shares):
        if share == -1:
            symbol_of[last] = symbol
            last -= 1
    place, step = 0, (size >> 1) + (size >> 3) + 3
    for symbol, share in enumerate(shares):
        for _ in range(max(share, 0)):
            symbol_of[place] = symbol
            place = (place + step) % size
            while place > last:
                place = (place + step) % size
    return symbol_of


def describe_shares(shares: tuple[int, ...], *, accuracy: int) -> bytes:
    """Give the description of a distribution, all shares positive, as it precedes its stream."""
    bits, n_bits = accuracy - 5, 4
    remaining, threshold, width = (1 << accuracy) + 1, 1 << accuracy, accuracy + 1
    for share in shares:
        spare = 2 * threshold - 1 - remaining
        remaining -= share
        value = share + 1
        if value >= threshold:
            value += spare
        bits |= value << n_bits
        n_bits += width - (value < spare)
        while remaining < threshold:
            width -= 1
            threshold >>= 1
    return bits.to_bytes((n_bits + 7) // 8, "little")


@compiled
def first_state(states: Integers, bits: Integers, offsets: Integers, symbol: int) -> Any:
    """Return the state from which decoding a symbol ends: it costs nothing to write."""
    n_bits = (bits[symbol] + (1 << 15)) >> 16
    reduced = ((n_bits << 16) - bits[symbol]) >> n_bits
    return states[reduced + offsets[symbol]]


@compiled
def next_state(
    states: Integers, bits: Integers, offsets: Integers, state: int, symbol: int
) -> tuple[int, int]:
    """Return how many of the lowest bits of a state are to be written, and the next state."""
    n_bits = (state + bits[symbol]) >> 16
    return n_bits, states[(state >> n_bits) + offsets[symbol]]


# A bit stream under way is a word, the number of its bits, and where in `out` the rest goes.


@compiled
def push(acc: Any, n_acc: Any, value: int, n: int) -> Any:
    """Add the n lowest bits of a value above the bits of a word."""
    bits = np.uint64(value) & ((np.uint64(1) << np.uint64(n)) - np.uint64(1))
    return acc | bits << n_acc, n_acc + np.uint64(n)


@compiled
def flush(out: Any, at: int, acc: Any, n_acc: Any) -> Any:
    """Write whole bytes of a word, at most 64 bits; up to eight bytes are overwritten."""
    store_word(out, at, acc)
    n_bytes = n_acc >> np.uint64(3)
    left = acc >> (n_bytes << np.uint64(3)) if n_bytes < np.uint64(8) else np.uint64(0)
    return at + np.int64(n_bytes), left, n_acc & np.uint64(7)


@compiled
def close(out: Any, at: int, acc: Any, n_acc: Any) -> int:
    """Write the bits that are left, and a one above them; return the end."""
    acc, n_acc = push(acc, n_acc, 1, 1)
    at, acc, n_acc = flush(out, at, acc, n_acc)
    if n_acc > np.uint64(0):
        out[at] = acc
        at += 1
    return at
