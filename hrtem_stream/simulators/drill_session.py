"""The session that a drill torments: its command, its processes, and what `sort` acknowledges."""

from __future__ import annotations

import bisect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import zmq

from hrtem_stream.errors import HrtemError, WireError
from hrtem_stream.runtime.heart import Beat, read_beat
from hrtem_stream.settings import Settings, flatten
from hrtem_stream.transport.delivery import Acknowledgement

START_S = 180.0
END_S = 90.0
RUN = """
import signal
from hrtem_stream.cli import main
from hrtem_stream.runtime.process import hear_of_parents_death
hear_of_parents_death(signal.SIGTERM)
main()
"""
"""`hrtem-stream`, but stopping in order when the drill is killed."""
ENDED_WELL = (0, 3)
"""Exit codes of a session that ended in order: without losses, and with declared ones."""


class DrillError(HrtemError):
    """A drill cannot go on: what it tells was not promised by anybody."""


class Session:
    """`hrtem-stream run` in processes of its own, started anew when its supervisor is killed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.n_processes = 3 + settings.segment.workers
        self._folder = folder
        self._config = folder / "drill.toml"
        lines = flatten(settings.model_dump(mode="json"))
        self._config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def stages(self) -> list[str]:
        """Names of the stage processes."""
        workers = [f"segment-{number}" for number in range(self.settings.segment.workers)]
        return ["ingest", "normalise", *workers, "sort"]

    @property
    def log(self) -> str:
        """What the session has written to stderr."""
        return (self._folder / "session.log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start the command."""
        command = [sys.executable, "-c", RUN, "run", str(self._config), "--json"]
        with (
            (self._folder / "session.log").open("ab") as log,
            (self._folder / "session.json").open("wb") as out,
        ):
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, process_group=0,
                )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Wait until every stage has a heart that beats.

        Raises
        ------
        DrillError
            The session ended, or took too long.
        """
        deadline = time.monotonic() + START_S
        while any(self.pid(stage) == 0 or self.beat(stage).beat_ns == 0 for stage in self.stages):
            self.check()
            if time.monotonic() > deadline:
                raise DrillError(f"the stages did not start within {START_S:g} s")
            time.sleep(0.02)

    def check(self) -> None:
        """Look whether the session still runs.

        Raises
        ------
        DrillError
            It has ended by itself.
        """
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            raise DrillError(f"the session ended by itself, exit {code}: {self.log[-2000:]}")

    def beat(self, stage: str) -> Beat:
        """Read the last beat of a stage."""
        return read_beat(self.settings.runtime_directory / f"{stage}.heart")

    def pid(self, stage: str) -> int:
        """Give the process that is a stage now, 0 while there is none."""
        pid = self.beat(stage).pid
        return pid if pid and _is_stage(pid, self.settings.runtime_directory) else 0

    def kill_supervisor(self) -> None:
        """Kill the supervisor, wait until its stages have died with it, and start it anew."""
        if self._process is None:
            return
        pids = [self.pid(stage) for stage in self.stages]
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + 10.0
        while any(pid and _is_stage(pid, self.settings.runtime_directory) for pid in pids):
            if time.monotonic() > deadline:
                raise DrillError("a stage outlived its supervisor by 10 s")
            time.sleep(0.01)
        self.start()

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; give the exit code and what went to stdout.

        Raises
        ------
        DrillError
            The session did not end in time.
        """
        if self._process is None:
            return 0, ""
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            raise DrillError(f"the session did not end within {END_S:g} s of Ctrl-C") from None
        return code, (self._folder / "session.json").read_text(encoding="utf-8")

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class SettledTimes:
    """When each record was settled: a witness that hears the acknowledgements of `sort`.

    It has a clock of its own, so a jump of the stages' clocks does not touch it.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._times: dict[int, list[float]] = defaultdict(list)
        self._bases: dict[int, list[int]] = defaultdict(list)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def settled_s(self, log_id: int, ordinal: int) -> float | None:
        """Tell when a record was settled, on the monotonic clock; None if that was not heard."""
        with self._lock:
            at = bisect.bisect_right(self._bases[log_id], ordinal)
            return self._times[log_id][at] if at < len(self._times[log_id]) else None

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, 20)
            socket.subscribe(b"")
            socket.connect(self._endpoint)
            while not self._stopping.is_set():
                if socket.poll(100):
                    self._take(socket.recv_multipart()[-1], time.monotonic())

    def _take(self, packed: bytes, now_s: float) -> None:
        try:
            state = Acknowledgement.decode(packed)
        except WireError:
            return
        with self._lock:
            bases = self._bases[state.log_id]
            if not bases or state.base > bases[-1]:
                bases.append(state.base)
                self._times[state.log_id].append(now_s)


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    if pid:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def _is_stage(pid: int, runtime: Path) -> bool:
    """Tell whether a process is still the stage that wrote its number down, and not a zombie."""
    try:
        return os.fsencode(runtime) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
