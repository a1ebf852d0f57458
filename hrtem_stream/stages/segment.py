"""segment: tells graphene from contaminant, with whatever segmenter it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.messages import NormalisedFrame, SegmentedFrame
from hrtem_stream.runtime.stage import Stage
from hrtem_stream.science.coverage import coverage
from hrtem_stream.science.working_scale import reduce_mask
from hrtem_stream.stages.fallback import WithFallback, stacked

NONE = "none"
KNOWS_VACUUM = frozenset({"unet"})
"""Methods whose amorphous pixels are never vacuum."""


class Segment(Stage[NormalisedFrame, SegmentedFrame]):
    """The stage.

    Parameters
    ----------
    segmenter
        The segmenter of choice, with its fallback.
    working_size
        Height and width of the working image in pixels, for warming up.
    agreement_share
        Share of frames on which choice and fallback are compared.
    note
        Told of each result, for the metrics.
    """

    name = "segment"

    def __init__(
        self,
        segmenter: WithFallback,
        *,
        working_size: int = 256,
        agreement_share: float = 0.0,
        note: Callable[[SegmentedFrame], None] = lambda frame: None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._segmenter = segmenter
        self._working_size = working_size
        self._period = round(1 / agreement_share) if agreement_share else 0
        self._note = note
        self._clock_ns = clock_ns

    def warm_up(self) -> None:
        """Run the segmenters once, on an image of which they take every step.

        By itself it is read-only, as it comes, and of two a copy is made: the compiler takes these
        for different types.
        """
        image = half_covered_lattice(self._working_size)
        image.flags.writeable = False
        for images in ([image], [image, image]):
            self._segmenter.warm_up(stacked(images))

    def process(self, batch: Sequence[NormalisedFrame]) -> list[SegmentedFrame]:
        """Segment the frames that can be, and pass on the others."""
        results: dict[int, SegmentedFrame] = {}
        sizes: dict[tuple[int, ...], list[int]] = {}
        for n, frame in enumerate(batch):
            if frame.header.fault:
                results[n] = self.pass_on(frame, frame.header.fault)
            else:
                sizes.setdefault(frame.image.shape, []).append(n)
        for members in sizes.values():
            segmented = self._segment([batch[n] for n in members])
            results.update(zip(members, segmented, strict=True))
        return [results[n] for n in range(len(batch))]

    def pass_on(self, frame: NormalisedFrame, reason: str) -> SegmentedFrame:
        """Give a frame without a mask: nothing is known of it, so nothing counts as graphene."""
        result = without_analysis(frame, reason)
        self._note(result)
        return result

    def _segment(self, frames: Sequence[NormalisedFrame]) -> list[SegmentedFrame]:
        images = stacked([frame.image for frame in frames])
        received_ns = min(frame.header.received_ns for frame in frames)
        age_s = (self._clock_ns() - received_ns) / 1e9 if received_ns else 0.0
        reflections = [frame.reflections for frame in frames]
        masks = self._segmenter.segment(images, age_s=age_s, reflections=reflections)
        agreement = np.full(len(frames), np.nan, np.float32)
        sampled = [n for n, frame in enumerate(frames) if self._is_sampled(frame)]
        if sampled:
            agreement[sampled] = self._segmenter.compare(
                images[sampled], masks.amorphous[sampled], masks.method,
                reflections=[reflections[n] for n in sampled],
            )  # fmt: skip
        return [
            self._result(
                frame, masks.amorphous[n], masks.method,
                confidence=float(masks.confidence[n]), agreement=float(agreement[n]),
            )
            for n, frame in enumerate(frames)
        ]  # fmt: skip

    def _is_sampled(self, frame: NormalisedFrame) -> bool:
        """Sample by row, so that a frame that is sent again is sampled again."""
        return self._period > 0 and frame.header.row % self._period == 0

    def _result(
        self,
        frame: NormalisedFrame,
        mask: NDArray[np.bool_],
        method: str,
        *,
        confidence: float,
        agreement: float,
    ) -> SegmentedFrame:
        vacuum = _vacuum(frame, mask, method)
        amorphous = mask & ~vacuum & ~frame.beam_off
        shares = coverage(amorphous, vacuum, frame.beam_off)
        small = frame.thumbnail.shape
        result = SegmentedFrame(
            delivery=frame.delivery,
            header=frame.header,
            amorphous=amorphous,
            vacuum=reduce_mask(vacuum, shape=(small[0], small[1])),
            beam_off=reduce_mask(frame.beam_off, shape=(small[0], small[1])),
            coefficients=frame.coefficients,
            thumbnail=frame.thumbnail,
            method=method,
            graphene_fraction=shares.graphene_fraction,
            amorphous_fraction=shares.amorphous_fraction,
            vacuum_fraction=shares.vacuum_fraction,
            beam_off_fraction=shares.beam_off_fraction,
            confidence=confidence,
            agreement=agreement,
            scale=frame.scale,
            working_pixel_nm=frame.working_pixel_nm,
            pixels=frame.pixels,
        )
        self._note(result)
        return result


def half_covered_lattice(size: int) -> NDArray[np.float32]:
    """Draw a working image whose left half is covered: on noise alone a filter stops early."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((size, size))
    waves = (np.cos(0.6 * rows + 1.1 * columns), np.cos(0.6 * rows - 1.1 * columns))
    grains = np.kron(rng.standard_normal((size // 8, size // 8)), np.ones((8, 8)))
    image = np.where(columns < size // 2, grains, waves[0] + waves[1])
    image += 0.2 * rng.standard_normal(image.shape)
    return np.asarray((image - image.mean()) / image.std(), np.float32)


def _vacuum(frame: NormalisedFrame, mask: NDArray[np.bool_], method: str) -> NDArray[np.bool_]:
    """Settle what is vacuum where the mask says amorphous.

    The network has learnt what a hole looks like; of the Bragg filter's mask holes are cut. But
    that a frame is empty is told by its whole spectrum, which is more than either sees.
    """
    empty = bool((frame.vacuum | frame.beam_off).all())
    return frame.vacuum & ~mask if method in KNOWS_VACUUM and not empty else frame.vacuum


def without_analysis(frame: NormalisedFrame | SegmentedFrame, reason: str) -> SegmentedFrame:
    """Give a frame of which nothing is known, so that nothing counts as graphene."""
    none = np.zeros(frame.thumbnail.shape, np.bool_)
    return SegmentedFrame(
        delivery=frame.delivery,
        header=replace(frame.header, fault=frame.header.fault or reason),
        amorphous=none,
        vacuum=none,
        beam_off=none,
        coefficients=frame.coefficients,
        thumbnail=frame.thumbnail,
        method=NONE,
        graphene_fraction=0.0,
        amorphous_fraction=0.0,
        vacuum_fraction=0.0,
        beam_off_fraction=0.0,
        pixels=frame.pixels,
    )
