"""The delivery protocol in simulated time, over lanes that are slow, lossy and mortal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.protocol import Case, Lane, simulate

UNEQUAL = (Lane(service_s=0.02), Lane(service_s=0.06))
CAPACITY = 1 / 0.02 + 1 / 0.06


def test_nothing_is_sent_again_where_nothing_is_lost_however_slow_the_link() -> None:
    for delay_s in (0.0, 0.3, 3.0):
        lanes = tuple(replace(lane, delay_s=delay_s) for lane in UNEQUAL)
        outcome = simulate(Case(lanes=lanes, n_frames=200, stall_s=10.0))
        assert (outcome.n_settled, outcome.redelivered, outcome.duplicates) == (200, 0, 0)


def test_a_stall_shorter_than_the_round_trip_does_work_twice() -> None:
    lanes = tuple(replace(lane, delay_s=3.0) for lane in UNEQUAL)
    outcome = simulate(Case(lanes=lanes, n_frames=300, stall_s=1.0))
    assert outcome.n_settled == 300
    assert outcome.duplicates > 0.1


def test_unequal_workers_add_up() -> None:
    outcome = simulate(Case(lanes=UNEQUAL, n_frames=600, window=16))
    assert outcome.frames_per_s == pytest.approx(CAPACITY, rel=0.05)


def test_beyond_the_window_the_rate_is_the_window_by_the_round_trip() -> None:
    lanes = (Lane(service_s=0.001, delay_s=0.5),) * 8
    outcome = simulate(Case(lanes=lanes, n_frames=1000, window=32))
    assert outcome.frames_per_s == pytest.approx(32 / 1.0, rel=0.15)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_frame_arrives_once_where_messages_and_workers_are_lost(seed: int) -> None:
    lanes = tuple(replace(lane, loss=0.2, life_s=2.0, delay_s=0.02) for lane in UNEQUAL)
    case = Case(lanes=lanes, n_frames=400, window=32, acknowledgement_loss=0.3, seed=seed)
    outcome = simulate(case)
    assert outcome.n_settled == 400
    assert outcome.n_deaths
    assert outcome.redelivered > 0.2
    assert simulate(case) == outcome, "the same seed gives the same"


def test_one_in_five_lost_costs_as_many_messages_and_little_time() -> None:
    lanes = tuple(replace(lane, loss=0.2, delay_s=0.02) for lane in UNEQUAL)
    outcome = simulate(Case(lanes=lanes, n_frames=600, window=32))
    assert outcome.redelivered == pytest.approx(0.2 / 0.8, rel=0.25)
    assert outcome.frames_per_s > 0.8 * CAPACITY


def test_a_series_that_cannot_end_is_said_so() -> None:
    with pytest.raises(RuntimeError, match="only 0 frames in 5 s"):
        simulate(Case(lanes=(Lane(service_s=0.01, loss=1.0),), n_frames=10, limit_s=5.0))
