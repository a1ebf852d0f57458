"""What a drill's feed has sent, written down where the pipeline cannot reach it."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


def payload_digest(pixels: NDArray[np.generic] | bytes) -> bytes:
    """Give the BLAKE2b digest of a payload: another one than the pipeline's own."""
    payload = pixels if isinstance(pixels, bytes) else np.ascontiguousarray(pixels).data
    return hashlib.blake2b(payload, digest_size=16).digest()


@dataclass(slots=True)
class SentFrame:
    """One number of a series, and what was sent under it."""

    sent_s: float
    """Monotonic clock when the feed had the frame."""
    digests: list[bytes] = field(default_factory=list)
    """Of each different payload; empty where the feed itself withheld the frame."""


@dataclass(slots=True)
class SentSeries:
    """A series as the feed sent it."""

    name: str
    may_lose: bool
    """Whether the feed could not wait (PUB)."""
    frames: dict[int, SentFrame] = field(default_factory=dict)
    is_over: bool = False

    @property
    def n_payloads(self) -> int:
        """Frames to be accounted for: numbers, and further payloads under the same number."""
        return sum(max(1, len(frame.digests)) for frame in self.frames.values())


class FeedBook:
    """All series that a feed has sent and that are not audited yet; for several threads."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        """Faults of the feed so far, by kind."""
        self._lock = threading.Lock()
        self._series: dict[str, SentSeries] = {}

    def begin(self, name: str, *, may_lose: bool) -> SentSeries:
        """Open the page of a series."""
        with self._lock:
            self._series[name] = SentSeries(name, may_lose)
            return self._series[name]

    def over(self) -> list[SentSeries]:
        """List the series that are complete as far as the feed goes."""
        with self._lock:
            return [series for series in self._series.values() if series.is_over]

    def names(self) -> list[str]:
        """List every series that is not audited yet."""
        with self._lock:
            return list(self._series)

    def remove(self, name: str) -> SentSeries:
        """Take a series out: it is audited."""
        with self._lock:
            return self._series.pop(name)
