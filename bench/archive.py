"""Time the encoding and appending of frames, beside the compressor alone, which is the limit.

    python -m bench.archive [--size M] [--mean COUNTS] [--frames N]

Input: Poisson noise, 30 % of it amorphous in islands, uint16. Times are of one thread's CPU, the
least and the median of N frames, so that a busy machine disturbs them little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from hrtem_stream.archive.codec import ChunkCompressor, Codec
from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.messages import Delivery, FrameHeader, SegmentedFrame, SeriesStart
from hrtem_stream.science.run_length import flatten, runs_of_mask

CODECS: tuple[Codec, ...] = ("deflate", "zstd", "none")
BATCH = 32


def thread_times(work: Callable[[], object], n: int) -> tuple[float, float]:
    """Return least and median seconds."""
    times = []
    for _ in range(n):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times), float(np.median(times))


def segmented(row: int, size: int, amorphous: np.ndarray) -> SegmentedFrame:
    header = FrameHeader(
        series="bench", series_id="", sequence=row, row=row, shape=(size, size), dtype="<u2",
        digest=0, received_ns=0,
    )  # fmt: skip
    nothing = np.zeros_like(amorphous)
    return SegmentedFrame(
        delivery=Delivery(log_id=0, ordinal=row, offset=0, pub=0, shard=0, floor=0),
        header=header, amorphous=amorphous, vacuum=nothing, beam_off=nothing,
        coefficients=np.ones((3, 3), np.float32), thumbnail=nothing.view(np.uint8),
        method="bragg", graphene_fraction=0.7, amorphous_fraction=0.3, vacuum_fraction=0.0,
        beam_off_fraction=0.0,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--mean", type=float, default=200)
    parser.add_argument("--frames", type=int, default=64)
    options = parser.parse_args()
    size, shape = options.size, (options.size, options.size)
    rng = np.random.default_rng(0)
    pixels = rng.poisson(options.mean, shape).astype("<u2")
    field = gaussian_filter(rng.random((256, 256)), 5)
    amorphous = field > np.quantile(field, 0.7)
    start, length = runs_of_mask(amorphous, shape=shape)
    flat, _ = flatten(pixels, start=start, length=length)
    megabytes = pixels.nbytes / 1e6
    print(f"{size}² uint16, mean {options.mean:g}, {start.size} runs; MB/s of raw, best (median)")
    for codec in CODECS:
        encoder = FrameEncoder(shape, dtype="<u2", codec=codec)
        encoded = encoder.encode(pixels, amorphous)
        best, median = thread_times(lambda e=encoder: e.encode(pixels, amorphous), options.frames)  # type: ignore[misc]
        line = f"{codec:8} encode {megabytes / best:6.0f} ({megabytes / median:6.0f})"
        line += f"  ratio {encoded.raw_bytes / encoded.stored_bytes:.3f}"
        if codec != "none":
            compressor = ChunkCompressor(codec, dtype=flat.dtype, n_values=flat.size)
            values = flat.reshape(-1)
            alone, middle = thread_times(partial(compressor.compress, values), 16)
            line += f"  compressor alone {megabytes / alone:6.0f} ({megabytes / middle:6.0f})"
        print(line)
        with tempfile.TemporaryDirectory() as folder:
            writer = ArchiveWriter.create(
                Path(folder) / "s.nxs", start=SeriesStart(series="bench"), shape=shape,
                dtype="<u2", codec=codec,
            )  # fmt: skip
            template = segmented(0, size, amorphous)
            times = []
            for first in range(0, options.frames, BATCH):
                batch = [
                    (replace(template, header=replace(template.header, row=row)), encoded)
                    for row in range(first, first + BATCH)
                ]
                began = time.thread_time()
                writer.append(batch, archived_ns=1)
                times.append((time.thread_time() - began) / BATCH)
            print(f"{'':8} append {np.median(times) * 1e3:.2f} ms a frame, with its write")
            writer.abandon()


if __name__ == "__main__":
    main()
