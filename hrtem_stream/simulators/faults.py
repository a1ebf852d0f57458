"""Faults that a drill injects into a session, at random but as the seed says.

Each one is injected from outside, as it would come: signals to the processes, a ballast file on
the disk of the archive, a watcher that does not read. Two act inside, see `injected`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import zmq

from hrtem_stream.simulators.drill_feed import DrillFeed
from hrtem_stream.simulators.drill_session import Session, signal_process
from hrtem_stream.simulators.injected import segmenter_path, set_clock

SLOW_STEP_S: Final = 0.01
"""A stage that runs one such step in ten is ten times as slow."""
LIVES_WAIT_S: Final = 10.0
WRITE_WAIT_S: Final = 2.0
CUT_WAIT_S: Final = 120.0
SETTLED_S: Final = 1.0
BALLAST_STEPS: Final = (8 << 20, 1 << 20, 1 << 12)
JUMPS_S: Final = (-3600.0, -1.0, 1.0, 3600.0, 86_400.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that was injected."""

    kind: str
    began_s: float
    """Monotonic clock, as all times here."""
    ended_s: float
    """When the cause was gone; a kill is gone at once."""
    ends_ingest: bool
    """Whether `ingest` died of it, with what lay in its socket."""
    fault_of: str = ""
    """What the supervisor did wrong, empty when it did right."""


