"""Finds settings that suit this machine, by timing each stage's work on simulated frames.

The work of a frame is shared out over the processors: `normalise` is one process, `segment` as
many as wanted, and `sort` encodes in threads. The rate that all processors together allow decides
how many of each are needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hrtem_stream.errors import SettingsError

SLOWEST_SHARE = 0.9
"""The codec that opens everywhere is kept if it is no slower than this beside the faster one."""
ROUNDS = 5
LARGEST = 16

Codec = Literal["deflate", "zstd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Milliseconds of one processor for one frame."""

    normalise: float
    segment: float
    encode: Mapping[Codec, float]
    segmenter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to set, and the rate to be expected at most."""

    codec: Codec
    segmenter: str
    workers: int
    threads: int
    frames_per_s: float

    def as_toml(self) -> str:
        """Give the choice as a settings file."""
        return (
            f'[segment]\nsegmenter = "{self.segmenter}"\nworkers = {self.workers}\n\n'
            f"[sort]\nthreads = {self.threads}\n\n"
            f'[archive]\ncodec = "{self.codec}"\n'
        )


def choose(timings: Timings, *, n_processors: int) -> Choice:
    """Choose codec, workers and threads so that no stage is short of processors."""
    rates = {
        codec: 1e3 * n_processors / (timings.normalise + timings.segment + encode)
        for codec, encode in timings.encode.items()
    }
    keeps = rates["deflate"] >= SLOWEST_SHARE * rates["zstd"]
    codec: Codec = "deflate" if keeps else "zstd"
    rate = min(rates[codec], 1e3 / timings.normalise)
    return Choice(
        codec=codec, segmenter=timings.segmenter,
        workers=_needed(rate, timings.segment, n_processors),
        threads=_needed(rate, timings.encode[codec], n_processors),
        frames_per_s=rate,
    )  # fmt: skip


def time_stages(size: int, *, segmenter: str) -> Timings:
    """Time the work of each stage on simulated frames of a size.

    Raises
    ------
    SettingsError
        The segmenter is asked for by name and is not to be had.
    """
    import cv2

    from hrtem_stream.archive.encoding import FrameEncoder
    from hrtem_stream.pipeline.segmenter import make_segmenter
    from hrtem_stream.science.illumination import normalise_frame
    from hrtem_stream.science.synthetic import SyntheticSeries
    from hrtem_stream.settings import SegmentSettings

    if not 64 <= size <= 8192:
        raise SettingsError(f"size must be from 64 to 8192 pixels, got {size}")
    cv2.setNumThreads(1)
    frame = SyntheticSeries(shape=(size, size), seed=1).frame(14).pixels
    wanted = SegmentSettings.model_validate({"segmenter": segmenter})
    made = make_segmenter(wanted, working_size=256)
    image = normalise_frame(frame).image[np.newaxis]
    masks = made.segment(image)
    encoders = {
        codec: FrameEncoder(frame.shape, dtype=frame.dtype, codec=codec)
        for codec in ("deflate", "zstd")
    }
    return Timings(
        normalise=_milliseconds(lambda: normalise_frame(frame)),
        segment=_milliseconds(lambda: made.segment(image)),
        encode={
            "deflate": _milliseconds(lambda: encoders["deflate"].encode(frame, masks.amorphous[0])),
            "zstd": _milliseconds(lambda: encoders["zstd"].encode(frame, masks.amorphous[0])),
        },
        segmenter=masks.method,
    )


def _needed(frames_per_s: float, milliseconds: float, n_processors: int) -> int:
    return max(1, min(math.ceil(frames_per_s * milliseconds / 1e3), n_processors, LARGEST))


def _milliseconds(work: Callable[[], Any]) -> float:
    work()
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1e3 * sorted(times)[ROUNDS // 2]
