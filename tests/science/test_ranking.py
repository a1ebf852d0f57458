"""Ranking: best first, stable, and the live ranking agrees with the final one at any moment."""

import time

import numpy as np
import pytest

from hrtem_stream.science.ranking import LiveRanking, order, rank


def test_the_highest_fraction_has_rank_zero() -> None:
    assert rank([0.2, 0.9, 0.5]).tolist() == [2, 0, 1]


def test_equal_fractions_keep_the_order_of_rows() -> None:
    assert rank([0.5, 0.7, 0.5, 0.7]).tolist() == [2, 0, 3, 1]


def test_nan_comes_last_in_the_order_of_rows() -> None:
    assert rank([np.nan, 0.1, np.nan, 0.0]).tolist() == [2, 0, 3, 1]


def test_order_and_rank_are_inverse_and_int64() -> None:
    fractions = np.random.default_rng(0).random(100)
    assert rank(fractions).dtype == order(fractions).dtype == np.int64
    assert (order(fractions)[rank(fractions)] == np.arange(100)).all()


def test_no_frames_have_no_ranks() -> None:
    assert rank([]).shape == (0,)


def test_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="fractions must be one-dimensional"):
        rank([[0.1, 0.2]])


def test_the_live_ranking_agrees_with_the_final_one_at_every_moment() -> None:
    rng = np.random.default_rng(3)
    fractions = rng.integers(0, 50, 5000) / 50.0
    fractions[rng.random(5000) < 0.01] = np.nan
    live = LiveRanking()
    for row, fraction in enumerate(fractions):
        live.insert(row, fraction)
        if row in (0, 1, 700, 1023, 1024, 1025, 4999):
            assert list(live) == order(fractions[: row + 1]).tolist()
    assert len(live) == 5000
    assert live.best(10) == order(fractions)[:10].tolist()
    ranks = rank(fractions)
    assert [live.rank(row, fractions[row]) for row in range(0, 5000, 97)] == ranks[::97].tolist()


def test_frames_may_arrive_in_any_order_of_rows() -> None:
    fractions = np.random.default_rng(4).integers(0, 5, 300) / 5.0
    live = LiveRanking()
    for row in np.random.default_rng(5).permutation(300):
        live.insert(int(row), float(fractions[row]))
    assert list(live) == order(fractions).tolist()


def test_best_of_fewer_frames_than_asked_for_gives_them_all() -> None:
    live = LiveRanking()
    assert live.best(3) == []
    live.insert(0, 0.5)
    assert live.best(3) == [0]
    assert live.best(0) == []


def test_a_frame_among_very_many_is_added_in_microseconds() -> None:
    fractions = np.random.default_rng(6).random(100_000).tolist()
    live = LiveRanking()
    for row, fraction in enumerate(fractions):
        live.insert(row, fraction)
    started = time.perf_counter()
    for row, fraction in enumerate(fractions[:1000]):
        live.insert(100_000 + row, fraction)
    # A few microseconds on a quiet machine; sorting anew would take a hundred times the bound.
    assert (time.perf_counter() - started) / 1000 < 200e-6


@pytest.mark.parametrize("n", [0, 1, 4095, 4096, 4097, 9000])
def test_a_ranking_made_of_frames_that_are_there_goes_on_as_if_they_had_come(n: int) -> None:
    fractions = np.random.default_rng(n).integers(0, 50, n + 100) / 50.0
    fractions[::7] = np.nan
    live = LiveRanking.of(fractions[:n], first_row=0)
    for row in range(n, n + 100):
        live.insert(row, float(fractions[row]))
    assert list(live) == order(fractions).tolist()
    assert len(live) == n + 100
    shifted = LiveRanking.of(fractions[:n], first_row=10)
    assert list(shifted) == [row + 10 for row in order(fractions[:n])]
