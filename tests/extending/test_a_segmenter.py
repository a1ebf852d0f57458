"""How a segmenter is added: a class with `segment`. It belongs into `stages/` or a room of its own,
a name of `segment.segmenter` into `settings.py`, and a line into `pipeline/segmenter.py`."""

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import SegmenterError
from hrtem_stream.simulators.camera import SimulatedCamera
from hrtem_stream.stages.fallback import BraggSegmenter, Masks, WithFallback
from hrtem_stream.stages.offline import segment_frames


class BrightIsGraphene:
    """Says that everything darker than the mean is amorphous; gives up on flat images."""

    def segment(self, images: NDArray[np.float32]) -> Masks:
        if not images.any():
            raise SegmenterError("the images are flat", "flat")
        confidence = np.full(len(images), np.nan, np.float32)
        return Masks("bright", images < 0.0, confidence)

    def warm_up(self) -> None:
        """Load what the first frame needs: nothing."""


def test_a_new_segmenter_is_asked_and_the_bragg_filter_stands_behind_it() -> None:
    (frame,) = SimulatedCamera(n_frames=1, size=256, seed=3)
    switches: list[str] = []
    segmenter = WithFallback(
        BrightIsGraphene(), fallback=BraggSegmenter(), oldest_s=0.0, note_switch=switches.append
    )
    (found,) = segment_frames([("a", frame.pixels, "")], segmenter, working_size=256)
    assert found.method == "bright"
    assert 0.0 < found.amorphous.mean() < 1.0
    masks = segmenter.segment(np.zeros((1, 256, 256), np.float32), age_s=0.0)
    assert (masks.method, switches) == ("bragg", ["flat"])
