from __future__ import annotations

import pytest

from hrtem_stream.sources.pacing import RecordedPace, SteadyPace, Unpaced, pace_of


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds


def test_frames_are_due_one_period_apart() -> None:
    clock = Clock()
    pace = SteadyPace(10, clock=clock, sleep=clock.sleep)
    times_s = []
    for _ in range(4):
        assert pace.wait(0, timeout_s=1)
        times_s.append(clock.now_s)
        pace.advance()
    assert times_s == pytest.approx([100.0, 100.1, 100.2, 100.3])


def test_a_frame_not_due_in_time_is_waited_for_no_longer() -> None:
    clock = Clock()
    pace = SteadyPace(1, clock=clock, sleep=clock.sleep)
    assert pace.wait(0, timeout_s=0)
    pace.advance()
    assert not pace.wait(0, timeout_s=0.25)
    assert clock.now_s == pytest.approx(100.25)
    assert pace.wait(0, timeout_s=0.75)


def test_a_short_delay_is_made_up_for_and_a_long_one_is_not() -> None:
    clock = Clock()
    pace = SteadyPace(10, clock=clock, sleep=clock.sleep)
    pace.advance()
    clock.now_s += 0.5
    n_at_once = 0
    while pace.wait(0, timeout_s=0):
        pace.advance()
        n_at_once += 1
    assert n_at_once == 5
    clock.now_s += 3600
    n_at_once = 0
    while pace.wait(0, timeout_s=0):
        pace.advance()
        n_at_once += 1
    assert n_at_once <= 11


def test_the_time_until_somebody_takes_the_first_frame_is_not_caught_up() -> None:
    clock = Clock()
    pace = SteadyPace(10, clock=clock, sleep=clock.sleep)
    clock.now_s += 0.5
    assert pace.wait(0, timeout_s=0)
    pace.advance()
    assert not pace.wait(0, timeout_s=0.05)
    assert pace.wait(0, timeout_s=0.1)


def test_recorded_frames_are_as_far_apart_as_they_were() -> None:
    clock = Clock()
    pace = RecordedPace(clock=clock, sleep=clock.sleep)
    times_s = []
    # The last two begin again, and have no time.
    for acquired_ns in (10**18, 10**18 + 500_000_000, 10**18 + 700_000_000, 10**18, 0):
        assert pace.wait(acquired_ns, timeout_s=10)
        times_s.append(clock.now_s)
        pace.advance()
    assert times_s == pytest.approx([100.0, 100.5, 100.7, 100.7, 100.7], abs=1e-6)


def test_the_setting_names_the_pace() -> None:
    assert isinstance(pace_of("max"), Unpaced)
    assert isinstance(pace_of("real"), RecordedPace)
    assert isinstance(pace_of(25.0), SteadyPace)
    with pytest.raises(ValueError, match="above 0"):
        pace_of(0.0)
