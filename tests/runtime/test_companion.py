"""A process beside the stages."""

from __future__ import annotations

import sys
import time

import psutil

from hrtem_stream.runtime.companion import GIVE_UP_AFTER, Companion

SLEEPS = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
FAILS = [sys.executable, "-S", "-c", "raise SystemExit(3)"]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_it_lives_as_long_as_its_session_and_is_started_again() -> None:
    clock = Clock()
    with Companion(SLEEPS, name="it", clock=clock) as companion:
        (child,) = psutil.Process().children()
        child.kill()
        companion._process.wait()
        for clock.now_s in (1.0, 2.0):
            companion.tend()
        (again,) = psutil.Process().children()
        assert again.pid != child.pid
    assert not psutil.pid_exists(again.pid)


def test_one_that_keeps_dying_is_given_up() -> None:
    clock = Clock()
    with Companion(FAILS, name="it", clock=clock) as companion:
        n_started, seen = 0, None
        deadline = time.monotonic() + 30
        while companion._n_deaths < GIVE_UP_AFTER and time.monotonic() < deadline:
            if companion._process is not seen and companion._process is not None:
                n_started, seen = n_started + 1, companion._process
            clock.now_s += 1.0
            companion.tend()
            time.sleep(0.01)
        assert n_started == GIVE_UP_AFTER
        clock.now_s += 1000
        companion.tend()
        assert companion._process is None


def test_none_is_started_without_a_command() -> None:
    with Companion([], name="it") as companion:
        companion.tend()
        assert not psutil.Process().children()
