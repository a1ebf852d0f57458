"""The whole pipeline: recorded frames through all processes into an archive, nothing lost.

    python -m bench.pipeline [--seconds S] [--sizes 1024,2048] [--codecs zstd,deflate]
                             [--segmenter bragg] [--frames camera|poisson] [--rate R] [--workers N]

Limit: the rate of the slowest stage by itself, which is its work on one frame after the other in
one thread, `sort` with two threads for encoding; the stages together have the processors to share.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.row import Row, in_turns, row
from bench.session import Case, Result, make_frames, run
from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.science.bragg import bragg_mask
from hrtem_stream.science.illumination import normalise_frame

SIZES = (1024, 2048)


def measure(seconds: float) -> list[Row]:
    """Run the cases of the goals; 12 s each unless told otherwise."""
    seconds = seconds or 12.0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in _cases():
            source = make_frames(Path(folder), case.size, case.frames)
            result = run(case, source, seconds=seconds)
            limit = slowest_alone(source, case.codec) if case.segmenter == "bragg" else None
            rows += _rows(case, result, limit)
            if case == Case(size=1024):
                half = replace(case, rate=str(round(result.frames_per_s / 2)))
                rows += _latency_rows(half, run(half, source, seconds=seconds))
    return rows


def slowest_alone(source: Path, codec: str) -> float:
    """Give the rate of the slowest stage by itself, in frames a second."""
    frames = np.load(source)["images"]
    images = [normalise_frame(frame).image for frame in frames]
    masks = [bragg_mask(image) for image in images]
    encoder = FrameEncoder(frames[0].shape, dtype=frames.dtype, codec=codec)  # type: ignore[arg-type]
    n = len(frames)
    times = in_turns(
        {
            "normalise": lambda: [normalise_frame(frame) for frame in frames],
            "segment": lambda: [bragg_mask(image) for image in images],
            "encode": lambda: [encoder.encode(*pair) for pair in zip(frames, masks, strict=True)],
        },
        seconds=1.0,
        least=3,
    )
    n_encoders = min(2, os.cpu_count() or 1)
    shares = {"normalise": 1, "segment": 1, "encode": n_encoders}
    return min(1e3 * n * shares[name] / float(np.median(times[name])) for name in times)


def _cases() -> Iterator[Case]:
    for size in SIZES:
        for codec in ("zstd", "deflate"):
            yield Case(size=size, codec=codec)
        yield Case(size=size, frames="poisson")
        yield Case(size=size, segmenter="unet")


def _rows(case: Case, result: Result, limit: float | None) -> list[Row]:
    checked = f"lost {result.lost}, sent again {result.republished}"
    return [
        row(
            f"pipeline, {case}, {checked} (limit: slowest stage alone)",
            result.frames_per_s, "frames/s", limit=limit,
        ),
        row(
            f"pipeline, {case}: processor time of all stages (limit: both processors busy)",
            result.total_cpu_ms, "ms/frame",
            limit=1e3 * (os.cpu_count() or 1) / result.frames_per_s,
        ),
        *(
            row(f"pipeline, {case}: processor time of {name}", value, "ms/frame")
            for name, value in sorted(result.cpu_ms_per_frame.items())
        ),
        row(
            f"pipeline, {case}: largest memory of a stage, the frame log left out",
            max(result.rss_mib.values()), "MiB", limit=1024.0,
        ),
    ]  # fmt: skip


def _latency_rows(case: Case, result: Result) -> list[Row]:
    return [
        row(
            f"latency, {case}, feed to flushed archive, {name} (limit: the goal)",
            value, "ms", limit=goal,
        )
        for name, value, goal in (
            ("p50", result.latency_p50_ms, 10.0), ("p99", result.latency_p99_ms, 50.0),
        )
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.pipeline")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--sizes", default="1024,2048")
    parser.add_argument("--codecs", default="zstd,deflate")
    parser.add_argument("--segmenter", default="bragg")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--frames", choices=("camera", "poisson"), default="camera")
    parser.add_argument("--rate", default="max")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, options.sizes.split(",")):
            for codec in options.codecs.split(","):
                case = Case(
                    size=size, codec=codec, segmenter=options.segmenter, frames=options.frames,
                    rate=options.rate, workers=options.workers,
                )  # fmt: skip
                source = make_frames(Path(folder), size, case.frames)
                print_result(case, run(case, source, seconds=options.seconds))


def print_result(case: Case, result: Result) -> None:
    cpu = ", ".join(f"{name} {value:.2f}" for name, value in result.cpu_ms_per_frame.items())
    print(
        f"{case}: {result.frames_per_s:.1f} frames/s {result.gigabytes_per_s:.2f} GB/s  "
        f"p50 {result.latency_p50_ms:.0f} ms p99 {result.latency_p99_ms:.0f} ms  "
        f"lost {result.lost}  sent again {result.republished}  ratio {result.ratio:.2f}\n"
        f"    CPU ms a frame: {cpu}, together {result.total_cpu_ms:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
