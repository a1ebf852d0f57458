"""The U-Net behind the door of the stage: loaded, timed, refused when damaged."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hrtem_stream.errors import SegmenterError, SettingsError  # noqa: E402
from hrtem_stream.pipeline import make_segmenter  # noqa: E402
from hrtem_stream.settings import SegmentSettings  # noqa: E402
from hrtem_stream.unet.architecture import build  # noqa: E402
from hrtem_stream.unet.checkpoint import (  # noqa: E402
    ModelCard,
    save_checkpoint,
    shipped_weights,
)
from hrtem_stream.unet.door import load_unet  # noqa: E402
from hrtem_stream.unet.paper import PaperConfig  # noqa: E402


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


def test_auto_takes_torch_where_openvino_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    image = np.random.default_rng(0).standard_normal((1, 256, 256)).astype(np.float32)
    assert _load().segment(image).method == "unet"


def test_openvino_asked_for_by_name_and_not_installed_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    settings = SegmentSettings(segmenter="unet", engine="openvino")
    with pytest.raises(SettingsError, match="OpenVINO is not installed"):
        make_segmenter(settings, working_size=256)


def test_auto_takes_torch_for_a_network_that_openvino_does_not_know(tmp_path: Path) -> None:
    config = PaperConfig(n_blocks=3, n_features=4)
    card = ModelCard(architecture="paper", config=asdict(config), threshold=0.5)
    weights = tmp_path / "paper.safetensors"
    save_checkpoint(weights, network=build(config), card=card)
    image = np.random.default_rng(0).standard_normal((1, 256, 256)).astype(np.float32)
    assert _load(weights).segment(image).method == "unet"


def test_both_engines_give_the_same_masks() -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    image = np.random.default_rng(0).standard_normal((1, 256, 256)).astype(np.float32)
    masks = [
        load_unet(
            None, working_size=256, max_batch=4, four_flips=False, slowest_s=60.0, engine=engine
        ).segment(image)
        for engine in ("torch", "openvino")
    ]
    assert (masks[0].amorphous == masks[1].amorphous).mean() > 0.99
