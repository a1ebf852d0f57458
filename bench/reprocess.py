"""Re-analysis on one worker and on two: scaling, a death in the middle, and is it the same?

    python -m bench.reprocess FOLDER [--frames N] [--segmenter bragg]

FOLDER holds frames, which are repeated to N in one archive. Reference: blocks done one after the
other in this process.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from hrtem_stream import open_archive
from hrtem_stream.reprocess.plan import plan
from hrtem_stream.reprocess.run import Do, in_this_process, on_workers, reprocess
from hrtem_stream.settings import load_settings
from hrtem_stream.sources.files import open_frames

BLOCK = 128


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reprocess", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--segmenter", default="bragg")
    options = parser.parse_args()
    settings = load_settings(
        None,
        {
            "segment.segmenter": options.segmenter, "segment.slowest_s": 60.0,
            "archive.codec": "zstd", "archive.keep": "all",
        },
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        source = _repeated(options.folder, Path(folder), options.frames)
        found = {}

        def measure(name: str, do: Do, *, kills: bool = False) -> float:
            output = Path(folder) / name
            jobs = plan([str(source)], output, settings, block_frames=BLOCK)
            done: list[int] = []

            def progress(n_frames: int) -> None:
                done.append(n_frames)
                if kills and len(done) == len(jobs[0].blocks) // 2:
                    _kill_a_worker()

            began_s = time.monotonic()
            (result,) = reprocess(jobs, do, command="bench", progress=progress)
            took_s = time.monotonic() - began_s
            if result.problems:
                sys.exit(f"{name}: {result.problems}")
            found[name] = _digest(Path(result.output))
            print(f"{name:<34} {result.archived} frames  {took_s:7.1f} s  "
                  f"{result.archived / took_s:6.1f} frames/s", flush=True)  # fmt: skip
            Path(result.output).unlink()
            return took_s

        measure("one process, no dask", in_this_process)
        seconds = {}
        for n_workers in (1, 2):
            with on_workers(n_workers=n_workers) as do:
                seconds[n_workers] = measure(f"{n_workers} workers", do)
        with on_workers(n_workers=2) as do:
            measure("2 workers, one killed half-way", do, kills=True)
        print(f"two workers are {seconds[1] / seconds[2]:.2f} times as fast as one")
        print(f"all four results are the same: {len(set(found.values())) == 1}")


def _repeated(folder: str, where: Path, n_frames: int) -> Path:
    """Archive the frames of a folder again and again, as they are, in one series."""
    files = open_frames([folder])
    n_repeats = max(1, round(n_frames / files.n_frames))
    files.close()
    source = where / "repeated.nxs"
    subprocess.run(
        [
            sys.executable, "-m", "hrtem_stream", "replay", folder, "--output", str(source),
            "--segmenter", "bragg", "--repeat", str(n_repeats), "--codec", "zstd",
            "--set", "archive.keep=all",
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
