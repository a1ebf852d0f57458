"""One replay through all processes, measured from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hrtem_stream.science.synthetic import SyntheticSeries

STAGES = ("ingest", "normalise", "segment", "sort")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is run."""

    size: int
    codec: str = "zstd"
    segmenter: str = "bragg"
    frames: str = "camera"
    """`camera`: illumination fall-off, the dearer; `poisson`: the same, evenly lit, 200 counts."""
    rate: str = "max"
    workers: int = 1
    extra: tuple[str, ...] = ()
    """More arguments of `hrtem-stream replay`."""

    def __str__(self) -> str:
        rate = "" if self.rate == "max" else f", {float(self.rate):.0f} frames/s offered"
        return f"{self.segmenter}, {self.codec}, {self.size}² {self.frames} frames{rate}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of it. Processor times are those of each stage's process, its start left out."""

    frames_per_s: float
    gigabytes_per_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    archived: int
    lost: int
    republished: int
    ratio: float
    cpu_ms_per_frame: dict[str, float] = field(default_factory=dict)
    rss_mib: dict[str, float] = field(default_factory=dict)

    @property
    def total_cpu_ms(self) -> float:
        return sum(self.cpu_ms_per_frame.values())


def make_frames(folder: Path, size: int, kind: str) -> Path:
    """Write as many frames as fit a quarter of a gigabyte, at most 16, unless they are there."""
    path = folder / f"{kind}-{size}.npz"
    if not path.exists():
        np.savez(path, images=_frames(size, kind))
    return path


def run(case: Case, source: Path, *, seconds: float) -> Result:
    """Replay frames from memory for some seconds, with digests, acknowledgements and ledger on."""
    output = source.with_name("out.nxs")
    command = replay_command(case, source, output)
    session = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = Path(f"{output}.part")
    while not part.exists() and session.poll() is None:
        time.sleep(0.05)
    time.sleep(1.0)
    stages = stages_of(session.pid)
    before = {name: _cpu_s(stage) for name, stage in stages.items()}
    began = time.monotonic()
    time.sleep(seconds)
    used = {name: _cpu_s(stage) - before[name] for name, stage in stages.items()}
    rss = {name: resident_mib(stage) for name, stage in stages.items()}
    elapsed_s = time.monotonic() - began
    session.send_signal(signal.SIGINT)
    out, err = session.communicate(timeout=300)
    if session.returncode:
        sys.exit(f"the replay failed: {err[-2000:]}")
    report = json.loads(out)
    output.unlink()
    n_frames = report["frames_per_s"] * elapsed_s
    return Result(
        frames_per_s=report["frames_per_s"],
        gigabytes_per_s=report["gigabytes_per_s"],
        latency_p50_ms=report["latency_s"]["p50"] * 1e3,
        latency_p99_ms=report["latency_s"]["p99"] * 1e3,
        archived=report["archived"],
        lost=report["lost"],
        republished=report["republished"],
        ratio=report["raw_bytes"] / report["stored_bytes"],
        cpu_ms_per_frame={name: 1e3 * used[name] / n_frames for name in used},
        rss_mib=rss,
    )


def replay_command(case: Case, source: Path, output: Path) -> list[str]:
    """Give the command that replays frames until it is stopped."""
    return [
        sys.executable, "-m", "hrtem_stream", "replay", str(source), "--output", str(output),
        "--repeat", "1000000", "--codec", case.codec, "--segmenter", case.segmenter,
        "--workers", str(case.workers), "--rate", case.rate, "--overwrite", "--json",
        "--set", "archive.report=false", *case.extra,
    ]  # fmt: skip


def resident_mib(stage: psutil.Process) -> float:
    """Give the memory of a stage; the pages of the frame log are shared, and none's own."""
    info = stage.memory_info()
    return float(info.rss - info.shared) / 2**20


def _frames(size: int, kind: str) -> np.ndarray[Any, Any]:
    n_frames = max(4, min(16, (256 << 20) // (2 * size * size)))
    series = SyntheticSeries(shape=(size, size), seed=1)
    frames = np.stack([series.frame(7 * index).pixels for index in range(n_frames)])
    if kind == "camera":
        return frames
    rng = np.random.default_rng(0)
    side = max(1, size // 32)
    smooth = frames.reshape(n_frames, size // side, side, size // side, side).mean(axis=(2, 4))
    surface = np.repeat(np.repeat(smooth, side, axis=1), side, axis=2)
    even = 200 * frames / np.maximum(surface, 1)
    exposed: np.ndarray[Any, Any] = rng.poisson(np.clip(even, 0, 2000))
    return exposed.astype(np.uint16)


def stages_of(pid: int) -> dict[str, psutil.Process]:
    """Find the processes of the stages of a session."""
    found = {}
    for child in psutil.Process(pid).children():
        words = child.cmdline()
        for name in STAGES:
            if name in words:
                found[f"{name} {words[words.index(name) + 1]}"] = child
    return found


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
