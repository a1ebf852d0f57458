"""Memory of each stage over ten minutes of a session at 2048², beside the goal of 1 GiB a stage.

    python -m bench memory [--seconds 600]

A paced replay, so that the archive stays small; the rate does not matter to what a stage keeps. A
row is a stage's memory over the last half of the session; reference is its mean over the first
half, without the first sixth, in which buffers grow to their size. The frame log is shared, and
left out. A ratio above 1 is growth.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from bench.row import Row, row
from bench.session import Case, make_frames, replay_command, resident_mib, stages_of

SIZE = 2048
RATE = "6"
N_SAMPLES = 120
GOAL_MIB = 1024.0


def measure(seconds: float) -> list[Row]:
    """Watch a session; ten minutes unless told otherwise."""
    seconds = seconds or 600.0
    with tempfile.TemporaryDirectory() as folder:
        source = make_frames(Path(folder), SIZE, "camera")
        output = Path(folder) / "out.nxs"
        case = Case(size=SIZE, rate=RATE)
        log = Path(folder) / "session.log"
        with log.open("w") as told:
            session = subprocess.Popen(
                replay_command(case, source, output), stdout=subprocess.DEVNULL, stderr=told
            )
        try:
            samples = _watch(session, Path(f"{output}.part"), seconds)
        finally:
            session.send_signal(signal.SIGINT)
            session.wait(timeout=300)
            said = log.read_text()
        if session.returncode or not samples:
            sys.exit(f"a stage ended during the session: nothing to compare\n{said[-4000:]}")
    return [_row(name, np.array(values)) for name, values in sorted(samples.items())]


def _watch(
    session: subprocess.Popen[bytes], archive: Path, seconds: float
) -> dict[str, list[float]]:
    while not archive.exists() and session.poll() is None:
        time.sleep(0.05)
    samples = defaultdict(list)
    stages = stages_of(session.pid)
    for _ in range(N_SAMPLES):
        time.sleep(seconds / N_SAMPLES)
        for name, stage in stages.items():
            if not stage.is_running():
                return {}
            samples[name].append(resident_mib(stage))
    return samples


def _row(name: str, values: np.ndarray) -> Row:
    half, settled = len(values) // 2, len(values) // 6
    return row(
        f"memory of {name}, {SIZE}² camera frames, last half of the session "
        "(reference: the half before; limit: the goal)",
        values[half:], "MiB", reference=float(values[settled:half].mean()), limit=GOAL_MIB,
    )  # fmt: skip
