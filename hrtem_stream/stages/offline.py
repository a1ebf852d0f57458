"""normalise and segment without sockets: the very same stages, fed from memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from hrtem_stream.messages import Delivery, FrameHeader, RawFrame, SegmentedFrame
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
    frames: Iterable[tuple[str, NDArray[Any], str]], segmenter: WithFallback, *, working_size: int
) -> Iterator[SegmentedFrame]:
    """Normalise and segment frames in memory, in order.

    Parameters
    ----------
    frames
        Name, pixels (M, N) and fault of each; with a fault, the pixels may be anything.
    segmenter
        The segmenter of choice, with its fallback.
    working_size
        Height and width of the working image in pixels.
    """
    memory = _Memory()
    normalise = Normalise(memory, working_size=working_size)
    segment = Segment(segmenter, working_size=working_size)
    remaining = enumerate(frames)
    while batch := list(islice(remaining, BATCH_FRAMES)):
        memory.frames.clear()
        raw = []
        for number, (name, pixels, fault) in batch:
            stored, shape, fault = storable(pixels, fault)
            memory.frames[number] = stored
            raw.append(_raw_frame(number, name, shape, stored.dtype.str, fault))
        yield from segment.process(normalise.process(raw))


def _raw_frame(number: int, name: str, shape: tuple[int, int], dtype: str, fault: str) -> RawFrame:
    return RawFrame(
        delivery=Delivery(log_id=0, ordinal=number, offset=0, pub=number, shard=0, floor=0),
        header=FrameHeader(
            series="", series_id="", sequence=number, row=number, shape=shape, dtype=dtype,
            received_ns=0, name=name, fault=fault,
        ),
    )  # fmt: skip
