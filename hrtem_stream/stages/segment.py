"""segment: tells graphene from contaminant, with whatever segmenter it is given.

When a segmenter fails, its batch goes to the Bragg filter, and `method` says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import SegmenterError
from hrtem_stream.messages import NormalisedFrame, SegmentedFrame
from hrtem_stream.runtime.stage import Stage
from hrtem_stream.science.bragg import bragg_mask
from hrtem_stream.science.coverage import coverage

logger = logging.getLogger(__name__)

NONE = "none"


class Segmenter(Protocol):
    """Anything that finds the amorphous pixels of working images."""

    method: str
    """Name in archive and metrics."""

    def segment(self, images: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Give the amorphous masks (B, P, Q) of standardised images (B, P, Q).

        Raises
        ------
        SegmenterError
            It failed; another segmenter takes the batch.
        """


class BraggSegmenter:
    """The Bragg filter as a segmenter: needs no training, and never fails."""

    method = "bragg"

    def segment(self, images: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Filter each image."""
        return np.stack([bragg_mask(image) for image in images])


class Segment(Stage[NormalisedFrame, SegmentedFrame]):
    """The stage.

    Parameters
    ----------
    segmenter
        The segmenter of choice.
    fallback
        Takes the batches on which the first one fails.
    working_size
        Height and width of the working image in pixels, for warming up.
    note_method
        Told the method of each frame, for the metrics.
    """

    name = "segment"

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        fallback: Segmenter,
        working_size: int = 256,
        note_method: Callable[[str], None] = lambda method: None,
    ) -> None:
        self._segmenter = segmenter
        self._fallback = fallback
        self._working_size = working_size
        self._note_method = note_method

    def warm_up(self) -> None:
        """Run both segmenters once."""
        rng = np.random.default_rng(0)
        images = rng.standard_normal((1, self._working_size, self._working_size)).astype(np.float32)
        self._segmenter.segment(images)
        self._fallback.segment(images)

    def process(self, batch: Sequence[NormalisedFrame]) -> list[SegmentedFrame]:
        """Segment the frames that can be, and pass on the others."""
        usable = [frame for frame in batch if not frame.header.fault]
        segmented = iter(self._segment(usable) if usable else [])
        return [
            self.pass_on(frame, frame.header.fault) if frame.header.fault else next(segmented)
            for frame in batch
        ]

    def pass_on(self, frame: NormalisedFrame, reason: str) -> SegmentedFrame:
        """Give a frame without a mask: nothing is known of it, so nothing counts as graphene."""
        none = np.zeros(frame.image.shape, np.bool_)
        self._note_method(NONE)
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
        )

    def _segment(self, frames: Sequence[NormalisedFrame]) -> list[SegmentedFrame]:
        images = np.stack([frame.image for frame in frames])
        method = self._segmenter.method
        try:
            masks = self._segmenter.segment(images)
        except SegmenterError as error:
            method = self._fallback.method
            logger.warning("%s failed, %s takes over: %s", self._segmenter.method, method, error)
            masks = self._fallback.segment(images)
        return [self._result(f, mask, method) for f, mask in zip(frames, masks, strict=True)]

    def _result(
        self, frame: NormalisedFrame, mask: NDArray[np.bool_], method: str
    ) -> SegmentedFrame:
        self._note_method(method)
        amorphous = mask & ~frame.vacuum & ~frame.beam_off
        shares = coverage(amorphous, frame.vacuum, frame.beam_off)
        return SegmentedFrame(
            delivery=frame.delivery,
            header=frame.header,
            amorphous=amorphous,
            vacuum=frame.vacuum,
            beam_off=frame.beam_off,
            coefficients=frame.coefficients,
            thumbnail=frame.thumbnail,
            method=method,
            graphene_fraction=shares.graphene_fraction,
            amorphous_fraction=shares.amorphous_fraction,
            vacuum_fraction=shares.vacuum_fraction,
            beam_off_fraction=shares.beam_off_fraction,
        )
