"""Stages started by hand, as on several hosts, and their metrics."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from hrtem_stream import open_archive
from hrtem_stream.runtime.heart import read_beat
from tests.end_to_end.command import COMMAND, Session, call, call_json

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
    assert call_json("verify", archive)["ok"]


def test_a_stage_is_not_started_twice(tmp_path: Path) -> None:
    config = _config(tmp_path, "twice", 10_000, 20.0)
    session = Session("run", config)
    session.wait_for(lambda: len(session.children()) == 4)
    time.sleep(2.0)
    again = call("run", config)
    assert again.returncode == 2
    assert "runs already" in again.stderr
    session.process.send_signal(signal.SIGINT)
    session.finish()


def test_every_stage_serves_its_metrics_while_it_works(tmp_path: Path) -> None:
    config = _config(tmp_path, "metrics", 10_000, 50.0)
    session = Session("run", config)
    runtime = Path(f"/tmp/hrtem-{os.getuid()}/metrics-{os.getpid()}")
    hearts = [runtime / f"{name}.heart" for name in ("ingest", "normalise", "segment-0", "sort")]
    session.wait_for(lambda: all(read_beat(heart).n_done > 5 for heart in hearts))
    for heart in hearts:
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
    session.process.send_signal(signal.SIGINT)
    session.finish()


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
[archive]
directory = "{tmp_path}/runs"
"""
    )
    done = call("run", config)
    assert done.returncode == 4
    assert "nothing came from the feed within 1 s" in done.stderr
    assert not Path(f"/dev/shm/hrtem-{os.getuid()}-none-{os.getpid()}").exists()
