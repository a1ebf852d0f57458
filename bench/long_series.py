"""A series of very many small frames: what stays flat, and what the end of it costs.

Frames of 16 x 16 go through the archive writer and the live ranking of `sort`, as they would come
from a fast detector for hours. Printed every tenth of the series: frames per second, resident
memory, open files; then the time to close, open, rank and verify a file of that length.

    python -m bench.long_series --frames 1000000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from hrtem_stream import open_archive
from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.layout import ArchiveHeader
from hrtem_stream.archive.rotation import SeriesArchive
from hrtem_stream.archive.summary import summary
from hrtem_stream.archive.tables import Row
from hrtem_stream.messages import (
    Delivery,
    FrameHeader,
    LossRange,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.science.ranking import LiveRanking

SIDE, WORKING = 16, 64
BATCH = 32
LOSS_EVERY = 1000


def main() -> None:
    """Write the series and print what it costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--frames-per-file", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder) / "long.nxs", arguments.frames, arguments.frames_per_file or None)


def measure(path: Path, n_frames: int, frames_per_file: int | None) -> None:
    """Print one line a tenth of the series, then what its end costs."""
    header = ArchiveHeader(
        start=SeriesStart(series="long", series_id="long"), shape=(SIDE, SIDE), dtype="<u2",
        codec="zstd", keep="graphene", provenance={}, log_id=1, ordinal=0, first_row=0,
        working_shape=(WORKING, WORKING), coefficients_shape=(5, 5),
    )  # fmt: skip
    archive = SeriesArchive.create(path, header=header, frames_per_file=frames_per_file)
    ranking = LiveRanking()
    process = psutil.Process()
    step = max(BATCH, n_frames // 10)
    print(f"{'frames':>9} {'frames/s':>9} {'ms/rank':>8} {'MiB':>6} {'files':>5}")
    began, ranked_s, reported = time.process_time(), 0.0, 0
    ordinal = 0
    for rows in _batches(n_frames):
        archive.append(rows, archived_ns=time.time_ns())
        before = time.process_time()
        for frame, _ in rows:
            ranking.insert(frame.header.row, frame.graphene_fraction)
            ranking.rank(frame.header.row, frame.graphene_fraction)
        ranked_s += time.process_time() - before
        ordinal = rows[-1][0].delivery.ordinal
        n = archive.next_row
        if n // LOSS_EVERY > (n - len(rows)) // LOSS_EVERY:
            loss = LossRange(
                series="long", series_id="long", first=10**9 + n, n_frames=1, reason="gap"
            )
            archive.declare_loss(loss, ordinal=ordinal)
        if n - reported >= step:
            spent_s = time.process_time() - began
            rate = (n - reported) / spent_s
            mib = process.memory_info().rss / 2**20
            print(f"{n:9d} {rate:9.0f} {ranked_s / (n - reported) * 1e3:8.4f} {mib:6.0f} "
                  f"{process.num_fds():5d}", flush=True)  # fmt: skip
            began, ranked_s, reported = time.process_time(), 0.0, n
    _end(archive, ordinal)


def _end(archive: SeriesArchive, ordinal: int) -> None:
    for what, action in (
        ("close", lambda: archive.close(SeriesEnd(), ordinal=ordinal + 1)),
        ("open and rank", lambda: _best(archive.paths[0])),
        ("read one frame", lambda: _first(archive.paths[0])),
        ("summary", lambda: summary(archive.paths[0])),
    ):
        began = time.process_time()
        action()
        print(f"{what:<16} {time.process_time() - began:8.3f} s")
    size = sum(path.stat().st_size for path in archive.paths)
    peak = int(next(line for line in Path("/proc/self/status").read_text().splitlines()
                    if line.startswith("VmHWM")).split()[1]) / 1024  # fmt: skip
    print(f"{size / 1e9:.2f} GB in {len(archive.paths)} files, peak memory {peak:.0f} MiB")


def _best(path: Path) -> int:
    with open_archive(path) as archive:
        return int(archive.ranking()[0])


def _first(path: Path) -> int:
    with open_archive(path) as archive:
        return int(archive.frame(len(archive) // 2).sum())


def _batches(n_frames: int) -> Iterator[list[Row]]:
    """Give frames that differ in what matters: number, score, mask."""
    rng = np.random.default_rng(0)
    encoder = FrameEncoder((SIDE, SIDE), dtype="<u2", codec="zstd")
    none = np.zeros((WORKING, WORKING), np.bool_)
    amorphous = rng.random((WORKING, WORKING)) < 0.02
    pixels = rng.poisson(200, (SIDE, SIDE)).astype(np.uint16)
    encoded = encoder.encode(pixels, amorphous)
    thumbnail = rng.integers(0, 255, (WORKING, WORKING)).astype(np.uint8)
    coefficients = np.ones((5, 5), np.float32)
    scores = rng.random(n_frames)
    for first in range(0, n_frames, BATCH):
        batch: list[Row] = []
        for row in range(first, min(first + BATCH, n_frames)):
            frame = SegmentedFrame(
                delivery=Delivery(log_id=1, ordinal=row + 1, offset=0, pub=row, shard=0, floor=0),
                header=FrameHeader(
                    series="long", series_id="long", sequence=row, row=row, shape=(SIDE, SIDE),
                    dtype="<u2", received_ns=time.time_ns(), digest=encoded.digest,
                ),
                amorphous=amorphous, vacuum=none, beam_off=none, coefficients=coefficients,
                thumbnail=thumbnail, method="bragg", graphene_fraction=float(scores[row]),
                amorphous_fraction=1 - float(scores[row]), vacuum_fraction=0.0,
                beam_off_fraction=0.0,
            )  # fmt: skip
            batch.append((frame, encoded))
        yield batch


if __name__ == "__main__":
    main()
