"""Parting bytes into literals and runs, beside a plain search byte by byte."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.archive.byte_runs import LEAST_BYTES, SLACK_BYTES, part
from hrtem_stream.archive.prefix_code import count_bytes


def parted(values, first, stop):
    """Return the literals, and the runs as (literals before it, repetitions)."""
    plane = np.zeros(-(-values.size // 8) * 8 + SLACK_BYTES, np.uint8)
    plane[: values.size] = values
    literals = np.zeros(values.size + SLACK_BYTES, np.uint8)
    runs = np.zeros((2, values.size // LEAST_BYTES + 1), np.int64)
    marks = np.zeros(-(-values.size // 64) * 8 + 8, np.uint8)
    n_literals, n_runs = part(plane, first, stop, literals, 0, runs, 0, marks)
    return literals[:n_literals], runs[:, :n_runs].T.tolist()


def joined(literals, runs):
    out, at = [], 0
    for n_literals, n_repeated in runs:
        out += [*literals[at : at + n_literals], *[literals[at + n_literals - 1]] * n_repeated]
        at += n_literals
    return np.array([*out, *literals[at:]], np.uint8)


def longest_stretch(values):
    edges = np.flatnonzero(np.diff(values.astype(int), prepend=-1, append=-1))
    return int(np.diff(edges).max(initial=0))


@settings(deadline=None, max_examples=300)
@given(
    stretches=st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.integers(1, 9), st.integers(1, 200))),
        min_size=1, max_size=30,
    ),
    skipped=st.integers(0, 3),
)  # fmt: skip
def test_literals_and_runs_give_the_bytes_and_no_long_run_is_left(stretches, skipped):
    values = np.repeat(*np.array(stretches).T).astype(np.uint8)
    first = min(8 * skipped, values.size // 8 * 8)
    literals, runs = parted(values, first, values.size)
    assert np.array_equal(joined(literals, runs), values[first:])
    if len(runs) == 0:
        assert longest_stretch(values[first:]) < LEAST_BYTES + 8
    assert all(n_literals > 0 and n_repeated > 0 for n_literals, n_repeated in runs)


def test_a_run_is_as_long_as_its_byte_reaches_whatever_its_place():
    for begin in range(16):
        for length in (31, 32, 33, 64, 65, 500):
            values = np.arange(600) % 7 + 1
            values[begin : begin + length] = 0
            literals, runs = parted(values.astype(np.uint8), 0, values.size)
            assert runs == [[begin + 1, length - 1]], (begin, length)
            assert literals.size == values.size - length + 1


@pytest.mark.parametrize("width", [256, 1024, 2048])
def test_a_sample_of_many_bytes_counts_all_columns_of_a_frame_alike(width):
    values = np.arange(1 << 19) % width // (width // 256)
    counts = np.zeros(256, np.int64)
    count_bytes(values.astype(np.uint8), counts)
    assert counts.min() > 0.8 * counts.mean()
