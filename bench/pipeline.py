"""Time the whole pipeline: recorded frames through all processes into an archive, nothing lost.

    python -m bench.pipeline [--seconds S] [--sizes 1024,2048] [--codecs zstd,deflate]
                             [--segmenter bragg] [--input camera|poisson] [--rate R] [--json]

Frames are replayed from memory as fast as they are taken (or at --rate), with digests,
acknowledgements and ledger on. Input: `camera`, frames of the simulated camera (illumination
fall-off, so high entropy); `poisson`, the same specimen evenly lit at 200 counts. The processor
time of each stage is that of its process, less what it took to start.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hrtem_stream.science.synthetic import SyntheticSeries

STAGES = ("ingest", "normalise", "segment", "sort")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--sizes", default="1024,2048")
    parser.add_argument("--codecs", default="zstd,deflate")
    parser.add_argument("--segmenter", default="bragg")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--input", choices=("camera", "poisson"), default="camera")
    parser.add_argument("--rate", default="max")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, options.sizes.split(",")):
            source = Path(folder) / f"{size}.npz"
            np.savez(source, images=_frames(size, options.input))
            for codec in options.codecs.split(","):
                row = {"size": size, "codec": codec, **_measure(source, codec, options)}
                rows.append(row)
                if not options.json:
                    _print(row)
            source.unlink()
    if options.json:
        machine = {"processors": os.cpu_count(), "load": os.getloadavg()[0]}
        print(json.dumps({"machine": machine, "input": options.input, "rows": rows}))


def _frames(size: int, kind: str) -> np.ndarray[Any, Any]:
    """Make as many frames as fit a quarter of a gigabyte, at most 16."""
    n_frames = max(4, min(16, (256 << 20) // (2 * size * size)))
    series = SyntheticSeries(shape=(size, size), seed=1)
    frames = np.stack([series.frame(7 * index).pixels for index in range(n_frames)])
    if kind == "camera":
        return frames
    rng = np.random.default_rng(0)
    smooth = frames.reshape(n_frames, size // 64, 64, size // 64, 64).mean(axis=(2, 4))
    surface = np.repeat(np.repeat(smooth, 64, axis=1), 64, axis=2)
    even = 200 * frames / np.maximum(surface, 1)
    exposed: np.ndarray[Any, Any] = rng.poisson(np.clip(even, 0, 2000))
    return exposed.astype(np.uint16)


def _measure(source: Path, codec: str, options: argparse.Namespace) -> dict[str, Any]:
    output = source.with_suffix(".nxs")
    command = [
        sys.executable, "-m", "hrtem_stream", "replay", str(source), "--output", str(output),
        "--repeat", "1000000", "--codec", codec, "--segmenter", options.segmenter,
        "--workers", str(options.workers), "--rate", options.rate, "--json",
    ]  # fmt: skip
    session = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = Path(f"{output}.part")
    while not part.exists() and session.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    stages = _stages(session.pid)
    before = {name: _cpu_s(stage) for name, stage in stages.items()}
    began = time.monotonic()
    time.sleep(options.seconds)
    used = {name: _cpu_s(stage) - before[name] for name, stage in stages.items()}
    rss = {name: stage.memory_info().rss for name, stage in stages.items()}
    elapsed_s = time.monotonic() - began
    session.send_signal(signal.SIGINT)
    out, err = session.communicate(timeout=300)
    if session.returncode:
        sys.exit(f"the replay failed: {err[-2000:]}")
    report = json.loads(out)
    output.unlink()
    n_frames = report["frames_per_s"] * elapsed_s
    return {
        "frames_per_s": report["frames_per_s"],
        "gigabytes_per_s": report["gigabytes_per_s"],
        "latency_p50_ms": report["latency_s"]["p50"] * 1e3,
        "latency_p99_ms": report["latency_s"]["p99"] * 1e3,
        "archived": report["archived"],
        "lost": report["lost"],
        "republished": report["republished"],
        "ratio": report["raw_bytes"] / report["stored_bytes"],
        "cpu_ms_per_frame": {name: 1e3 * used[name] / n_frames for name in used},
        "rss_mib": {name: rss[name] / 2**20 for name in rss},
    }


def _stages(pid: int) -> dict[str, psutil.Process]:
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


def _print(row: dict[str, Any]) -> None:
    cpu = ", ".join(f"{name} {value:.2f}" for name, value in row["cpu_ms_per_frame"].items())
    print(
        f"{row['size']}² {row['codec']:8} {row['frames_per_s']:6.1f} frames/s "
        f"{row['gigabytes_per_s']:.2f} GB/s  p50 {row['latency_p50_ms']:.0f} ms "
        f"p99 {row['latency_p99_ms']:.0f} ms  lost {row['lost']}  republished "
        f"{row['republished']}  ratio {row['ratio']:.2f}\n    CPU ms a frame: {cpu}",
        flush=True,
    )


if __name__ == "__main__":
    main()
