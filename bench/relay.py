"""The delivery protocol with the real processes, through a relay that delays and loses messages.

    python -m bench relay -- [--frames N] [--at-most POINTS] [--output FILE]

Between `normalise` and two segment workers stands a relay. It gives each worker's frames a pace, so
that it does not matter how fast this machine is, delays every message, and loses some. All else is
as shipped: ingest, normalise, two workers, sort, each a process, joined by ZeroMQ. Points that FILE
has are not measured again. `bench/protocol.py` simulates the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq

from bench.row import machine
from hrtem_stream import open_archive
from hrtem_stream.transport.wire import MARK

PACES_S = (0.02, 0.06)
"""For a frame, on each lane: unequal workers."""
SIDE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One session."""

    window: int
    delay_s: float
    loss: float


POINTS = (
    Point(window=32, delay_s=0.0, loss=0.0),
    Point(window=32, delay_s=0.02, loss=0.2),
    Point(window=32, delay_s=0.02, loss=0.4),
    Point(window=8, delay_s=0.4, loss=0.0),
    Point(window=32, delay_s=0.8, loss=0.0),
    Point(window=8, delay_s=0.1, loss=0.0),
    Point(window=32, delay_s=0.02, loss=0.1),
    Point(window=32, delay_s=0.4, loss=0.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--at-most", type=int, default=len(POINTS), help="points in this call")
    parser.add_argument("--output", type=Path, default=Path("bench/results/relay.json"))
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    if options.output.exists():
        found = json.loads(options.output.read_text(encoding="utf-8"))["points"]
    left = [point for point in POINTS if not any(asdict(point).items() <= p.items() for p in found)]
    for point in left[: options.at_most]:
        found.append({**asdict(point), **measure(point, n_frames=options.frames)})
        print(json.dumps(found[-1]), flush=True)
        content = {"machine": machine(), "paces_s": PACES_S, "points": found}
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def measure(point: Point, *, n_frames: int) -> dict[str, Any]:
    """Let a series through; rate between a tenth and nine tenths of it, and what was sent again."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = np.random.default_rng(1).poisson(100, (50, SIDE, SIDE)).astype(np.uint16)
        np.savez(folder / "f.npz", images=frames)
        stop = context.Event()
        relay = context.Process(target=_relay, args=(name, point, stop))
        relay.start()
        (folder / "workers.toml").touch()
        workers = _start(
            folder, point, "run", str(folder / "workers.toml"),
            name="workers", here="normalised-late",
        )  # fmt: skip
        session = _start(
            folder, point, "replay", str(folder / "f.npz"), "--repeat", str(n_frames // 50),
            "--output", str(folder / "out.nxs"), "--json", "--no-page", name="main", here="",
        )  # fmt: skip
        try:
            out, err = session.communicate(timeout=300)
        finally:
            stop.set()
            for process in (session, workers):
                process.send_signal(signal.SIGINT)
            workers.communicate(timeout=60)
            relay.join(10)
        if session.returncode:
            sys.exit(f"the replay failed: {err[-2000:]}")
        return _found(json.loads(out), folder / "out.nxs")


def _found(report: dict[str, Any], archive_path: Path) -> dict[str, Any]:
    with open_archive(archive_path) as archive:
        archived_s = np.asarray(archive.score("archived_ns"), np.float64) / 1e9
        n = len(archived_s)
    low, high = n // 10, n * 9 // 10
    return {
        "frames_per_s": (high - low) / float(archived_s[high - 1] - archived_s[low - 1]),
        "redelivered": report["republished"] / n,
        "archived": report["archived"],
        "lost": report["lost"],
    }


def _start(
    folder: Path, point: Point, command: str, *words: str, name: str, here: str
) -> subprocess.Popen[str]:
    """Start the segment workers, or all the other stages."""
    is_worker = bool(here)
    values = {
        "session.name": f"relay-{folder.name}-{name}",
        "session.runtime_directory": str(folder / name),
        "session.stages": ["segment"] if is_worker else ["ingest", "normalise", "sort"],
        "segment.workers": len(PACES_S),
        "segment.segmenter": "bragg",
        "segment.batch_frames": 1,
        "normalise.working_size": 64,
        "normalise.mode": "resize",
        "ingest.window": point.window,
        "endpoints.frames": f"ipc://{folder}/frames",
        "endpoints.normalised": f"ipc://{folder}/{here or 'normalised'}",
        "endpoints.segmented": f"ipc://{folder}/segmented",
        "endpoints.acknowledged": f"ipc://{folder}/acknowledged",
        "frame_log.path": str(folder / "log"),
        "frame_log.capacity_mib": 16,
        "archive.report": False,
        "metrics.enabled": False,
        "page.enabled": False,
        "session.log_level": "ERROR",
    }
    options = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    settings = [word for option in options for word in ("--set", option)]
    return subprocess.Popen(
        [sys.executable, "-m", "hrtem_stream", command, *words, *settings],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _relay(folder: str, point: Point, stop: Event) -> None:
    """Pass messages on, each lane in order: some not, all late, frames at a pace."""
    rng = random.Random(1)
    lanes: dict[bytes, deque[tuple[float, list[bytes]]]] = {}
    free_s: dict[bytes, float] = {}
    with zmq.Context() as context, context.socket(zmq.SUB) as inbox, context.socket(zmq.PUB) as out:
        inbox.subscribe(b"")
        for socket in (inbox, out):
            socket.linger = socket.sndhwm = socket.rcvhwm = 0
        inbox.connect(f"ipc://{folder}/normalised")
        out.bind(f"ipc://{folder}/normalised-late")
        while not stop.is_set():
            inbox.poll(1)
            now_s = time.monotonic()
            while inbox.poll(0):
                parts = inbox.recv_multipart()
                if rng.random() < point.loss:
                    continue
                lane = parts[0]
                is_frame = _is_frame(parts)
                pace_s = PACES_S[int(lane[:4])] if is_frame else 0.0
                free_s[lane] = max(free_s.get(lane, 0.0), now_s + point.delay_s) + pace_s
                lanes.setdefault(lane, deque()).append((free_s[lane], parts))
            for queue in lanes.values():
                while queue and queue[0][0] <= now_s:
                    out.send_multipart(queue.popleft()[1])


def _is_frame(parts: list[bytes]) -> bool:
    """Tell by the kind in the envelope; a control record counts as a frame."""
    return bool(msgpack.unpackb(parts[1])[1] != MARK)


if __name__ == "__main__":
    main()
