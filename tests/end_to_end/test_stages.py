"""Stages started by hand, as on several hosts, and their metrics."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrtem_stream import open_archive
from hrtem_stream.archive.verify import verify
from hrtem_stream.runtime.heart import read_beat
from tests.end_to_end.command import COMMAND, Session, call

pytestmark = pytest.mark.processes

METRICS = (
    "hrtem_frames_received_total", "hrtem_frames_sent_total", "hrtem_stage_seconds_bucket",
    "hrtem_frame_age_seconds_bucket", "hrtem_queue_frames", "hrtem_in_progress_frames",
    "hrtem_republished_frames_total", "hrtem_duplicate_messages_total",
    "hrtem_graphene_ratio_bucket", "hrtem_raw_bytes_total", "hrtem_stored_bytes_total",
    "hrtem_frame_log_fill_ratio", "hrtem_ledger_imbalance", "hrtem_build_info",
)  # fmt: skip


def _config(folder: Path, name: str, n_frames: int, rate: float) -> Path:
    path = folder / "stages.toml"
    path.write_text(
        f"""
[session]
name = "{name}-{os.getpid()}"
[feed.simulated]
n_frames = {n_frames}
size = 256
rate = {rate}
[frame_log]
capacity_mib = 32
[segment]
segmenter = "bragg"
[metrics]
port = 0
[archive]
directory = "{folder}/runs"
"""
    )
    return path


def test_stages_started_one_by_one_in_any_order_make_a_whole_archive(tmp_path: Path) -> None:
    config = _config(tmp_path, "hand", 15, 50.0)
    stages = {
        name: subprocess.Popen(
            [*COMMAND, "stage", name, str(config)], stderr=subprocess.PIPE, text=True
        )
        for name in ("ingest", "sort", "segment", "normalise")
    }
    try:
        assert stages["ingest"].wait(90) == 0
        for name in ("normalise", "segment", "sort"):
            stages[name].send_signal(signal.SIGTERM)
            assert stages[name].wait(30) == 0
    finally:
        for stage in stages.values():
            stage.kill()
            stage.communicate()
    (archive,) = (tmp_path / "runs").glob("*.nxs")
    with open_archive(archive) as opened:
        assert len(opened) == 15
    assert not Path(f"/dev/shm/hrtem-{os.getuid()}-hand-{os.getpid()}").exists()
    assert verify(archive).differences == ()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Path]]:
    """Give a session that has done some frames, and its settings."""
    config = _config(tmp_path_factory.mktemp("running"), "running", 100_000, 20.0)
    session = Session("run", config)
    Session.running.remove(session)  # it outlives the first test
    try:
        session.wait_for(lambda: all(read_beat(heart).n_done > 5 for heart in _hearts()))
        yield session, config
        session.process.send_signal(signal.SIGINT)
        session.finish()
    finally:
        session.process.kill()
        session.process.communicate()


def _hearts() -> list[Path]:
    runtime = Path(f"/tmp/hrtem-{os.getuid()}/running-{os.getpid()}")
    return [runtime / f"{name}.heart" for name in ("ingest", "normalise", "segment-0", "sort")]


def test_a_session_is_not_started_twice(running: tuple[Session, Path]) -> None:
    session, config = running
    stages = {name: child.pid for name, child in session.children().items()}
    again = call("run", config)
    assert again.returncode == 2
    assert "runs already" in again.stderr
    assert {name: child.pid for name, child in session.children().items()} == stages


def test_every_stage_serves_its_metrics_while_it_works(running: tuple[Session, Path]) -> None:
    for heart in _hearts():
        port = read_beat(heart).metrics_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert all(name in text for name in METRICS)
        received = next(
            line for line in text.splitlines() if line.startswith("hrtem_frames_received_total{")
        )
        assert float(received.split()[-1]) > 5
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            assert answer.status == 200


def test_a_feed_from_which_nothing_comes_is_unreachable(tmp_path: Path) -> None:
    config = tmp_path / "none.toml"
    config.write_text(
        f"""
[session]
name = "none-{os.getpid()}"
[feed]
kind = "native"
[feed.native]
endpoint = "ipc://{tmp_path}/nobody"
[ingest]
first_item_s = 1.0
[segment]
segmenter = "bragg"
[archive]
directory = "{tmp_path}/runs"
"""
    )
    done = call("run", config)
    assert done.returncode == 4
    assert "nothing came from the feed within 1 s" in done.stderr
    assert not Path(f"/dev/shm/hrtem-{os.getuid()}-none-{os.getpid()}").exists()
