"""The job script of a cluster, with a stand-in for Slurm: workers come, work, and leave in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from hrtem_stream.runtime.heart import read_beat
from tests.end_to_end.command import COMMAND, Session, simulated_frames
from tests.end_to_end.test_feeds import free_port

pytestmark = pytest.mark.processes

CONFIG = Path(__file__).parents[2] / "config"
N_FRAMES = 200


def test_a_worker_that_slurm_starts_joins_and_leaves_when_its_time_is_over(tmp_path: Path) -> None:
    frames = tmp_path / "frames.npz"
    simulated_frames(frames, n_frames=10, size=256)
    ports = {"normalised": free_port(), "segmented": free_port()}
    options = []
    for name, port in ports.items():
        options += ["--set", f"endpoints.{name}=tcp://127.0.0.1:{port}"]
    given = {
        "session.name": f"microscope-{os.getpid()}", "metrics.port": 0, "page.enabled": False,
        "session.runtime_directory": str(tmp_path / "run"), "frame_log.capacity_mib": 64,
        "archive.file": str(tmp_path / "out.nxs"), "feed.kind": "replay",
        "feed.replay.paths": [str(frames)], "feed.replay.rate": 20.0,
        "feed.replay.repeat": N_FRAMES // 10,
        "session.stages": ["ingest", "normalise", "segment", "sort"], "segment.here": [0],
    }  # fmt: skip
    for key, value in given.items():
        options += ["--set", f"{key}={json.dumps(value)}"]
    session = Session(
        "run", CONFIG / "several-gpus" / "microscope.toml", *options, "--json",
        "--set", "segment.segmenter=bragg",
    )  # fmt: skip
    job = _submit(tmp_path, index=3, ports=ports)
    try:
        heart = tmp_path / "hrtem-segment-3" / "segment-3.heart"
        session.wait_for(lambda: read_beat(heart).n_done > 10)
        job.send_signal(signal.SIGTERM)
        said, _ = job.communicate(timeout=60)
        assert job.returncode == 0, said
    finally:
        job.kill()
        job.communicate()
    (report,) = json.loads(session.finish()[0])["archives"]
    assert (report["received"], report["archived"], report["lost"]) == (N_FRAMES, N_FRAMES, 0)


def _submit(folder: Path, *, index: int, ports: dict[str, int]) -> subprocess.Popen[str]:
    """Start the script as Slurm would: `srun` runs a command, here without its own options."""
    programs = folder / "bin"
    programs.mkdir()
    _program(programs / "srun", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"')
    _program(programs / "hrtem-stream", f'exec {" ".join(map(str, COMMAND))} "$@"')
    script = CONFIG / "slurm" / "workers.sbatch"
    options = [f"endpoints.{name}=tcp://127.0.0.1:{port}" for name, port in ports.items()]
    options += ["segment.segmenter=bragg", "metrics.port=0"]
    return subprocess.Popen(
        ["bash", str(script), *(word for option in options for word in ("--set", option))],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={
            **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(folder),
            "MICROSCOPE_HOST": "127.0.0.1", "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_SUBMIT_DIR": str(CONFIG.parent),
        },
    )  # fmt: skip


def _program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
