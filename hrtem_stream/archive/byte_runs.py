"""Parts bytes into literals, and runs of one byte, for frames of Zstandard.

Runs are looked for by words of eight bytes: where three words in a row hold one and the same byte
there is a run, which then reaches as far as its byte does on either side. A first pass, which the
compiler turns into vector instructions, marks where such words begin; the second goes from mark to
mark.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hrtem_stream.archive.prefix_code import Bytes, Number
from hrtem_stream.archive.words import load_word, zeros_above, zeros_below
from hrtem_stream.science.compiled import compiled, store_word

LEAST_BYTES = 24
"""A shorter run may not be found. Below 20 bytes one is cheaper as literals, of a bit each."""
SLACK_BYTES = 8
"""Behind the bytes to part, and behind their literals, so many more are read and overwritten."""

_LEAST_WORDS = LEAST_BYTES // 8
_SHORT = 128
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_MARKS = np.uint64(0x0101_0101_0101_0101)


@compiled
def part(
    plane: Bytes,
    first: int,
    stop: int,
    literals: Bytes,
    n_literals: int,
    runs: Any,
    n_runs: int,
    marks: Bytes,
) -> tuple[Number, Number]:
    """Part bytes `first` to `stop` into literals, and runs that each follow some; count both.

    A run is written as the number of literals before it, its first byte included, and of the
    bytes that repeat this one.

    Parameters
    ----------
    plane
        Bytes, a multiple of eight, with slack behind `stop`; `first` is a multiple of eight.
    literals, n_literals
        Where literals are appended, and how many are there already.
    runs, n_runs
        The same for runs.
    marks
        Scratch, a byte for each eight bytes and eight more; a multiple of eight in all.
    """
    words = plane.view(np.uint64)
    base, last = first // 8, stop // 8
    taken: Number = first
    n_groups = _mark(words[base:last], marks)
    groups = marks.view(np.uint64)
    k = 0
    group = groups[0] if n_groups else np.uint64(0)
    while k < n_groups:
        if group == np.uint64(0):
            k += 1
            group = groups[k] if k < n_groups else np.uint64(0)
            continue
        place = zeros_below(group)
        begin: Number = 8 * (base + 8 * k + np.int64(place >> np.uint64(3)))
        # As far as the marks go, the run does; the last of them stands for three words.
        gap = ~group & (_MARKS << place)
        while gap == np.uint64(0) and k + 1 < n_groups:
            k += 1
            group = groups[k]
            gap = ~group & _MARKS
        past = zeros_below(gap) if gap else np.uint64(64)
        group = group & (_ALL << past) if past < np.uint64(64) else np.uint64(0)
        end: Number = 8 * (base + 8 * k + np.int64(past >> np.uint64(3)) + _LEAST_WORDS - 1)
        word = words[begin >> 3]
        if begin > taken:
            before = np.int64(zeros_above(words[(begin >> 3) - 1] ^ word) >> np.uint64(3))
            begin -= min(before, begin - taken)
        if end < 8 * last:
            end += np.int64(zeros_below(words[end >> 3] ^ word) >> np.uint64(3))
        else:
            while end < stop and plane[end] == plane[begin]:
                end += 1
        n = begin + 1 - taken
        _copy(plane, taken, literals, n_literals, n)
        runs[0, n_runs], runs[1, n_runs] = n, end - begin - 1
        n_literals += n
        n_runs += 1
        taken = end
    n = stop - taken
    _copy(plane, taken, literals, n_literals, n)
    return n_literals + n, n_runs


@compiled
def _mark(words: Any, marks: Bytes) -> Number:
    """Mark each word that, with those after it, is a run; return how many eights of marks."""
    n = words.size - _LEAST_WORDS + 1
    if n <= 0:
        return 0
    _mark_pairs(words, marks[: n + 1])
    for i in range(n):
        marks[i] &= marks[i + 1]
    n_groups = (n + 7) // 8
    marks[n : 8 * n_groups] = 0
    return n_groups


@compiled
def _mark_pairs(words: Any, marks: Bytes) -> None:
    for i in range(marks.size):
        word = words[i]
        turned = word << np.uint64(8) | word >> np.uint64(56)
        marks[i] = (word == words[i + 1]) & (word == turned)


@compiled
def _copy(source: Bytes, begin: Number, target: Bytes, at: Number, n: Number) -> None:
    """Copy n bytes, and up to seven more where they are few."""
    if n > _SHORT:
        _copy_many(source[begin : begin + n], target[at : at + n])
    else:
        for i in range(0, n, 8):
            store_word(target, at + i, load_word(source, begin + i))


@compiled
def _copy_many(source: Bytes, target: Bytes) -> None:
    for i in range(source.size):
        target[i] = source[i]
