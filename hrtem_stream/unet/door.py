"""The U-Net as the `segment` stage takes it: loaded, warmed, timed, and named."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import SegmenterError
from hrtem_stream.unet.inference import AS_IS, FOUR_FLIPS, UNetSegmenter, best_device, use_threads

N_TIMED = 5


@dataclass(frozen=True, slots=True)
class UNetMasks:
    """What the network gives for a batch, with the name of the method."""

    method: str
    amorphous: NDArray[np.bool_]
    confidence: NDArray[np.float32]


class UNet:
    """The network behind the door of the stage."""

    def __init__(self, segmenter: UNetSegmenter) -> None:
        self._segmenter = segmenter

    def segment(self, images: NDArray[np.float32]) -> UNetMasks:
        """Segment standardised images (B, P, Q).

        Raises
        ------
        SegmenterError
            Torch failed, memory was short, or the output was not finite.
        """
        amorphous, confidence = self._segmenter.segment(images)
        return UNetMasks("unet", amorphous, confidence)


def load_unet(
    weights: Path | None,
    *,
    working_size: int,
    max_batch: int,
    four_flips: bool,
    slowest_s: float,
) -> UNet:
    """Load the network on the best device, warm it, and time it.

    Parameters
    ----------
    weights
        None: those that come with the program.
    slowest_s
        On a processor, an image may take so long; a GPU is never too slow.

    Raises
    ------
    SegmenterError
        The weights are damaged, the device fails, or the processor is too slow.
    """
    device = best_device()
    if device == "cpu":
        use_threads(1)
        # A batch gains nothing on a processor, and one image at a time gives the same mask
        # whichever frames came with it: a replay with kills equals one without.
        max_batch = 1
    segmenter, _ = UNetSegmenter.from_checkpoint(
        weights, device=device, max_batch=max_batch, flips=FOUR_FLIPS if four_flips else AS_IS
    )
    segmenter.warm_up(shape=(working_size, working_size))
    if device == "cpu":
        took_s = _time_of_image(segmenter, working_size)
        if took_s > slowest_s:
            message = f"an image takes {took_s:.3f} s here, more than slowest_s = {slowest_s:g} s"
            raise SegmenterError(message, "too_slow")
    return UNet(segmenter)


def _time_of_image(segmenter: UNetSegmenter, working_size: int) -> float:
    """Give the best of a few times, since other work may come between."""
    image = np.random.default_rng(0).standard_normal((1, working_size, working_size), np.float32)
    times = []
    for _ in range(N_TIMED):
        began = time.perf_counter()
        segmenter.segment(image)
        times.append(time.perf_counter() - began)
    return min(times)
