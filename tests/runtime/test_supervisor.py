"""The supervisor, with small processes of real Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hrtem_stream.runtime.supervisor import GaveUpError, ProcessSpec, Supervisor

pytestmark = pytest.mark.processes

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.process import StopRequest, die_with_parent
folder = Path(sys.argv[1])
die_with_parent(int(sys.argv[2]))
stop = StopRequest()
heart = Heart(folder / sys.argv[3])
"""
PATIENT = PRELUDE + "while not stop.is_set: heart.beat(); time.sleep(0.01)\n"


def _spec(folder: Path, name: str, script: str) -> ProcessSpec:
    command = [sys.executable, "-c", textwrap.dedent(script), str(folder), str(os.getpid()), name]
    return ProcessSpec(name, command, {}, folder / name)


def _supervisor(folder: Path, scripts: dict[str, str], **changes: Any) -> Supervisor:
    specs = [_spec(folder, name, text) for name, text in scripts.items()]
    usual = {"leader": specs[0].name, "hang_s": 1.0, "start_up_s": 20.0, "drain_s": 10.0}
    return Supervisor(specs, **usual | changes)


def test_it_ends_when_the_first_process_is_through_and_stops_the_others(tmp_path: Path) -> None:
    first = PRELUDE + "heart.beat(); time.sleep(0.2)\n"
    last = PATIENT + "(folder / 'stopped').touch()\n"
    assert _supervisor(tmp_path, {"ingest": first, "sort": last}).run()
    assert (tmp_path / "stopped").exists()


def test_without_ingest_only_the_user_ends_the_session(tmp_path: Path) -> None:
    briefly = (
        PRELUDE
        + """
again = (folder / 'once').exists()
(folder / 'once').touch()
heart.n_done = 1
heart.beat()
if again:
    os.kill(int(sys.argv[2]), signal.SIGINT)
    while not stop.is_set: heart.beat(); time.sleep(0.01)
    (folder / 'stopped').touch()
"""
    )
    supervisor = _supervisor(tmp_path, {"segment-0": briefly}, leader=None)
    assert supervisor.run()
    assert supervisor.n_restarts == 1
    assert (tmp_path / "stopped").exists()


def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    first = PRELUDE + "while not (folder / 'second').exists(): heart.beat(); time.sleep(0.01)\n"
    fragile = (
        PRELUDE
        + """
again = (folder / 'once').exists()
(folder / 'once').touch()
if not again:
    os.kill(os.getpid(), signal.SIGKILL)
(folder / 'second').touch()
while not stop.is_set: heart.beat(); time.sleep(0.01)
"""
    )
    supervisor = _supervisor(tmp_path, {"ingest": first, "segment": fragile})
    assert supervisor.run()
    assert supervisor.n_restarts == 1


def test_a_hang_is_told_from_slowness_and_killed(tmp_path: Path) -> None:
    first = PRELUDE + "while not (folder / 'second').exists(): heart.beat(); time.sleep(0.01)\n"
    hanging = (
        PRELUDE
        + """
heart.n_done = 1
heart.beat()
if (folder / 'once').exists():
    (folder / 'second').touch()
    while not stop.is_set: heart.beat(); time.sleep(0.01)
(folder / 'once').touch()
time.sleep(60)
"""
    )
    supervisor = _supervisor(tmp_path, {"ingest": first, "segment": hanging}, hang_s=0.5)
    assert supervisor.run()
    assert supervisor.n_restarts == 1


def test_no_hang_is_seen_where_the_whole_host_stood_still(tmp_path: Path) -> None:
    """A suspended or starved machine stops the supervisor with its stages."""
    first = PRELUDE + "while not (folder / 'through').exists(): heart.beat(); time.sleep(0.01)\n"
    second = (
        PRELUDE
        + """
heart.n_done = 1
heart.beat()
(folder / 'began').touch()
while not (folder / 'still').exists(): heart.beat(); time.sleep(0.01)
time.sleep(1.8)
(folder / 'through').touch()
while not stop.is_set: heart.beat(); time.sleep(0.01)
"""
    )

    def stand_still() -> None:
        if (tmp_path / "began").exists() and not (tmp_path / "still").exists():
            (tmp_path / "still").touch()
            time.sleep(1.5)

    scripts = {"ingest": first, "segment": second}
    supervisor = _supervisor(tmp_path, scripts, hang_s=1.0, watch=stand_still)
    assert supervisor.run()
    assert supervisor.n_restarts == 0


