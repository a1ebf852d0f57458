"""The messages that travel through the pipeline, one type per hand-over.

A source yields `FeedItem`s. `ingest` writes each into the frame log as a record with a dense
ordinal and publishes it; the frames then travel as

    RawFrame -> NormalisedFrame -> SegmentedFrame -> FrameSummary

while `SeriesStart`, `LossRange` and `SeriesEnd` pass through unchanged, in `ControlRecord`.
Everything is frozen; arrays that came off the wire or out of the log are read-only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = NDArray[np.bool_]
Pixels: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the feed says of the exposure. None means that it did not say."""

    pixel_size_nm: float | None = None
    exposure_s: float | None = None
    dose_e_per_nm2: float | None = None
    voltage_kv: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesStart:
    """A series begins."""

    series: str
    """Name given by the feed; the archive is named after it."""
    series_id: str = ""
    """Unique identity, given by `ingest`."""
    n_expected: int | None = None
    """Number of frames announced, None when the feed does not know."""
    feed: str = ""
    """Kind of feed, as in the settings: native, replay, simulated."""
    started_ns: int = 0
    calibration: Calibration = field(default_factory=Calibration)
    metadata: dict[str, str] = field(default_factory=dict)
    """Whatever else the feed says, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedFrame:
    """One frame as the feed gave it."""

    sequence: int
    """Number of the frame in its series, from 0, as counted by the feed."""
    pixels: NDArray[np.generic]
    """(M, N) detector counts; with a `fault`, it may be the 1-D uint8 bytes as received."""
    name: str = ""
    acquired_ns: int = 0
    """Time of acquisition in nanoseconds since 1970, 0 when the feed does not say."""
    fault: str = ""
    """Why the frame cannot be analysed, empty when it can. Such a frame is archived raw."""
    series: str = ""
    """Name of its series where the feed repeats it with each frame, else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedGap:
    """The feed itself knows that frames are missing."""

    first: int
    n_frames: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedReject:
    """A message of the feed that could not be understood at all."""

    reason: str
    """One fixed word for the metric label."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEnd:
    """A series is complete, or is ended by something else."""

    series: str = ""
    series_id: str = ""
    n_frames: int | None = None
    """Number of frames that the feed says it sent, None when it does not say."""
    n_received: int = 0
    """Frames accounted for: n_archived + n_lost. Filled in by `ingest`."""
    n_archived: int = 0
    """Frames in the log, each of which becomes a row of the archive. Filled in by `ingest`."""
    n_repeated: int = 0
    """Frames dropped because the same sequence number came with the same pixels."""
    n_republished: int = 0
    """Publications beyond the first, up to the moment of the end."""
    reason: str = ""
    """Empty for a regular end, else what ended the series."""


@dataclass(frozen=True, slots=True)
class FeedFinished:
    """The feed has no further series: a replay that is through."""


FeedItem: TypeAlias = SeriesStart | FeedFrame | FeedGap | FeedReject | SeriesEnd | FeedFinished


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPosition:
    """Where a restarted `ingest` takes up a feed that can be read again."""

    series: str
    next_sequence: int
    n_expected: int | None = None
    """Number of frames that the series' start announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRange:
    """Frames of a series that never reached the log, declared."""

    series: str
    series_id: str
    first: int
    n_frames: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """What is known of a frame without looking at its pixels."""

    series: str
    series_id: str
    sequence: int
    row: int
    """Place in the archive of its series, from 0, dense: the order in which frames came."""
    shape: tuple[int, int]
    """(M, N); (n, 0) where only n raw bytes could be kept, see `fault`."""
    dtype: str
    """numpy's name with the byte order, little endian: '<u2'."""
    received_ns: int
    digest: int = 0
    """xxh3, 64 bit, of the pixel bytes as received; travels in the envelope."""
    acquired_ns: int = 0
    name: str = ""
    fault: str = ""
    pixel_size_nm: float = 0.0
    """Of the detector, as the feed calibrates the series; 0 where it does not."""

    @property
    def n_bytes(self) -> int:
        """Size of the pixels in bytes."""
        if self.shape[1] == 0:
            return self.shape[0]
        return self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a record travels: its place in the frame log and the number of its publication."""

    log_id: int
    ordinal: int
    """Dense number of the record in its log; -1 in a mark."""
    offset: int
    """Byte offset of the record in the log."""
    pub: int
    """Number of the publication; grows by one with each message that `ingest` sends."""
    shard: int
    floor: int
    """All ordinals below this one are in the archive, as far as `ingest` knows."""
    attempt: int = 1
    digest: int = 0
    """xxh3, 64 bit, of the pixel bytes as they went into the log; 0 without pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFrame:
    """ingest -> normalise: the pixels lie in the frame log at `delivery.offset`."""

    delivery: Delivery
    header: FrameHeader
    pixels: Pixels | None = None
    """As in the header; only for stages that cannot see the frame log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalisedFrame:
    """normalise -> segment: the working image, evened out and standardised."""

    delivery: Delivery
    header: FrameHeader
    image: NDArray[np.float32]
    """(P, Q) float32, mean 0, deviation 1; all zeros when the header has a fault."""
    coefficients: NDArray[np.float32]
    """(d+1, d+1) Bézier coefficients of the illumination, in detector counts."""
    vacuum: Bits
    """(P, Q), True where the beam meets no specimen."""
    beam_off: Bits
    """(P, Q), True outside the illuminated field."""
    thumbnail: NDArray[np.uint8]
    """The working image from -3 to +3 deviations, at the size of all thumbnails of a session."""
    reflections: NDArray[np.float64] | None = None
    """(n, 3), those of the lattice: components of g in 1/px, prominence. None: not searched for."""
    scale: str = "resize"
    """Where the size of the working image is from: resize, calibration, spectrum, none."""
    working_pixel_nm: float = math.nan
    """Size of a working pixel, NaN where it is not known."""
    pixels: Pixels | None = None
    """As in the header; only for a `sort` that cannot see the frame log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedFrame:
    """segment -> sort: what covers each pixel of the working image."""

    delivery: Delivery
    header: FrameHeader
    amorphous: Bits
    """(P, Q), at the size of the working image."""
    vacuum: Bits
    """At the size of the thumbnail, as `beam_off`."""
    beam_off: Bits
    coefficients: NDArray[np.float32]
    thumbnail: NDArray[np.uint8]
    method: str
    """unet, bragg, or none when the frame could not be analysed."""
    graphene_fraction: float
    amorphous_fraction: float
    vacuum_fraction: float
    beam_off_fraction: float
    confidence: float = math.nan
    """How sure the segmenter was, 0 to 1, mean over the pixels; NaN where it cannot tell."""
    agreement: float = math.nan
    """Share of pixels on which U-Net and Bragg filter agree; NaN unless the frame was sampled."""
    scale: str = "resize"
    working_pixel_nm: float = math.nan
    """As in `NormalisedFrame`."""
    pixels: Pixels | None = None
    """As in the header; only for a `sort` that cannot see the frame log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRecord:
    """A record without pixels, passed on by every stage as it came."""

    delivery: Delivery
    record: SeriesStart | LossRange | SeriesEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """A process on the way of a shard, as it said of itself when a mark passed it."""

    stage: str
    index: int
    host: str
    """Name of its host."""
    pid: int
    n_done: int
    """Frames done by this process."""
    is_leaving: bool = False
    """Whether it was told to stop, and works off what is on its way to it."""
    age_s: float = 0.0
    """Since `sort` last heard of it; 0 in a mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Moves the horizon of a shard, and tells of the stages that it has passed."""

    delivery: Delivery
    is_last: bool = False
    """Nothing follows on the shard for now: a worker that is to leave misses nothing if it goes."""
    stations: tuple[Station, ...] = ()
    """Those passed so far, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSummary:
    """sort -> watchers: what a page or a notebook shows of an archived frame."""

    series: str
    series_id: str
    sequence: int
    row: int
    name: str
    shape: tuple[int, int]
    method: str
    fault: str
    graphene_fraction: float
    amorphous_fraction: float
    vacuum_fraction: float
    beam_off_fraction: float
    confidence: float
    agreement: float
    received_ns: int
    rank: int
    """Place by graphene fraction among the frames of the series so far, 0 is the best."""
    latency_s: float
    thumbnail: NDArray[np.uint8]
    amorphous: Bits
    vacuum: Bits


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesStatus:
    """sort -> watchers: how a series stands; repeated each second, and told at its end."""

    series: str
    series_id: str
    n_expected: int | None
    pixel_size_nm: float | None
    n_archived: int
    n_lost: int
    """Frames declared lost so far, less those that came late."""
    lost_reason: str
    """Of the latest loss, empty when there is none."""
    archive: str
    """Path of the archive, without the number of a file."""
    is_closed: bool
