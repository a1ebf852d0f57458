"""The segmenter of choice, and the Bragg filter in its place while it fails.

After a failure the batch goes to the Bragg filter, and so do the next ones for a time that doubles
with each further failure; then the segmenter of choice is tried again. Which of them a frame had
is recorded with the frame, and each batch that was taken over is counted by reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import SegmenterError
from hrtem_stream.science.bragg import bragg_mask
from hrtem_stream.science.lattice import Reflections

logger = logging.getLogger(__name__)

FIRST_BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 60.0
BACKLOG = "backlog"


@dataclass(frozen=True, slots=True)
class Masks:
    """What a segmenter gives for a batch."""

    method: str
    amorphous: NDArray[np.bool_]
    """(B, P, Q)."""
    confidence: NDArray[np.float32]
    """(B,), 0 to 1; NaN where the method cannot tell."""


class MasksLike(Protocol):
    """Anything of the shape of `Masks`."""

    @property
    def method(self) -> str:
        """Name in archive and metrics."""

    @property
    def amorphous(self) -> NDArray[np.bool_]:
        """(B, P, Q)."""

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(B,)."""


class Segmenter(Protocol):
    """Anything that finds the amorphous pixels of working images."""

    def segment(self, images: NDArray[np.float32]) -> MasksLike:
        """Segment standardised images (B, P, Q).

        Raises
        ------
        SegmenterError
            It failed; another segmenter takes the batch.
        """


def stacked(images: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Give images (P, Q) as one array (B, P, Q): where there is only one, it is not copied."""
    return images[0][np.newaxis] if len(images) == 1 else np.stack(images)


class BraggSegmenter:
    """The Bragg filter as a segmenter: needs no training, and never fails."""

    def segment(
        self, images: NDArray[np.float32], *, reflections: Sequence[Reflections | None] = ()
    ) -> Masks:
        """Filter each image; its reflections are searched for where they are not given."""
        given = reflections or [None] * len(images)
        amorphous = stacked(
            [
                bragg_mask(image, reflections=known)
                for image, known in zip(images, given, strict=True)
            ]
        )
        return Masks("bragg", amorphous, np.full(len(images), np.nan, np.float32))


class WithFallback:
    """The segmenter of choice, backed by another.

    Parameters
    ----------
    choice
        Used whenever it works.
    fallback
        Used in its place.
    oldest_s
        Batches whose frames are older go to the fallback at once; 0: none do.
    note_switch
        Told the reason whenever the fallback takes a batch.
    """

    def __init__(
        self,
        choice: Segmenter,
        *,
        fallback: Segmenter,
        oldest_s: float = 0.0,
        note_switch: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._choice = choice
        self._fallback = fallback
        self._oldest_s = oldest_s
        self._note_switch = note_switch
        self._clock = clock
        self._back_off_s = 0.0
        self._again_at_s = 0.0
        self._reason = ""
        self._fallback_method = ""
        """As it called itself last."""

    def segment(
        self,
        images: NDArray[np.float32],
        *,
        age_s: float = 0.0,
        reflections: Sequence[Reflections | None] = (),
    ) -> MasksLike:
        """Segment a batch whose oldest frame is `age_s` seconds old.

        The reflections of each image, where they are known, spare the Bragg filter its search.
        """
        if self._oldest_s and age_s > self._oldest_s:
            return self._take_over(images, reflections, BACKLOG)
        if self._clock() < self._again_at_s:
            return self._take_over(images, reflections, self._reason)
        try:
            masks = _masks(self._choice, images, reflections)
        except SegmenterError as error:
            self._fail(error)
            return self._take_over(images, reflections, error.reason)
        if self._back_off_s:
            logger.warning("%s works again", masks.method)
            self._back_off_s = 0.0
        return masks

    def compare(
        self,
        images: NDArray[np.float32],
        amorphous: NDArray[np.bool_],
        method: str,
        *,
        reflections: Sequence[Reflections | None] = (),
    ) -> NDArray[np.float32]:
        """Give the share of pixels (B,) on which the fallback agrees with a method.

        With itself it is not compared: NaN.
        """
        if method == self._fallback_method:
            return np.full(len(images), np.nan, np.float32)
        other = self._fall_back(images, reflections)
        if other.method == method:
            return np.full(len(images), np.nan, np.float32)
        agreement: NDArray[np.float32] = np.mean(
            other.amorphous == amorphous, axis=(1, 2), dtype=np.float32
        )
        return agreement

    def warm_up(self, images: NDArray[np.float32]) -> None:
        """Run both once; a choice that fails already is noted."""
        self._fall_back(images, ())
        self.segment(images)

    def _fail(self, error: SegmenterError) -> None:
        self._back_off_s = min(max(FIRST_BACK_OFF_S, 2 * self._back_off_s), LONGEST_BACK_OFF_S)
        self._again_at_s = self._clock() + self._back_off_s
        self._reason = error.reason
        logger.error(
            "the segmenter failed, the Bragg filter takes over for %g s: %s",
            self._back_off_s, error,
        )  # fmt: skip

    def _take_over(
        self,
        images: NDArray[np.float32],
        reflections: Sequence[Reflections | None],
        reason: str,
    ) -> MasksLike:
        self._note_switch(reason)
        return self._fall_back(images, reflections)

    def _fall_back(
        self, images: NDArray[np.float32], reflections: Sequence[Reflections | None]
    ) -> MasksLike:
        masks = _masks(self._fallback, images, reflections)
        self._fallback_method = masks.method
        return masks


def _masks(
    segmenter: Segmenter, images: NDArray[np.float32], reflections: Sequence[Reflections | None]
) -> MasksLike:
    """Have a segmenter segment; only the Bragg filter has a use for reflections."""
    if isinstance(segmenter, BraggSegmenter):
        return segmenter.segment(images, reflections=reflections)
    return segmenter.segment(images)
