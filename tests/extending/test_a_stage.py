"""How a stage is added, into `stages/`, its process into `pipeline/stages.py` and `names.py`."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from hrtem_stream.messages import Delivery, FrameHeader, NormalisedFrame, RawFrame
from hrtem_stream.runtime.stage import Stage
from hrtem_stream.stages.normalise import Normalise


class Denoise(Stage[NormalisedFrame, NormalisedFrame]):
    """Smooths the working images on their way from `normalise` to `segment`."""

    name = "denoise"

    def process(self, batch: Sequence[NormalisedFrame]) -> list[NormalisedFrame]:
        return [replace(f, image=cv2.GaussianBlur(f.image, (0, 0), 0.8)) for f in batch]

    def pass_on(self, frame: NormalisedFrame, reason: str) -> NormalisedFrame:
        return replace(frame, header=replace(frame.header, fault=reason))


class OneFrame:
    def pixels(self, *place: object) -> np.ndarray:
        return np.random.default_rng(0).poisson(100, (256, 256)).astype(np.uint16)


def test_a_new_stage_works_between_two_others() -> None:
    known = {"series": "s", "series_id": "1", "dtype": "<u2", "received_ns": 1}
    header = FrameHeader(sequence=0, row=0, shape=(256, 256), **known)
    delivery = Delivery(log_id=1, ordinal=0, offset=0, pub=0, shard=0, floor=0)
    raw = RawFrame(delivery=delivery, header=header)
    normalised = Normalise(OneFrame(), working_size=256).process([raw])
    (frame,) = Denoise().process(normalised)
    assert frame.image.std() < 0.6 * normalised[0].image.std()
    assert Denoise().pass_on(frame, "it hangs").header.fault == "it hangs"
