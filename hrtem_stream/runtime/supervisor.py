"""The supervisor: starts the stages, keeps them alive, stops them in order.

It tells a hang (the heart stands still) from slowness (it beats), restarts with back-off, gives up
after eight young deaths in a row or thirty deaths in a minute, and kills before it restarts.
Children die with it.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from hrtem_stream.runtime.heart import read_beat

logger = logging.getLogger(__name__)

POLL_S = 0.02
"""Between two looks whether a process has ended."""
LOOK_S = 0.1
"""Between two looks at a heart, which is a file to be read, and two calls of whoever watches."""
YOUNG_S = 1.0
"""A death is young before this age; or, unless it was killed, before the first frame done."""
FIRST_BACK_OFF_S = 0.1
LONGEST_BACK_OFF_S = 3.2
GIVE_UP_AFTER = 8
MANY_DEATHS, MANY_DEATHS_S = 30, 60.0
"""A stage that ends by itself so often in this time is not to be mended, whatever it did between.
A SIGKILL does not count: it comes from outside."""
STOP_S = 15.0
"""For all stages together: on a loaded machine the end of an interpreter alone takes seconds."""
FINAL_EXITS = frozenset({2, 4, 6})
"""Exits that a restart cannot mend: settings, feed unreachable, archive not writable."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to be kept alive."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    heart: Path
    takes_up: bool = False
    """Whether a restarted one may have much to read before its first frame, as `sort` has."""


@dataclass(slots=True)
class _Child:
    spec: ProcessSpec
    process: subprocess.Popen[bytes]
    started_s: float
    n_young_deaths: int = 0
    deaths_s: list[float] = field(default_factory=list)
    """When it ended by itself of late."""
    n_restarts: int = 0
    restart_at_s: float | None = None
    looked_s: float = -math.inf
    """When its heart was looked at."""
    has_worked: bool = False
    """Whether it, or one before it, has done a frame: then nothing is left to be compiled."""


