"""The U-Net as the `segment` stage takes it: loaded, warmed, timed, and named."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import SegmenterError
from hrtem_stream.unet.checkpoint import WEIGHTS
from hrtem_stream.unet.inference import (
    AS_IS,
    FOUR_FLIPS,
    Engine,
    UNetSegmenter,
    best_device,
    use_threads,
)

logger = logging.getLogger(__name__)

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
    engine: Literal["auto", "torch", "openvino"] = "auto",
) -> UNet:
    """Load the network on the best device, warm it, and time it.

    Parameters
    ----------
    weights
        None: those that come with the program.
    slowest_s
        On a processor, an image may take so long; a GPU is never too slow.
    engine
        What calculates. auto: torch on a GPU; on a processor OpenVINO where it is installed and
        knows the network, else torch. openvino: on the processor even where there is a GPU.

    Raises
    ------
    SegmenterError
        The weights are damaged, the device fails, or the processor is too slow.
    """
    device = "cpu" if engine == "openvino" else best_device()
    if device == "cpu":
        use_threads(1)
        # A batch gains nothing on a processor, and one image at a time gives the same mask
        # whichever frames came with it: a replay with kills equals one without.
        max_batch = 1

    def ready(engine: Engine) -> UNetSegmenter:
        segmenter, _ = UNetSegmenter.from_checkpoint(
            weights,
            device=device,
            max_batch=max_batch,
            flips=FOUR_FLIPS if four_flips else AS_IS,
            engine=engine,
        )
        segmenter.warm_up(shape=(working_size, working_size))
        return segmenter

    if engine == "auto":
        segmenter = _first_ready(ready, ["torch"] if device != "cpu" else ["openvino", "torch"])
    else:
        segmenter = ready(engine)
    if device == "cpu":
        took_s = _time_of_image(segmenter, working_size)
        if took_s > slowest_s:
            message = f"an image takes {took_s:.3f} s here, more than slowest_s = {slowest_s:g} s"
            raise SegmenterError(message, "too_slow")
    return UNet(segmenter)


def _first_ready(
    ready: Callable[[Engine], UNetSegmenter], engines: Sequence[Engine]
) -> UNetSegmenter:
    """Try the engines in turn; damaged weights serve none of them."""
    *preferred, last = engines
    for engine in preferred:
        try:
            return ready(engine)
        except SegmenterError as error:
            if error.reason == WEIGHTS:
                raise
            level = logging.DEBUG if error.reason == "not_installed" else logging.WARNING
            logger.log(level, "torch calculates, not %s: %s", engine, error)
    return ready(last)


def _time_of_image(segmenter: UNetSegmenter, working_size: int) -> float:
    """Give the best of a few times, since other work may come between."""
    image = np.random.default_rng(0).standard_normal((1, working_size, working_size), np.float32)
    times = []
    for _ in range(N_TIMED):
        began = time.perf_counter()
        segmenter.segment(image)
        times.append(time.perf_counter() - began)
    return min(times)
