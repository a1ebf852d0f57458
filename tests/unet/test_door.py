"""The U-Net behind the door of the stage: loaded, timed, refused when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hrtem_stream.errors import SegmenterError, SettingsError  # noqa: E402
from hrtem_stream.pipeline import make_segmenter  # noqa: E402
from hrtem_stream.settings import SegmentSettings  # noqa: E402
from hrtem_stream.unet.checkpoint import shipped_weights  # noqa: E402
from hrtem_stream.unet.door import load_unet  # noqa: E402


def _load(weights: Path | None = None, slowest_s: float = 60.0):  # type: ignore[no-untyped-def]
    return load_unet(weights, working_size=256, max_batch=4, four_flips=False, slowest_s=slowest_s)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    content = bytearray(shipped_weights().read_bytes())
    content[-1000] ^= 255
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    return path


def test_the_shipped_weights_give_a_mask_and_a_confidence_for_each_image() -> None:
    images = np.random.default_rng(0).standard_normal((3, 256, 256)).astype(np.float32)
    masks = _load().segment(images)
    assert masks.method == "unet"
    assert masks.amorphous.shape == (3, 256, 256)
    assert masks.amorphous.dtype == np.bool_
    assert ((masks.confidence > 0) & (masks.confidence <= 1)).all()


def test_damaged_weights_are_refused_by_name_and_replaced_by_the_filter_under_auto(
    damaged: Path,
) -> None:
    with pytest.raises(SettingsError, match="sha256"):
        make_segmenter(SegmentSettings(segmenter="unet", weights=str(damaged)), working_size=256)
    reasons: list[str] = []
    segmenter = make_segmenter(
        SegmentSettings(segmenter="auto", weights=str(damaged)), working_size=256,
        note_switch=reasons.append,
    )  # fmt: skip
    image = np.random.default_rng(0).standard_normal((1, 256, 256)).astype(np.float32)
    assert segmenter.segment(image).method == "bragg"
    assert len(reasons) == 1


def test_auto_leaves_the_network_out_where_it_does_not_keep_up() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is never too slow")
    with pytest.raises(SegmenterError, match="slowest_s"):
        _load(slowest_s=1e-6)


def test_weights_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.safetensors"):
        make_segmenter(
            SegmentSettings(segmenter="unet", weights=str(tmp_path / "none.safetensors")),
            working_size=256,
        )
