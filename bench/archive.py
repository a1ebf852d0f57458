"""Encoding and appending frames: size beside the entropy of the counts, speed beside libzstd.

Input `poisson M`: Poisson counts of mean M, 2048² uint16, 30 % amorphous in islands. Input
`camera`: the simulated camera, with a fall-off, at several doses. Reference: the same flattened
bands, shuffled, and compressed by libzstd at level 1. Limit of a size: the Poisson entropy of the
pixels that are kept. Sizes are in bits a kept pixel, everything else of the frame included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import poisson

from bench.row import Row, in_turns, row
from hrtem_stream.archive.codec import Codec, shuffle
from hrtem_stream.archive.encoding import BAND_BYTES, EncodedFrame, FrameEncoder
from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.messages import Delivery, FrameHeader, SegmentedFrame, SeriesStart
from hrtem_stream.science.run_length import flatten, runs_of_mask
from hrtem_stream.science.synthetic import SyntheticSeries

SIZE = 2048
MEANS = (50, 200, 500)
BATCH = 32
Pixels = NDArray[np.uint16]
Mask = NDArray[np.bool_]


def measure(seconds: float) -> list[Row]:
    rng = np.random.default_rng(0)
    rows = []
    for mean in MEANS:
        pixels = rng.poisson(mean, (SIZE, SIZE)).astype("<u2")
        entropy_bits = poisson_entropy_bits(mean)
        rows += _rows(f"poisson {mean}", pixels, islands(rng), entropy_bits, seconds or 4.0)
    camera = SyntheticSeries(shape=(SIZE, SIZE), seed=1).frame(14).pixels
    rows += _rows("camera", camera, islands(rng), None, seconds or 4.0)
    return [*rows, _append_row(rng.poisson(200, (SIZE, SIZE)).astype("<u2"), islands(rng))]


def islands(rng: np.random.Generator) -> Mask:
    """Cover three tenths of a working image with islands."""
    field = gaussian_filter(rng.random((256, 256)), 5)
    return np.asarray(field > np.quantile(field, 0.7))


def poisson_entropy_bits(mean: float) -> float:
    shares = poisson.pmf(np.arange(int(mean + 20 * np.sqrt(mean) + 20)), mean)
    shares = shares[shares > 0]
    return float(-np.sum(shares * np.log2(shares)))


def libzstd(pixels: Pixels, amorphous: Mask) -> Callable[[], int]:
    """Give the plain way: flatten, shuffle, and compress band by band at level 1."""
    compressor = zstandard.ZstdCompressor(level=1)
    shuffled = np.empty(BAND_BYTES, np.uint8)

    def work() -> int:
        start, length = runs_of_mask(amorphous, shape=pixels.shape)
        flat = flatten(pixels, start=start, length=length)[0].reshape(-1)
        size = 0
        for first in range(0, flat.size, BAND_BYTES // 2):
            shuffle(flat[first : first + BAND_BYTES // 2], out=shuffled)
            size += len(compressor.compress(shuffled.data))
        return size

    return work


def _rows(
    name: str, pixels: Pixels, amorphous: Mask, entropy_bits: float | None, seconds: float
) -> list[Row]:
    encoders = {
        codec: FrameEncoder(pixels.shape, dtype=pixels.dtype, codec=codec)
        for codec in _codecs("zstd", "deflate")
    }
    plain = libzstd(pixels, amorphous)
    works: dict[str, Callable[[], object]] = {
        codec: lambda encoder=encoder: encoder.encode(pixels, amorphous)  # type: ignore[misc]
        for codec, encoder in encoders.items()
    }
    times = in_turns({**works, "plain": plain}, seconds=seconds)
    n_kept = pixels.size * (1 - amorphous.mean())
    plain_bits = 8 * plain() / n_kept
    rows = []
    for codec, encoder in encoders.items():
        bits = 8 * encoder.encode(pixels, amorphous).stored_bytes / n_kept
        title = f"archive, {codec}, {name}, {SIZE}² uint16, 30 % amorphous"
        rows.append(
            row(
                f"{title}: size (reference: libzstd; limit: entropy)", bits, "bit/pixel",
                reference=plain_bits, limit=entropy_bits,
            )
        )  # fmt: skip
        rows.append(
            row(
                f"{title}: encoding of raw bytes, one thread (reference: libzstd)",
                pixels.nbytes / 1e6 / times[codec], "GB/s",
                reference=pixels.nbytes / 1e6 / float(np.median(times["plain"])),
            )
        )  # fmt: skip
    return rows


def _codecs(*names: Codec) -> tuple[Codec, ...]:
    return names


def _append_row(pixels: Pixels, amorphous: Mask) -> Row:
    """Time the writing of encoded frames, in flushes of 32, beside writing their bytes."""
    encoder = FrameEncoder(pixels.shape, dtype=pixels.dtype, codec="zstd")
    encoded = encoder.encode(pixels, amorphous)
    with tempfile.TemporaryDirectory() as folder:
        writer = ArchiveWriter.create(
            Path(folder) / "s.nxs", start=SeriesStart(series="bench"), shape=pixels.shape,
            dtype="<u2", codec="zstd",
        )  # fmt: skip
        with (Path(folder) / "plain").open("wb") as file:
            payload = b"".join(chunk.payload for chunk in encoded.chunks)
            times = in_turns(
                {
                    "ours": lambda: writer.append(
                        _batch(writer, encoded, amorphous), archived_ns=1
                    ),
                    "write": lambda: [file.write(payload) for _ in range(BATCH)],
                },
                seconds=2.0,
            )
        writer.abandon()
    return row(
        "archive, append to HDF5 with journal and tables, a frame (limit: writing its bytes)",
        times["ours"] / BATCH, "ms", limit=float(np.median(times["write"])) / BATCH,
    )  # fmt: skip


def _batch(
    writer: ArchiveWriter, encoded: EncodedFrame, amorphous: Mask
) -> list[tuple[SegmentedFrame, Any]]:
    template = segmented(0, encoded, amorphous)
    return [
        (replace(template, header=replace(template.header, row=row_)), encoded)
        for row_ in range(writer.next_row, writer.next_row + BATCH)
    ]


def segmented(row_: int, encoded: EncodedFrame, amorphous: Mask) -> SegmentedFrame:
    header = FrameHeader(
        series="bench", series_id="", sequence=row_, row=row_, shape=(SIZE, SIZE), dtype="<u2",
        digest=encoded.digest, received_ns=0,
    )  # fmt: skip
    nothing = np.zeros_like(amorphous)
    return SegmentedFrame(
        delivery=Delivery(log_id=0, ordinal=row_, offset=0, pub=0, shard=0, floor=0),
        header=header, amorphous=amorphous, vacuum=nothing, beam_off=nothing,
        coefficients=np.ones((3, 3), np.float32), thumbnail=nothing.view(np.uint8),
        method="bragg", graphene_fraction=0.7, amorphous_fraction=0.3, vacuum_fraction=0.0,
        beam_off_fraction=0.0,
    )  # fmt: skip
