"""normalise and segment without sockets: the very same stages, fed from memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from hrtem_stream.messages import Delivery, FrameHeader, RawFrame, SegmentedFrame
from hrtem_stream.science.working_scale import Scaling
from hrtem_stream.stages.account import storable
from hrtem_stream.stages.fallback import WithFallback
from hrtem_stream.stages.normalise import Normalise
from hrtem_stream.stages.segment import Segment

BATCH_FRAMES = 8


class _Memory:
    """Frames at hand, in the place of the frame log."""

    def __init__(self) -> None:
        self.frames: dict[int, NDArray[Any]] = {}

    def pixels(
        self, log_id: int, ordinal: int, offset: int, dtype: str, shape: tuple[int, int]
    ) -> NDArray[Any]:
        """Give the pixels of a frame."""
        return self.frames[ordinal]


def segment_frames(
    frames: Iterable[tuple[str, NDArray[Any], str]],
    segmenter: WithFallback,
    *,
    working_size: int,
    scaling: Scaling | None = None,
    pixel_size_nm: float = 0.0,
) -> Iterator[SegmentedFrame]:
    """Normalise and segment frames in memory, in order.

    Parameters
    ----------
    frames
        Name, pixels (M, N) and fault of each; with a fault, the pixels may be anything.
    segmenter
        The segmenter of choice, with its fallback.
    working_size
        Height and width of the working image as published, in pixels.
    scaling
        Chooses the size of a frame's working image; None: always as published.
    pixel_size_nm
        Of the detector, 0 where it is not known.
    """
    memory = _Memory()
    normalise = Normalise(memory, working_size=working_size, scaling=scaling)
    segment = Segment(segmenter, working_size=working_size)
    remaining = enumerate(frames)
    while batch := list(islice(remaining, BATCH_FRAMES)):
        memory.frames.clear()
        raw = []
        for number, (name, pixels, fault) in batch:
            stored, shape, fault = storable(pixels, fault)
            memory.frames[number] = stored
            header = FrameHeader(
                series="", series_id="", sequence=number, row=number, shape=shape,
                dtype=stored.dtype.str, received_ns=0, name=name, fault=fault,
                pixel_size_nm=pixel_size_nm,
            )  # fmt: skip
            raw.append(_raw_frame(header))
        yield from segment.process(normalise.process(raw))


def _raw_frame(header: FrameHeader) -> RawFrame:
    number = header.row
    delivery = Delivery(log_id=0, ordinal=number, offset=0, pub=number, shard=0, floor=0)
    return RawFrame(delivery=delivery, header=header)
