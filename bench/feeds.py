"""Time the detectors' feeds: from a simulator in another process, through a source, to the archive.

    python -m bench.feeds [--seconds S] [--sizes 512,1024] [--feeds dectris,merlin,native]
                          [--source-only] [--json]

First the source alone: it receives and decodes as fast as it can, and nothing else is done with
the frames. Then a session: all stages, Bragg filter, codec zstd, to a verified ledger. The feeds
send what the simulated camera took, as fast as it is taken; `cpu` is the processor time of the
process that receives, less its start. It keeps its memory mapped, as `ingest` does.

`--feeds direct_electron` is the camera twin de-twin (`make peers`), which sets the pace: `cpu` is
what to read. It is timed as a source alone, over one acquisition.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from hrtem_stream.messages import FeedFrame
from hrtem_stream.pipeline.feeds import make_feed
from hrtem_stream.settings import load_settings

MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}
COMMAND = [sys.executable, "-m", "hrtem_stream"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sizes", default="512,1024")
    parser.add_argument("--feeds", default="dectris,merlin,native")
    parser.add_argument("--source-only", action="store_true", help="no sessions")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not MEMORY.items() <= os.environ.items():  # it is read when a process starts
        command = [sys.executable, "-m", "bench.feeds", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **MEMORY})
    rows = []
    for size in map(int, options.sizes.split(",")):
        for feed in options.feeds.split(","):
            row = {"feed": feed, "size": size}
            if feed == "direct_electron":
                row |= _measure_twin(size, n_frames=round(20 * options.seconds))
                rows.append(row)
                if not options.json:
                    _print(row)
                continue
            row |= _measure_source(feed, size, options.seconds)
            if not options.source_only:
                row |= _measure_session(feed, size, options.seconds)
            rows.append(row)
            if not options.json:
                _print(row)
    if options.json:
        machine = {"processors": os.cpu_count(), "load": os.getloadavg()[0]}
        print(json.dumps({"machine": machine, "rows": rows}))


def _simulate(feed: str, size: int) -> tuple[subprocess.Popen[bytes], str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    command = [*COMMAND, "simulate", "--feed", feed, "--endpoint", endpoint]
    command += ["--frames", "10000000", "--size", str(size)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL), endpoint


def _measure_source(feed: str, size: int, seconds: float) -> dict[str, Any]:
    simulator, endpoint = _simulate(feed, size)
    source = make_feed(load_settings(None, {"feed": f"{feed} {endpoint}"}))
    source.open(None)
    try:
        while not isinstance(source.receive(0.1), FeedFrame):
            continue
        n_frames = 0
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        while time.monotonic() - began_s < seconds:
            n_frames += isinstance(source.receive(0.1), FeedFrame)
        took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    finally:
        source.close()
        simulator.kill()
        simulator.wait()
    return {"source_frames_per_s": n_frames / took_s, "source_cpu_ms": 1e3 * cpu_s / n_frames}


def _measure_twin(size: int, n_frames: int) -> dict[str, Any]:
    import deapi

    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [listener.getsockname()[1] for listener in (one, two)]
    twin_command = Path(sys.executable).parent / "de-twin"
    command = [
        twin_command, "serve", "--host", "127.0.0.1", "--camera", "DESim",
        "--soap", ports[0], "--deapi", ports[1], "--specimen", "Au thin film 20 nm",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    twin = subprocess.Popen(list(map(str, command)), **quiet)  # type: ignore[call-overload]
    values = {
        "feed": f"direct_electron tcp://127.0.0.1:{ports[1]}",
        "feed.direct_electron.start": "true",
        "feed.direct_electron.n_frames": str(n_frames),
    }
    try:
        client = deapi.Client()
        client.usingMmf = False
        while twin.poll() is None:
            try:
                client.connect("127.0.0.1", ports[1])
                break
            except OSError:
                time.sleep(0.5)
        client["Simulator Auto References"] = "Off"
        client.set_hw_roi(0, 0, size, size)
        client["Frames Per Second"] = 1000
        client["Grabbing - Frames Per Buffer"] = 8
        source = make_feed(load_settings(None, values))
        source.open(None)
        while not isinstance(source.receive(0.1), FeedFrame):
            continue
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        n_got = 0
        while n_got < n_frames - 1 and time.monotonic() - began_s < 60:
            n_got += isinstance(source.receive(0.1), FeedFrame)
        took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
        source.close()
    finally:
        twin.kill()
        twin.wait()
    return {"source_frames_per_s": n_got / took_s, "source_cpu_ms": 1e3 * cpu_s / n_got}


def _measure_session(feed: str, size: int, seconds: float) -> dict[str, Any]:
    simulator, endpoint = _simulate(feed, size)
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "session.runtime_directory": f"{folder}/rt", "archive.directory": f"{folder}/runs",
            "frame_log.path": f"/dev/shm/bench-feeds-{os.getpid()}", "archive.codec": "zstd",
            "segment.segmenter": "bragg", "metrics.enabled": "false",
        }  # fmt: skip
        config = Path(folder) / "feed.toml"
        config.write_text(f'feed = "{feed} {endpoint}"\n')
        command = [*COMMAND, "run", str(config), "--json"]
        command += [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
        session = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        runs = Path(folder) / "runs"
        while not list(runs.glob("*.part")) and session.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)
        ingest = _ingest_of(session.pid)
        before_s = _cpu_s(ingest)
        began_s = time.monotonic()
        time.sleep(seconds)
        used_s = _cpu_s(ingest) - before_s
        elapsed_s = time.monotonic() - began_s
        session.send_signal(signal.SIGINT)
        out, err = session.communicate(timeout=300)
        simulator.kill()
        simulator.wait()
        if session.returncode:
            sys.exit(f"the session failed: {err[-2000:]}")
        (report,) = json.loads(out)["archives"]
    return {
        "frames_per_s": report["frames_per_s"],
        "archived": report["archived"],
        "lost": report["lost"],
        "ingest_cpu_ms": 1e3 * used_s / (report["frames_per_s"] * elapsed_s),
    }


def _ingest_of(pid: int) -> psutil.Process:
    for child in psutil.Process(pid).children():
        if "ingest" in child.cmdline():
            return child
    sys.exit("the session has no ingest")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _print(row: dict[str, Any]) -> None:
    text = (
        f"{row['feed']:8} {row['size']}²  source alone {row['source_frames_per_s']:7.1f} frames/s, "
        f"{row['source_cpu_ms']:.2f} ms CPU a frame"
    )
    if "frames_per_s" in row:
        text += (
            f";  to the archive {row['frames_per_s']:6.1f} frames/s, "
            f"ingest {row['ingest_cpu_ms']:.2f} ms CPU, lost {row['lost']}"
        )
    print(text, flush=True)


if __name__ == "__main__":
    main()
