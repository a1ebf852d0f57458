"""Where a stage's time goes: waiting, copying, working; and which stage holds up the others.

`wait` is time in which the loop waits for messages, the feed or the encoders, `copy` that for
decoding, encoding, logging and sending, `work` that of the stage's own work. What a stage's loop
does besides is not counted. Each process leaves its split beside its heart when it ends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

PARTS = ("wait", "copy", "work")
_BUSY = 0.7
"""A stage that is busy for a smaller share of its time holds nobody up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProfile:
    """The split of one process, from its first frame on."""

    name: str
    n_frames: int
    elapsed_s: float
    cpu_s: float
    wait_s: float
    copy_s: float
    work_s: float
    threads_s: float = 0.0
    """Processor time of its other threads, such as those that encode."""
    n_threads: int = 0

    @property
    def busy(self) -> float:
        """Share of the time in which its loop, or all of its other threads, had work."""
        if not self.elapsed_s:
            return 0.0
        loop = 1.0 - self.wait_s / self.elapsed_s
        threads = self.threads_s / (self.n_threads * self.elapsed_s) if self.n_threads else 0.0
        return min(1.0, max(loop, threads))


class Stopwatch:
    """Adds up where the time of a loop goes."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.n_threads = 0
        self._began_s = self._cpu_s = self._loop_s = 0.0
        self._n_before = 0

    def begin(self) -> None:
        """Start to count: what came before was starting up."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._began_s = time.perf_counter()
        self._cpu_s, self._loop_s = time.process_time(), time.thread_time()

    @property
    def has_begun(self) -> bool:
        """Tell whether it counts."""
        return self._began_s > 0.0

    def profile(self, name: str, n_frames: int) -> StageProfile:
        """Give the split so far; to be asked for in the thread of the loop."""
        cpu_s = time.process_time() - self._cpu_s
        return StageProfile(
            name=name, n_frames=n_frames, elapsed_s=time.perf_counter() - self._began_s,
            cpu_s=cpu_s, wait_s=self.seconds["wait"], copy_s=self.seconds["copy"],
            work_s=self.seconds["work"],
            threads_s=max(0.0, cpu_s - (time.thread_time() - self._loop_s)),
            n_threads=self.n_threads,
        )  # fmt: skip


def write_profile(folder: Path, profile: StageProfile) -> None:
    """Leave the split of a process in the folder of its session."""
    with suppress(OSError):
        path = folder / f"{profile.name.replace(' ', '-')}.profile"
        path.write_text(json.dumps(asdict(profile)), encoding="utf-8")


def read_profiles(folder: Path) -> list[StageProfile]:
    """Read what the processes of a session left; one that was killed left nothing."""
    return [
        StageProfile(**json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob("*.profile"))
    ]


def bottleneck(profiles: Sequence[StageProfile], *, n_processors: int) -> str:
    """Say what the rate hangs on: a stage, the processors, or the feed."""
    if not profiles:
        return "unknown"
    busiest = max(profiles, key=lambda profile: profile.busy)
    elapsed_s = max(profile.elapsed_s for profile in profiles)
    used = sum(profile.cpu_s for profile in profiles) / elapsed_s if elapsed_s else 0.0
    if used > 0.85 * n_processors:
        return f"the {n_processors} processors, {used:.1f} of them busy; {busiest.name} needs most"
    return busiest.name if busiest.busy > _BUSY else "the feed"