def test_a_successor_that_hangs_before_its_first_frame_is_killed_as_soon(tmp_path: Path) -> None:
    """What the first one had to compile at start-up is there for the second."""
    first = PRELUDE + "while not (folder / 'third').exists(): heart.beat(); time.sleep(0.01)\n"
    fragile = (
        PRELUDE
        + """
n_before = len(list(folder.glob('start*')))
(folder / f'start{n_before}').touch()
heart.n_done = int(n_before == 0)
heart.beat()
if n_before == 0:
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
if n_before == 1:
    time.sleep(60)
(folder / 'third').touch()
while not stop.is_set: heart.beat(); time.sleep(0.01)
"""
    )
    supervisor = _supervisor(tmp_path, {"ingest": first, "sort": fragile}, start_up_s=60.0)
    began = time.monotonic()
    assert supervisor.run()
    assert supervisor.n_restarts == 2
    assert time.monotonic() - began < 30


def test_a_successor_that_takes_up_much_before_its_first_frame_is_left_alone(
    tmp_path: Path,
) -> None:
    first = PRELUDE + "while not (folder / 'resumed').exists(): heart.beat(); time.sleep(0.01)\n"
    resuming = (
        PRELUDE
        + """
again = (folder / 'once').exists()
(folder / 'once').touch()
heart.n_done = int(not again)
heart.beat()
time.sleep(1.0 if again else 0.1)
if not again:
    os.kill(os.getpid(), signal.SIGKILL)
(folder / 'resumed').touch()
while not stop.is_set: heart.beat(); time.sleep(0.01)
"""
    )
    scripts = {"ingest": first, "sort": resuming}
    specs = [
        replace(_spec(tmp_path, name, text), takes_up=name == "sort")
        for name, text in scripts.items()
    ]
    supervisor = Supervisor(specs, leader="ingest", hang_s=0.5, start_up_s=20.0, drain_s=10.0)
    assert supervisor.run()
    assert supervisor.n_restarts == 1


def test_it_gives_up_on_a_process_that_never_does_anything(tmp_path: Path) -> None:
    supervisor = _supervisor(tmp_path, {"ingest": PATIENT, "segment": "raise SystemExit(1)"})
    with pytest.raises(GaveUpError, match="segment died 8 times"):
        supervisor.run()


def test_it_gives_up_on_a_process_that_dies_again_and_again_after_some_work(tmp_path: Path) -> None:
    useful = PRELUDE + "heart.n_done = 1; heart.beat(); sys.exit(1)\n"
    with pytest.raises(GaveUpError, match=r"segment-0 died 4 times within 60 s.*exit 1") as gave_up:
        _supervisor(tmp_path, {"ingest": PATIENT, "segment-0": useful}, many_deaths=4).run()
    assert gave_up.value.exit_code == 1


def test_an_exit_that_a_restart_cannot_mend_ends_the_session_at_once(tmp_path: Path) -> None:
    supervisor = _supervisor(tmp_path, {"ingest": "raise SystemExit(4)", "sort": PATIENT})
    with pytest.raises(GaveUpError) as error:
        supervisor.run()
    assert error.value.exit_code == 4


def test_a_process_that_still_starts_up_at_the_end_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = PRELUDE + "while not (folder / 'ready').exists(): heart.beat(); time.sleep(0.01)\n"
    starting = PRELUDE + "(folder / 'ready').touch(); time.sleep(60)\n"
    assert _supervisor(tmp_path, {"ingest": first, "segment-0": starting}).run()
    assert caplog.records == []


def test_the_first_interrupt_drains_and_the_second_stops_at_once(tmp_path: Path) -> None:
    draining = PRELUDE + "while not stop.is_set: heart.beat(); time.sleep(0.01)\n"
    stubborn = PRELUDE + "while True: heart.beat(); time.sleep(0.01)\n"

    def interrupt(n_times: int) -> None:
        time.sleep(1.5)
        for _ in range(n_times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    for script, n_times, in_order in ((draining, 1, True), (stubborn, 2, False)):
        thread = threading.Thread(target=interrupt, args=(n_times,))
        thread.start()
        assert _supervisor(tmp_path, {"ingest": script, "sort": PATIENT}).run() is in_order
        thread.join()


def test_children_die_with_their_supervisor(tmp_path: Path) -> None:
    child_script = (
        PRELUDE
        + """
(folder / 'pid').write_text(str(os.getpid()))
while True: heart.beat(); time.sleep(0.01)
"""
    )
    script = f"""
import os, sys
from pathlib import Path
from hrtem_stream.runtime.supervisor import ProcessSpec, Supervisor
folder = {str(tmp_path)!r}
command = [sys.executable, "-c", {child_script!r}, folder, str(os.getpid()), "ingest"]
spec = ProcessSpec("ingest", command, {{}}, Path(folder) / "ingest")
Supervisor([spec], leader="ingest", hang_s=5, start_up_s=20, drain_s=5).run()
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script])
    with supervisor:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.05)
        child = int((tmp_path / "pid").read_text())
        supervisor.kill()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()
