"""Re-analysis on one worker and on two: scaling, a death in the middle, and is it the same?

    python -m bench reprocess -- FRAMES --folder WHERE [--frames N] [--only RUN] [--output FILE]

FRAMES are repeated to N in one archive in WHERE. Reference: blocks done one after the other in this
process. What lies in WHERE is not made again, so that the runs may be measured one at a time; each
segmenter has its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.row import machine
from hrtem_stream import open_archive
from hrtem_stream.reprocess.plan import plan
from hrtem_stream.reprocess.run import Do, in_this_process, on_workers, reprocess
from hrtem_stream.settings import load_settings
from hrtem_stream.sources.files import open_frames

BLOCK = 128
WORKERS = {"alone": 0, "1-worker": 1, "2-workers": 2, "2-workers-1-killed": 2}
"""Names of the runs; 0: in this process, without dask."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reprocess", description=__doc__)
    parser.add_argument("source", metavar="FRAMES")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--segmenter", default="bragg")
    parser.add_argument("--only", choices=["prepare", *WORKERS])
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    source = _repeated(options.source, options.folder, options.frames)
    for name in WORKERS if options.only is None else {options.only} - {"prepare"}:
        if not result_path(options.folder, name, options.segmenter).exists():
            _measure(name, source, options.folder, options.segmenter)
    found = results(options.folder, options.segmenter)
    for one in found:
        print(f"{one['run']:<20} {one['frames']} frames  {one['seconds']:7.1f} s  "
              f"{one['frames'] / one['seconds']:6.1f} frames/s")  # fmt: skip
    print(f"all {len(found)} results are the same: {len({one['digest'] for one in found}) < 2}")
    if options.output:
        content = {"machine": machine(), "segmenter": options.segmenter, "runs": found}
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def result_path(folder: Path, name: str, segmenter: str) -> Path:
    """Say where a run with a segmenter is noted."""
    return folder / f"{name}-{segmenter}.json"


def results(folder: Path, segmenter: str) -> list[dict[str, Any]]:
    """Read what was noted of the runs with a segmenter."""
    paths = [result_path(folder, name, segmenter) for name in WORKERS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def _measure(name: str, source: Path, folder: Path, segmenter: str) -> None:
    """Do one of the runs, workers started and stopped with it, and note what came of it."""
    if WORKERS[name] == 0:
        noted = _run(name, source, folder, segmenter, in_this_process)
    else:
        began_s = time.monotonic()
        with on_workers(n_workers=WORKERS[name]) as do:
            started_s = time.monotonic() - began_s
            noted = _run(name, source, folder, segmenter, do)
        noted["workers_started_s"] = round(started_s, 1)
    result_path(folder, name, segmenter).write_text(json.dumps(noted), encoding="utf-8")


def _run(name: str, source: Path, folder: Path, segmenter: str, do: Do) -> dict[str, Any]:
    settings = load_settings(
        None,
        {
            "segment.segmenter": segmenter, "segment.slowest_s": 60.0,
            "archive.codec": "zstd", "archive.keep": "all",
        },
    )  # fmt: skip
    jobs = plan([str(source)], folder / f"{name}-{segmenter}", settings, block_frames=BLOCK)
    done: list[int] = []

    def progress(n_frames: int) -> None:
        done.append(n_frames)
        if name.endswith("killed") and len(done) == len(jobs[0].blocks) // 2:
            _kill_a_worker()

    began_s = time.monotonic()
    (result,) = reprocess(jobs, do, command="bench", progress=progress)
    took_s = time.monotonic() - began_s
    if result.problems:
        sys.exit(f"{name}: {result.problems}")
    digest = _digest(Path(result.output))
    Path(result.output).unlink()
    return {
        "run": name, "frames": result.archived, "seconds": round(took_s, 1), "digest": digest,
        "load": round(os.getloadavg()[0], 1), "block_frames": BLOCK,
    }  # fmt: skip


def _repeated(frames: str, where: Path, n_frames: int) -> Path:
    """Archive frames again and again, as they are, in one series."""
    source = where / "repeated.nxs"
    if source.exists():
        return source
    where.mkdir(parents=True, exist_ok=True)
    files = open_frames([frames])
    n_repeats = max(1, round(n_frames / files.n_frames))
    files.close()
    subprocess.run(
        [
            sys.executable, "-m", "hrtem_stream", "replay", frames, "--output", str(source),
            "--segmenter", "bragg", "--repeat", str(n_repeats), "--codec", "zstd", "--overwrite",
            "--set", "archive.keep=all", "--set", "archive.report=false",
        ],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return source


def _kill_a_worker() -> None:
    workers = [
        child
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    os.kill(workers[-1].pid, signal.SIGKILL)


def _digest(path: Path) -> str:
    """Give a digest of all that a run decides: masks, scores, ranking, digests of pixels."""
    found = hashlib.sha256()
    with open_archive(path) as archive:
        for name in ("sequence", "graphene_fraction", "digest", "stored_digest", "method"):
            found.update(np.asarray(archive.score(name)).astype("S64").tobytes())
        found.update(archive.ranking().tobytes())
        for row in range(len(archive)):
            runs = archive.runs(row)
            found.update(runs.start.tobytes() + runs.length.tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
