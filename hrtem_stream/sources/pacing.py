"""When the next frame of a feed that we play ourselves is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias

Rate: TypeAlias = float | Literal["max", "real"]
"""Frames per second; or as fast as they are taken; or by the recorded times."""

_MAX_LAG_S: Final = 1.0
"""A feed further behind than this does not catch up: it goes on at its rate from now."""


class Pace(Protocol):
    """Says when frames are due."""

    def wait(self, acquired_ns: int, *, timeout_s: float) -> bool:
        """Wait until the next frame is due, at most `timeout_s`; say whether it is."""

    def advance(self) -> None:
        """Note that the frame which was due has been given."""


class Unpaced:
    """Every frame is due at once."""

    def wait(self, acquired_ns: int, *, timeout_s: float) -> bool:
        """Return True."""
        return True

    def advance(self) -> None:
        """Do nothing."""


class SteadyPace:
    """Frames are due at a fixed rate, from the first that is given on.

    How long that one waited until somebody could take it is not caught up.
    """

    def __init__(
        self,
        frames_per_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not frames_per_s > 0:
            raise ValueError(f"rate must be above 0 frames/s, got {frames_per_s}")
        self._period_s = 1 / frames_per_s
        self._clock = clock
        self._sleep = sleep
        self._due_s = clock()
        self._has_begun = False

    def wait(self, acquired_ns: int, *, timeout_s: float) -> bool:
        """Wait until the next frame is due, at most `timeout_s`; say whether it is."""
        return _wait_until(self._due_s, timeout_s, clock=self._clock, sleep=self._sleep)

    def advance(self) -> None:
        """Set the next frame one period later."""
        lag_s = _MAX_LAG_S if self._has_begun else 0.0
        self._has_begun = True
        self._due_s = max(self._due_s, self._clock() - lag_s) + self._period_s


class RecordedPace:
    """Frames are as far apart as they were when they were acquired."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._last_s = clock()
        self._last_ns = 0
        self._next_ns = 0

    def wait(self, acquired_ns: int, *, timeout_s: float) -> bool:
        """Wait until the next frame is due, at most `timeout_s`; say whether it is."""
        self._next_ns = acquired_ns
        # The first frame, one without a time, and the first of a repetition are due at once.
        is_later = 0 < self._last_ns < acquired_ns
        apart_s = (acquired_ns - self._last_ns) * 1e-9 if is_later else 0.0
        return _wait_until(self._last_s + apart_s, timeout_s, clock=self._clock, sleep=self._sleep)

    def advance(self) -> None:
        """Take the frame just given for the one to measure from."""
        is_later = 0 < self._last_ns < self._next_ns
        apart_s = (self._next_ns - self._last_ns) * 1e-9 if is_later else 0.0
        self._last_s = max(self._last_s + apart_s, self._clock() - _MAX_LAG_S)
        self._last_ns = self._next_ns


def pace_of(rate: Rate) -> Pace:
    """Return the pace that a setting names."""
    if rate == "max":
        return Unpaced()
    return RecordedPace() if rate == "real" else SteadyPace(rate)


def _wait_until(
    due_s: float, timeout_s: float, *, clock: Callable[[], float], sleep: Callable[[float], None]
) -> bool:
    remaining_s = due_s - clock()
    if remaining_s <= 0:
        return True
    sleep(min(remaining_s, max(0.0, timeout_s)))
    return remaining_s <= timeout_s
