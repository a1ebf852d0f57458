"""A stalled watcher against none: latency of the same session, in turns.

    python -m bench.watcher [--seconds S]

Every other window of one session has four watchers that connect and never read. What is compared
is the latency from received to archived of the frames received in the second half of each window,
when the watchers' buffers are full. Reference: the windows without watchers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from bench.row import Row, line, row
from hrtem_stream import open_archive
from hrtem_stream.settings import load_settings
from hrtem_stream.simulators.drill_session import Session

N_WATCHERS = 4
WINDOW_S = 6.0
RATE = 20.0


def measure(seconds: float) -> list[Row]:
    """Run one session of a minute unless told otherwise."""
    n_pairs = max(2, round((seconds or 72.0) / WINDOW_S / 2))
    with tempfile.TemporaryDirectory(prefix="hrtem-watcher-") as folder:
        windows = _run(Path(folder), n_pairs)
        (path,) = (Path(folder) / "runs").glob("*.nxs")
        with open_archive(path) as archive:
            received_ns = archive.score("received_ns")
            latency_ms = archive.score("latency") * 1e3
    rows = []
    for percent in (50, 99):
        without = _percentiles(windows[False], received_ns, latency_ms, percent)
        stalled = _percentiles(windows[True], received_ns, latency_ms, percent)
        reference = float(np.median(without))
        rows.append(row(f"p{percent} latency, no watcher (windows)", without, "ms"))
        rows.append(
            row(f"p{percent} latency, {N_WATCHERS} stalled watchers", stalled, "ms",
                reference=reference)
        )  # fmt: skip
    return rows


def _run(folder: Path, n_pairs: int) -> dict[bool, list[tuple[int, int]]]:
    """Run the session; give the second half of each window, without and with watchers."""
    settings = load_settings(
        None,
        {
            "session.name": f"watcher-{os.getpid()}", "session.log_level": "WARNING",
            "session.runtime_directory": str(folder / "run"),
            "feed.kind": "simulated", "feed.simulated.size": 256, "feed.simulated.rate": RATE,
            "feed.simulated.n_frames": 100_000_000, "frame_log.capacity_mib": 128,
            "segment.segmenter": "bragg", "metrics.port": 0, "page.enabled": False,
            "archive.directory": str(folder / "runs"), "archive.codec": "zstd",
        },
    )  # fmt: skip
    session = Session(settings, folder)
    session.start()
    windows: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    try:
        session.wait_until_ready()
        while session.beat("sort").n_done < RATE:
            session.check()
            time.sleep(0.1)
        for number in range(2 * n_pairs):
            has_watchers = number % 2 == 1
            with zmq.Context() as context:
                for _ in range(N_WATCHERS * has_watchers):
                    _stall(context, settings.endpoint("summaries"))
                time.sleep(WINDOW_S / 2)
                began_ns = time.time_ns()
                time.sleep(WINDOW_S / 2)
                windows[has_watchers].append((began_ns, time.time_ns()))
                context.destroy(linger=0)
        session.interrupt()
    finally:
        session.kill()
    return windows


def _stall(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 1)
    socket.subscribe(b"")
    socket.connect(endpoint)


def _percentiles(
    windows: list[tuple[int, int]],
    received_ns: NDArray[np.int64],
    latency_ms: NDArray[np.float64],
    percent: int,
) -> list[float]:
    return [
        float(np.percentile(latency_ms[(received_ns >= began) & (received_ns < ended)], percent))
        for began, ended in windows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.watcher")
    parser.add_argument("--seconds", type=float, default=0.0)
    for one in measure(parser.parse_args().seconds):
        print(line(one), flush=True)


if __name__ == "__main__":
    main()
