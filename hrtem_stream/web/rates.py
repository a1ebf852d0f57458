"""Rates and silences of counters that are looked at now and then."""

from __future__ import annotations

from collections import deque

SPAN_S = 5.0


class RateOf:
    """The rate of a counter over the last seconds; a counter that falls has begun anew."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def note(self, now_s: float, count: float) -> float | None:
        """Note a count; give the rate, None until there are two counts."""
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now_s, count))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= SPAN_S:
            self._seen.popleft()
        first_s, first = self._seen[0]
        return (count - first) / (now_s - first_s) if now_s > first_s else None


class SilenceOf:
    """For how long a counter has stood still."""

    def __init__(self) -> None:
        self._count = 0.0
        self._since_s: float | None = None

    def note(self, now_s: float, count: float) -> float:
        """Note a count; give for how long it has not changed, in seconds."""
        if self._since_s is None or count != self._count:
            self._count, self._since_s = count, now_s
        return now_s - self._since_s

    def wake(self, now_s: float) -> None:
        """Begin anew."""
        self._since_s = now_s