class SmallDisk:
    """The disk of the archives: a small one of its own, that can be filled.

    Parameters
    ----------
    folder
        Where it is mounted.
    size_mib
        Its size.
    """

    def __init__(self, folder: Path, size_mib: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)],
            capture_output=True, check=False,
        )  # fmt: skip
        self.is_small = mounted.returncode == 0
        """Whether it could be mounted; else nothing is ever filled."""

    def fill(self) -> None:
        """Leave no room."""
        n_bytes = 0
        with self._ballast.open("wb") as file:
            for step in BALLAST_STEPS:  # others write meanwhile, so it is taken bit by bit
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), n_bytes, step)
                        n_bytes += step

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Remove the disk with all that is on it."""
        if self.is_small:
            subprocess.run(["umount", "-l", str(self._folder)], capture_output=True, check=False)

    @property
    def _ballast(self) -> Path:
        return self._folder / "ballast"


class Injector:
    """Injects faults into one session.

    Parameters
    ----------
    session, feed, disk
        What they are done to.
    drill_folder
        Through which clock and segmenter are steered.
    may_kill_supervisor
        Whether the feed stands it: a PUB feed loses whole series meanwhile.
    """

    def __init__(
        self,
        session: Session,
        feed: DrillFeed,
        disk: SmallDisk,
        *,
        drill_folder: Path,
        may_kill_supervisor: bool,
        rng: np.random.Generator,
    ) -> None:
        self.faults: list[Fault] = []
        self._session = session
        self._feed = feed
        self._disk = disk
        self._folder = drill_folder
        self._rng = rng
        self._watchers: list[tuple[zmq.Context[zmq.Socket[bytes]], float]] = []
        self._victim = ""
        self._actions: dict[str, Callable[[], str]] = {
            **{f"kill_{stage}": partial(self._kill, [stage]) for stage in session.stages},
            "kill_several": lambda: self._kill(self._several()),
            "kill_all_stages": lambda: self._kill(session.stages),
            "kill_sort_while_writing": self._kill_sort_while_writing,
            "kill_twice": self._kill_twice,
            "stop": lambda: self._stop([self._any_stage()]),
            "stop_several": lambda: self._stop(self._several()),
            "slow": lambda: self._slow(self._any_stage()),
            "hang": lambda: self._hang(self._any_stage()),
            "full_frame_log": self._fill_log,
            "segmenter_failure": self._fail_segmenter,
            "clock_jump": self._jump,
            "stalled_watcher": self._stall_watcher,
            "series_cut": self._cut,
        }
        if disk.is_small:
            self._actions["full_disk"] = self._fill_disk
        if may_kill_supervisor:
            self._actions["kill_supervisor"] = self._kill_supervisor
        self._queue: list[str] = []

    @property
    def kinds(self) -> list[str]:
        """Kinds of fault that can be injected here."""
        return list(self._actions)

    def inject_next(self) -> Fault:
        """Inject a fault: each kind comes once, in random order, before one comes again."""
        if not self._queue:
            self._queue = [str(kind) for kind in self._rng.permutation(self.kinds)]
        return self.inject(self._queue.pop())

    def inject(self, kind: str) -> Fault:
        """Inject a fault of a kind, and return when its cause is gone."""
        self._victim = ""
        before = self._session.beat("ingest").pid
        began_s = time.monotonic()
        wrong = self._actions[kind]()
        ended_s = time.monotonic()
        self._wait_for_ingest()
        ends_ingest = self._session.beat("ingest").pid != before
        name = f"{kind}_{self._victim}" if self._victim else kind
        fault = Fault(name, began_s, ended_s, ends_ingest, wrong)
        self.faults.append(fault)
        return fault

    def relax(self) -> None:
        """Take every lasting fault away."""
        self._disk.free()
        set_clock(self._folder, 0)
        segmenter_path(self._folder).unlink(missing_ok=True)
        self._release_watchers(0.0)

    def _kill(self, stages: list[str]) -> str:
        self._wait(lambda: all(self._session.pid(stage) for stage in stages))
        victims = {stage: self._session.pid(stage) for stage in stages}
        for pid in victims.values():
            signal_process(pid, signal.SIGKILL)
        self._wait(lambda: all(self._session.pid(stage) != victims[stage] for stage in stages))
        return ""

    def _kill_twice(self) -> str:
        """Kill a stage, and its successor as soon as it lives."""
        stage = self._any_stage()
        first = self._session.pid(stage)
        self._kill([stage])
        self._wait(lambda: self._session.pid(stage) not in (0, first))
        time.sleep(float(self._rng.uniform(0, 0.3)))
        return self._kill([stage])

    def _kill_supervisor(self) -> str:
        self._session.kill_supervisor()
        return ""

    def _kill_sort_while_writing(self) -> str:
        """Kill `sort` when the file that it writes has just begun to grow."""
        folder = Path(self._session.settings.archive.directory)
        before = _part_sizes(folder)
        deadline = time.monotonic() + WRITE_WAIT_S
        while time.monotonic() < deadline:
            now = _part_sizes(folder)
            if any(now[path] > before.get(path, now[path]) for path in now):
                break
            before = now
            time.sleep(0.0005)
        return self._kill(["sort"])

    def _stop(self, stages: list[str]) -> str:
        """Stop processes for less than a hang, and let them go on."""
        hang_s = self._session.settings.session.hang_s
        pids = {stage: self._session.pid(stage) for stage in stages}
        for pid in pids.values():
            signal_process(pid, signal.SIGSTOP)
        time.sleep(float(self._rng.uniform(0.2, 0.6)) * hang_s)
        for pid in pids.values():
            signal_process(pid, signal.SIGCONT)
        return self._unless_same(pids)

    def _slow(self, stage: str) -> str:
        """Make a stage ten times as slow, by letting it run one step in ten."""
        pid = self._session.pid(stage)
        until_s = time.monotonic() + float(self._rng.uniform(1.0, 3.0))
        while time.monotonic() < until_s:
            signal_process(pid, signal.SIGSTOP)
            time.sleep(9 * SLOW_STEP_S)
            signal_process(pid, signal.SIGCONT)
            time.sleep(SLOW_STEP_S)
        return self._unless_same({stage: pid})

    def _hang(self, stage: str) -> str:
        """Stop a process until the supervisor takes it for hanging and kills it."""
        self._wait(lambda: self._session.beat(stage).n_done > 0)
        has_worked = self._session.beat(stage).n_done > 0
        pid = self._session.pid(stage)
        hang_s = self._session.settings.session.hang_s
        signal_process(pid, signal.SIGSTOP)
        self._wait(lambda: self._session.pid(stage) != pid, hang_s + LIVES_WAIT_S)
        hangs = self._session.pid(stage) == pid
        signal_process(pid, signal.SIGCONT)
        return f"{stage} hung and was not killed" if pid and hangs and has_worked else ""

    def _fill_disk(self) -> str:
        self._disk.fill()
        time.sleep(float(self._rng.uniform(1.5, 4.0)))
        self._disk.free()
        return ""

    def _fill_log(self) -> str:
        """Stop `sort` until the frame log is full, or nearly as long as a hang takes."""
        pid = self._session.pid("sort")
        signal_process(pid, signal.SIGSTOP)
        time.sleep(0.7 * self._session.settings.session.hang_s)
        signal_process(pid, signal.SIGCONT)
        return self._unless_same({"sort": pid})

    def _fail_segmenter(self) -> str:
        segmenter_path(self._folder).touch()
        time.sleep(float(self._rng.uniform(0.5, 2.0)))
        segmenter_path(self._folder).unlink(missing_ok=True)
        return ""

    def _jump(self) -> str:
        set_clock(self._folder, round(float(self._rng.choice(JUMPS_S)) * 1e9))
        time.sleep(float(self._rng.uniform(0.5, 2.0)))
        set_clock(self._folder, 0)
        return ""

    def _stall_watcher(self) -> str:
        """Let a watcher connect that never reads; it stays for a while."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.subscribe(b"")
        socket.connect(self._session.settings.endpoint("summaries"))
        now_s = time.monotonic()
        self._release_watchers(now_s)
        self._watchers.append((context, now_s + 20.0))
        return ""

    def _release_watchers(self, now_s: float) -> None:
        for context, until_s in list(self._watchers):
            if not now_s or now_s > until_s:
                self._watchers.remove((context, until_s))
                context.destroy(linger=0)

    def _cut(self) -> str:
        """Let the feed break off its series, once `ingest` hears it for certain."""
        time.sleep(SETTLED_S)
        self._feed.cut = True
        self._wait(lambda: not self._feed.cut, CUT_WAIT_S)
        return ""

    def _any_stage(self) -> str:
        self._victim = str(self._rng.choice(self._session.stages))
        return self._victim

    def _several(self) -> list[str]:
        stages = self._session.stages
        n_victims = int(self._rng.integers(2, len(stages)))
        return [str(stage) for stage in self._rng.choice(stages, n_victims, replace=False)]

    def _unless_same(self, pids: dict[str, int]) -> str:
        """Say which processes were not left alone although they were merely slow."""
        changed = [stage for stage, pid in pids.items() if pid and self._session.pid(stage) != pid]
        return f"slow, yet ended: {', '.join(changed)}" if changed else ""

    def _wait_for_ingest(self) -> None:
        """Wait until `ingest`, or its successor, works."""
        self._wait(
            lambda: self._session.pid("ingest") > 0 and self._session.beat("ingest").beat_ns > 0
        )

    def _wait(self, is_so: Callable[[], bool], timeout_s: float = LIVES_WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so() and time.monotonic() < deadline:
            time.sleep(0.005)


def _part_sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    for path in folder.glob("*.part"):
        try:
            sizes[path.name] = path.stat().st_size
        except OSError:
            continue
    return sizes
