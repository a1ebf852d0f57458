"""A session whose supervisor is killed leaves what is wanted, and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hrtem_stream.archive.verify import verify
from hrtem_stream.transport.log_format import BOOT_OFFSET, pixels_offset
from hrtem_stream.transport.salvage import SalvagedLog
from hrtem_stream.transport.wire import FRAME_RECORD
from tests.end_to_end.command import Session, call_json, simulated_frames

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npz"
    return simulated_frames(path, n_frames=5, size=128)


def _wait_until(is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it never was so"
        time.sleep(0.05)


def _kill_supervisor(session: Session) -> None:
    """Kill it while frames wait in the log; its stages must die with it."""
    children = session.children()
    children["segment-0"].suspend()
    time.sleep(0.5)
    session.process.kill()
    session.process.communicate()
    psutil.wait_procs(list(children.values()), timeout=10)
    assert not any(child.is_running() for child in children.values())


def test_a_replay_that_is_killed_leaves_nothing_but_its_unfinished_archive(
    frames: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.nxs"
    session = Session("replay", frames, "--segmenter", "bragg", "--output", output, "--rate", 20,
                      "--repeat", 1000)  # fmt: skip
    session.wait_for(Path(f"{output}.part").exists)
    name = f"replay-{session.process.pid}"
    _kill_supervisor(session)
    left = [
        Path("/dev/shm") / f"hrtem-{os.getuid()}-{name}",
        Path(f"/tmp/hrtem-{os.getuid()}/{name}"),
    ]
    _wait_until(lambda: not any(path.exists() for path in left))


def test_after_the_host_went_down_archive_and_log_give_a_complete_file(
    frames: Path, tmp_path: Path
) -> None:
    """One record rots meanwhile, and the next session finishes what it finds before it begins."""
    folder, log_path = tmp_path / "runs", tmp_path / "frames.log"
    config = tmp_path / "session.toml"
    config.write_text(f"""
        session.name = "recovery-{os.getpid()}"
        session.log_level = "WARNING"
        feed.kind = "replay"
        feed.series = "s"
        feed.replay.paths = ["{frames}"]
        feed.replay.rate = 50
        feed.replay.repeat = 1000
        segment.segmenter = "bragg"
        frame_log.path = "{log_path}"
        frame_log.capacity_mib = 16
        archive.directory = "{folder}"
        metrics.enabled = false
    """)
    session = Session("run", config)
    session.wait_for(lambda: any(part.stat().st_size > 50_000 for part in folder.glob("*.part")))
    _kill_supervisor(session)
    log = SalvagedLog.open(log_path)
    waiting = [r for r in log.records.values() if r.ordinal >= log.base and r.kind == FRAME_RECORD]
    n_logged = sum(record.kind == FRAME_RECORD for record in log.records.values())
    log.close()
    assert len(waiting) > 3
    with log_path.open("r+b") as file:
        file.seek(BOOT_OFFSET)
        file.write(b"an earlier boot ")
        file.seek(pixels_offset(waiting[1]) + 1000)
        file.write(b"rot")
    report = call_json("recover", folder, code=3)
    (archive,) = report["archives"]
    assert (archive["received"], archive["lost"]) == (n_logged, 1)
    assert archive["reasons"] == ["damaged in the frame log"]
    assert report["logs"][0]["frames"] == len(waiting) - 1
    assert log_path.exists(), "a damaged log is kept"
    assert verify(archive["archive"]).differences == ()
    again = call_json("recover", folder, "--remove-damaged")
    assert (again["archives"], again["logs"][0]["frames"]) == ([], 0)
    assert not log_path.exists()
    assert not Path(f"/tmp/hrtem-{os.getuid()}/recovery-{os.getpid()}").exists()