class GaveUpError(Exception):
    """A stage cannot be kept alive."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Supervisor:
    """Keeps the processes of a session.

    Parameters
    ----------
    specs
        The processes in the order of the data's way. They are started from the last to the first.
    leader
        Name of the process at whose end all is archived, `ingest`; None where it runs on another
        host: then only the user ends the session.
    hang_s, start_up_s, drain_s
        See `SessionSettings`.
    many_deaths
        Deaths of a stage by itself, within `MANY_DEATHS_S`, after which it is given up.
    watch
        Called about ten times a second, for a progress bar.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        leader: str | None,
        hang_s: float,
        start_up_s: float,
        drain_s: float,
        many_deaths: int = MANY_DEATHS,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self._specs = specs
        self._leader = leader
        self._hang_s = hang_s
        self._start_up_s = start_up_s
        self._drain_s = drain_s
        self._many_deaths = many_deaths
        self._watch = watch
        self._children: dict[str, _Child] = {}
        self._n_interrupts = 0
        self._drain_until_s: float | None = None
        self._told_pid = 0
        self._watched_s = -math.inf
        self._looked_ns = self._awake_ns = time.monotonic_ns()
        """When it looked last, and since when it has looked without standing still itself."""

    @property
    def restarts(self) -> dict[str, int]:
        """Restarts of each process so far."""
        return {name: child.n_restarts for name, child in self._children.items()}

    @property
    def n_restarts(self) -> int:
        """Restarts of all processes so far."""
        return sum(child.n_restarts for child in self._children.values())

    def run(self) -> bool:
        """Run until `ingest` is through; tell whether everything ended in order.

        The first SIGINT or SIGTERM drains: `ingest` ends the series, what is on its way is
        archived. A second one stops at once.

        Raises
        ------
        GaveUpError
            A stage failed in a way that a restart does not mend, or failed too often.
        """
        previous = {
            number: signal.signal(number, self._interrupt)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            for spec in reversed(self._specs):
                self._children[spec.name] = _Child(spec, _spawn(spec), time.monotonic())
            return self._keep()
        finally:
            self._kill_all()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._n_interrupts += 1

    def _keep(self) -> bool:
        leader = self._children[self._leader] if self._leader else None
        while True:
            self._let_watch()
            self._excuse_a_host_that_stood_still()
            if self._n_interrupts > 1:
                logger.warning("stopped at once; the archive opens as it is")
                self._stop_others(())
                return False
            if self._n_interrupts and self._drain_until_s is None:
                logger.warning("stopping: what is on its way is archived; Ctrl-C again: at once")
                self._drain_until_s = time.monotonic() + self._drain_s
            if leader is None and self._drain_until_s is not None:
                return self._leave()
            self._tell_to_drain(leader)
            if self._drain_until_s is not None and time.monotonic() > self._drain_until_s:
                logger.error("not everything could be archived within %g s", self._drain_s)
                return False
            if leader is not None and leader.process.poll() == 0:
                self._stop_others([spec for spec in self._specs if spec is not leader.spec])
                return True
            for child in self._children.values():
                self._tend(child)
            time.sleep(POLL_S)

    def _let_watch(self) -> None:
        now_s = time.monotonic()
        if now_s - self._watched_s >= LOOK_S:
            self._watched_s = now_s
            self._watch()

    def _leave(self) -> bool:
        """Let the stages of this host work off what is on its way to them; tell if they could."""
        self._terminate(self._specs)
        while any(child.process.poll() is None for child in self._children.values()):
            self._let_watch()
            if self._n_interrupts > 1:
                logger.warning("stopped at once: what was on its way here is sent again")
                return False
            if self._drain_until_s is not None and time.monotonic() > self._drain_until_s:
                logger.warning("not through within %g s: the rest is sent again", self._drain_s)
                break
            time.sleep(POLL_S)
        return True

    def _tell_to_drain(self, leader: _Child | None) -> None:
        """Tell `ingest` to end, once it is able to hear it."""
        if leader is None or self._drain_until_s is None or leader.process.pid == self._told_pid:
            return
        if read_beat(leader.spec.heart).pid == leader.process.pid:
            self._told_pid = leader.process.pid
            leader.process.terminate()

    def _tend(self, child: _Child) -> None:
        """Restart a child that died or hangs."""
        now_s = time.monotonic()
        if child.restart_at_s is not None:
            if now_s >= child.restart_at_s:
                child.process = _spawn(child.spec)
                child.started_s = now_s
                child.restart_at_s = None
                child.n_restarts += 1
            return
        code = child.process.poll()
        if code is None:
            if now_s - child.looked_s < LOOK_S:
                return
            child.looked_s = now_s
            if self._hangs(child, now_s):
                logger.error("%s hangs and is killed", child.spec.name)
                child.process.kill()
                child.process.wait()
            return
        if code == 0 and child.spec.name == self._leader:
            return  # it came through after the last look
        if code in FINAL_EXITS:
            raise GaveUpError(f"{child.spec.name} cannot go on", code)
        beat = read_beat(child.spec.heart)
        was_useful = beat.pid == child.process.pid and beat.n_done > 0
        broke = code != -signal.SIGKILL and not was_useful
        is_young = broke or now_s - child.started_s < YOUNG_S
        child.n_young_deaths = child.n_young_deaths + 1 if is_young else 0
        if child.n_young_deaths >= GIVE_UP_AFTER:
            raise GaveUpError(
                f"{child.spec.name} died {GIVE_UP_AFTER} times in a row before it did anything", 1
            )
        if code != -signal.SIGKILL:
            child.deaths_s = [s for s in child.deaths_s if s > now_s - MANY_DEATHS_S] + [now_s]
        if len(child.deaths_s) >= self._many_deaths:
            raise GaveUpError(
                f"{child.spec.name} died {len(child.deaths_s)} times within {MANY_DEATHS_S:g} s, "
                f"the last time of {_describe_exit(code)}",
                1,
            )
        back_off_s = 0.0
        if child.n_young_deaths:
            doubled = FIRST_BACK_OFF_S * 2 ** (child.n_young_deaths - 1)
            back_off_s = min(doubled, LONGEST_BACK_OFF_S)
        logger.error("%s ended (%s) and is started again", child.spec.name, _describe_exit(code))
        child.restart_at_s = now_s + back_off_s

    def _hangs(self, child: _Child, now_s: float) -> bool:
        beat = read_beat(child.spec.heart)
        if beat.pid != child.process.pid or beat.beat_ns == 0:
            return now_s - child.started_s > self._start_up_s
        # The first frame may find something to compile that start-up did not foresee.
        child.has_worked = child.has_worked or beat.n_done > 0
        is_warm = beat.n_done > 0 if child.spec.takes_up else child.has_worked
        limit_s = self._hang_s if is_warm else max(self._hang_s, self._start_up_s)
        return time.monotonic_ns() - max(beat.beat_ns, self._awake_ns) > limit_s * 1e9

    def _excuse_a_host_that_stood_still(self) -> None:
        """Let hearts that could not beat, as nothing on this host could run, count from now."""
        now_ns = time.monotonic_ns()
        still_s = (now_ns - self._looked_ns) / 1e9
        if still_s > 0.5 * self._hang_s:
            logger.warning("this host stood still for %.1f s", still_s)
            self._awake_ns = now_ns
        self._looked_ns = now_ns

    def _stop_others(self, specs: Sequence[ProcessSpec]) -> None:
        """Stop stages in the order of the data's way, with time to finish."""
        self._terminate(specs)
        deadline_s = time.monotonic() + STOP_S
        for spec in specs:
            child = self._children[spec.name]
            if not _has_begun(child):
                # Starting up can take longer than the time to stop, and it holds nothing yet.
                child.process.kill()
                child.process.wait()
                continue
            try:
                code = child.process.wait(max(0.0, deadline_s - time.monotonic()))
                if code:
                    logger.warning("%s: %s", spec.name, _describe_exit(code))
            except subprocess.TimeoutExpired:
                logger.warning("%s did not stop within %g s and is killed", spec.name, STOP_S)

    def _terminate(self, specs: Sequence[ProcessSpec]) -> None:
        for spec in specs:
            child = self._children[spec.name]
            if child.restart_at_s is None:
                child.process.terminate()

    def _kill_all(self) -> None:
        for child in self._children.values():
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()


def _has_begun(child: _Child) -> bool:
    """Tell whether the loop of a process has turned."""
    beat = read_beat(child.spec.heart)
    return beat.pid == child.process.pid and beat.beat_ns > 0


def _spawn(spec: ProcessSpec) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        spec.command,
        env={**os.environ, **spec.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        process_group=0,  # the terminal's Ctrl-C is for the supervisor alone
    )


def _describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
