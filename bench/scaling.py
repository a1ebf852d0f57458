"""Scaling curves as PNG: frame size, offered rate to saturation and beyond, workers, threads.

    python -m bench.scaling [--seconds S] [--output docs/scaling.png] [--json FILE]

Every point is a session of its own, Bragg filter, codec zstd. Beyond saturation two feeds are
shown: a PUSH feed, which waits, so that its rate falls and nothing is lost, and a PUB feed, which
cannot, so that the frame log fills and frames are lost then, declared one by one.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.row import machine
from bench.session import Case, make_frames, run

SIDES = (256, 512, 1024, 2048, 4096)
RATE_SHARES = (0.25, 0.5, 0.75, 0.9, 1.1, 1.5)
COUNTS = (1, 2, 4)
LOG_MIB = 256
"""Of the frame log beyond saturation: small, so that it fills while one looks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.scaling")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=Path("docs/scaling.png"))
    parser.add_argument("--json", type=Path, default=Path("bench/results/scaling.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.seconds)
    found["machine"] = machine()
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, options.output)


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    def point(case: Case) -> dict[str, Any]:
        result = asdict(run(case, make_frames(folder, case.size, case.frames), seconds=seconds))
        print(case, f"{result['frames_per_s']:.1f} frames/s", flush=True)
        return result

    sizes = [point(Case(size=side)) for side in SIDES]
    top = sizes[SIDES.index(1024)]["frames_per_s"]
    rates = [round(share * top) for share in RATE_SHARES]
    return {
        "sides": SIDES,
        "by_side": sizes,
        "rates": rates,
        "by_rate": [point(Case(size=1024, rate=str(rate))) for rate in rates],
        "counts": COUNTS,
        "by_workers": [point(Case(size=1024, workers=n)) for n in COUNTS],
        "by_threads": [
            point(Case(size=1024, extra=("--set", f"sort.threads={n}"))) for n in COUNTS
        ],
        "beyond": [
            {
                "pattern": pattern, "rate": rate,
                **beyond(folder, pattern=pattern, rate=rate, seconds=seconds),
            }
            for pattern in ("push", "pub")
            for rate in (round(0.5 * top), round(top), round(2 * top))
        ],
    }  # fmt: skip


def beyond(folder: Path, *, pattern: str, rate: float, seconds: float) -> dict[str, Any]:
    """Offer frames over a socket at a rate that may be too high; tell what came of each."""
    frames = np.load(make_frames(folder, 1024, "camera"))["images"]
    config = folder / "live.toml"
    endpoint = f"ipc://{folder}/feed.ipc"
    config.write_text(
        f'[session]\nname = "scaling"\nlog_level = "ERROR"\n[feed]\nkind = "native"\n'
        f'[feed.native]\nendpoint = "{endpoint}"\npattern = "{pattern}"\n'
        f'[frame_log]\ncapacity_mib = {LOG_MIB}\n[segment]\nsegmenter = "bragg"\n'
        f'[archive]\ndirectory = "{folder}/runs"\ncodec = "zstd"\noverwrite = true\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "hrtem_stream", "run", str(config), "--json"]
    session = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(8.0)
    n_sent, elapsed_s = offer(frames, endpoint, pattern, rate, seconds)
    time.sleep(5.0)
    session.send_signal(signal.SIGINT)
    report = json.loads(session.communicate(timeout=300)[0])["archives"][0]
    print(f"{pattern} {rate} frames/s offered: {n_sent / elapsed_s:.0f} sent a second", flush=True)
    return {
        "sent_per_s": n_sent / elapsed_s, "archived": report["archived"], "lost": report["lost"],
        "sent": n_sent,
    }  # fmt: skip


def offer(
    frames: Any, endpoint: str, pattern: str, rate: float, seconds: float
) -> tuple[int, float]:
    """Send a series as a camera would; give the frames sent and the time it took."""
    import msgpack
    import zmq

    kind = zmq.PUSH if pattern == "push" else zmq.PUB
    with zmq.Context() as context, context.socket(kind) as feed:
        feed.sndhwm = 16
        feed.linger = 10_000
        feed.bind(endpoint)
        time.sleep(2.0)
        common = {"version": 1, "series": f"{pattern}-{rate:.0f}"}
        feed.send(msgpack.packb({**common, "type": "start"}))
        began = time.monotonic()
        n_sent = 0
        while time.monotonic() - began < seconds:
            pixels = frames[n_sent % len(frames)]
            header = {**common, "type": "frame", "sequence": n_sent, "shape": pixels.shape,
                      "dtype": "<u2"}  # fmt: skip
            feed.send_multipart([msgpack.packb(header), pixels], copy=False)
            n_sent += 1
            time.sleep(max(0.0, began + n_sent / rate - time.monotonic()))
        elapsed_s = time.monotonic() - began
        feed.send(msgpack.packb({**common, "type": "end", "n_frames": n_sent}))
        return n_sent, elapsed_s


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw throughput by size, latency by rate, the rate by workers and threads, and losses."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7), constrained_layout=True)
    _size_panel(panels[0, 0], found)
    _rate_panel(panels[0, 1], found)
    for name in ("workers", "threads"):
        rates = _of(found[f"by_{name}"], "frames_per_s")
        panels[1, 0].plot(found["counts"], rates, "o-", label=name)
    panels[1, 0].set(title="1024²: segment workers, encoding threads", xlabel="number",
                     ylabel="frames/s", ylim=(0, None))  # fmt: skip
    panels[1, 0].legend()
    _loss_panel(panels[1, 1], found)
    figure.savefig(path, dpi=100)


def _of(results: list[dict[str, Any]], key: str) -> list[float]:
    return [result[key] for result in results]


def _size_panel(panel: Any, found: dict[str, Any]) -> None:
    panel.loglog(found["sides"], _of(found["by_side"], "frames_per_s"), "o-", label="frames/s")
    megabytes = [1e3 * value for value in _of(found["by_side"], "gigabytes_per_s")]
    panel.loglog(found["sides"], megabytes, "s-", label="MB/s")
    panel.set(title="throughput, as fast as it goes", xlabel="side of a frame in pixels")
    panel.set_xticks(found["sides"], [str(side) for side in found["sides"]])
    panel.set_xticks([], minor=True)
    panel.legend()


def _rate_panel(panel: Any, found: dict[str, Any]) -> None:
    for key, mark in (("latency_p50_ms", "o-"), ("latency_p99_ms", "s-")):
        panel.semilogy(found["rates"], _of(found["by_rate"], key), mark, label=key[8:11])
    panel.set(title="1024²: latency, feed to flushed archive", xlabel="frames/s offered",
              ylabel="ms")  # fmt: skip
    panel.legend()


def _loss_panel(panel: Any, found: dict[str, Any]) -> None:
    for pattern, mark in (("push", "o-"), ("pub", "s-")):
        points = [point for point in found["beyond"] if point["pattern"] == pattern]
        panel.plot(_of(points, "rate"), _of(points, "sent_per_s"), mark, label=f"{pattern}: sent")
        panel.plot(
            _of(points, "rate"), [p["rate"] * _lost_share(p) for p in points], mark[0] + "--",
            label=f"{pattern}: of these declared lost",
        )  # fmt: skip
    panel.set(title=f"1024², beyond saturation, frame log of {LOG_MIB} MiB",
              xlabel="frames/s offered", ylabel="frames/s")  # fmt: skip
    panel.legend()


def _lost_share(point: dict[str, Any]) -> float:
    return float(point["lost"] / max(1, point["lost"] + point["archived"]))


if __name__ == "__main__":
    main()
