"""The network as a segmenter, and every way in which torch can fail it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hrtem_stream.errors import SegmenterError
from hrtem_stream.unet import inference
from hrtem_stream.unet.architecture import build
from hrtem_stream.unet.inference import (
    FOUR_FLIPS,
    GROW_AFTER,
    UNetSegmenter,
    best_device,
    best_precision,
)
from tests.unet.frames import TINY, needs_real_frames

IMAGES = np.random.default_rng(0).standard_normal((5, 48, 64)).astype(np.float32)


class Bright(nn.Module):
    """Log odds are ten times the image."""

    def forward(self, images: Tensor) -> Tensor:
        return 10.0 * images


class Narrow(nn.Module):
    """Runs out of memory above `limit` images."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.limit:
            raise torch.cuda.OutOfMemoryError("no memory left")
        return images


class Broken(nn.Module):
    """Answers NaN, or fails as CUDA does."""

    def __init__(self, *, message: str = "") -> None:
        super().__init__()
        self.message = message

    def forward(self, images: Tensor) -> Tensor:
        if self.message:
            raise RuntimeError(self.message)
        return images * float("nan")


def test_masks_are_where_the_log_odds_exceed_the_threshold() -> None:
    amorphous, confidence = UNetSegmenter(Bright(), threshold=0.5).segment(IMAGES)
    np.testing.assert_array_equal(amorphous, IMAGES > 0)
    assert amorphous.dtype == np.bool_
    assert confidence.shape == (5,)
    assert confidence.dtype == np.float32
    assert (confidence > 0.8).all()


def test_a_higher_threshold_finds_less() -> None:
    low, high = (
        UNetSegmenter(Bright(), threshold=threshold).segment(IMAGES)[0] for threshold in (0.2, 0.8)
    )
    assert not (high & ~low).any()
    assert high.sum() < low.sum()


def test_an_undecided_network_has_no_confidence() -> None:
    _, confidence = UNetSegmenter(Bright()).segment(np.zeros((2, 16, 16), np.float32))
    np.testing.assert_array_equal(confidence, 0)


@pytest.mark.parametrize("max_batch", [1, 2, 5, 8])
def test_the_batch_size_does_not_change_the_answer(max_batch: int) -> None:
    torch.manual_seed(0)
    network = build(TINY)
    reference = UNetSegmenter(network, max_batch=5).segment(IMAGES)[0]
    amorphous = UNetSegmenter(network, max_batch=max_batch).segment(IMAGES)[0]
    assert np.mean(amorphous == reference) > 0.999


def test_an_empty_batch_is_no_work() -> None:
    amorphous, confidence = UNetSegmenter(Bright()).segment(np.empty((0, 16, 16), np.float32))
    assert amorphous.shape == (0, 16, 16)
    assert confidence.shape == (0,)


def test_read_only_images_are_taken_and_left() -> None:
    images = IMAGES.copy()
    images.flags.writeable = False
    UNetSegmenter(build(TINY)).segment(images)
    np.testing.assert_array_equal(images, IMAGES)


def test_four_flips_make_the_answer_symmetric() -> None:
    torch.manual_seed(1)
    segmenter = UNetSegmenter(build(TINY), flips=FOUR_FLIPS)
    straight = segmenter.probabilities(IMAGES)
    mirrored = segmenter.probabilities(np.ascontiguousarray(IMAGES[..., ::-1]))[..., ::-1]
    np.testing.assert_allclose(straight, mirrored, atol=1e-4)


def test_bfloat16_agrees_with_float32() -> None:
    torch.manual_seed(0)
    network = build(TINY)
    exact, coarse = (
        UNetSegmenter(network, precision=precision).probabilities(IMAGES)
        for precision in (torch.float32, torch.bfloat16)
    )
    np.testing.assert_allclose(exact, coarse, atol=0.05)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_without_memory_the_batch_is_halved(limit: int) -> None:
    amorphous, _ = UNetSegmenter(Narrow(limit), max_batch=8).segment(IMAGES)
    np.testing.assert_array_equal(amorphous, IMAGES > 0)


def test_a_halved_batch_stays_so_until_memory_has_sufficed_for_a_while() -> None:
    network = Narrow(2)
    segmenter = UNetSegmenter(network, max_batch=8)
    inside = segmenter._network
    images = IMAGES[:4]
    segmenter.segment(images)
    assert inside.sizes == [4, 4, 2, 2]
    inside.sizes.clear()
    inside.limit = 8
    for _ in range(GROW_AFTER - 2):
        segmenter.segment(images[:1])
    segmenter.segment(images)
    assert inside.sizes[-2:] == [2, 2]
    segmenter.segment(images)
    assert inside.sizes[-1] == 4


def test_without_memory_for_one_image_the_segmenter_gives_up() -> None:
    with pytest.raises(SegmenterError, match="memory") as caught:
        UNetSegmenter(Narrow(0)).segment(IMAGES)
    assert caught.value.reason == "out_of_memory"


def test_nan_in_the_output_is_an_error() -> None:
    with pytest.raises(SegmenterError, match="finite") as caught:
        UNetSegmenter(Broken()).segment(IMAGES)
    assert caught.value.reason == "not_finite"


def test_a_failing_device_is_an_error() -> None:
    with pytest.raises(SegmenterError, match="illegal memory access") as caught:
        UNetSegmenter(Broken(message="CUDA error: illegal memory access")).segment(IMAGES)
    assert caught.value.reason == "device"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device_is_an_error() -> None:
    with pytest.raises(SegmenterError, match="cuda"):
        UNetSegmenter(build(TINY), device="cuda")


@pytest.mark.parametrize("values", [{"threshold": 0.0}, {"threshold": 1.0}, {"max_batch": 0}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        UNetSegmenter(Bright(), **values)  # type: ignore[arg-type]


def test_warming_up_leaves_a_working_segmenter() -> None:
    segmenter = UNetSegmenter(build(TINY), max_batch=2)
    segmenter.warm_up(shape=(32, 32))
    assert segmenter.segment(IMAGES)[0].shape == IMAGES.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_agrees_with_the_cpu() -> None:
    masks = [
        UNetSegmenter.from_checkpoint(device=device, precision=best_precision(device))[0].segment(
            IMAGES
        )[0]
        for device in ("cpu", best_device())
    ]
    assert np.mean(masks[0] == masks[1]) > 0.999


@needs_real_frames
def test_the_shipped_weights_segment_real_frames_in_either_precision() -> None:
    from hrtem_stream.unet.dataset import read_real
    from hrtem_stream.unet.evaluate import evaluate
    from tests.unet.frames import REAL

    examples = read_real(REAL)[::9]
    images = np.stack([example.image for example in examples])
    masks = {
        precision: UNetSegmenter.from_checkpoint(precision=precision)[0].segment(images)[0]
        for precision in (torch.float32, torch.bfloat16)
    }
    assert np.mean(masks[torch.float32] == masks[torch.bfloat16]) > 0.998
    # Seen in training: this tells a broken chain from a working one, not how good it is.
    assert evaluate(list(masks[torch.float32]), examples).pooled.jaccard > 0.85


def test_an_image_too_large_for_memory_goes_through_in_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inference, "WHOLE_PIXELS", 32 * 32)
    monkeypatch.setattr(inference, "TILE_PX", 32)
    monkeypatch.setattr(inference, "TILE_OVERLAP_PX", 8)
    amorphous, confidence = UNetSegmenter(Bright(), threshold=0.5).segment(IMAGES)
    np.testing.assert_array_equal(amorphous, IMAGES > 0)
    assert confidence.shape == (5,)
