"""OpenVINO calculates what torch does; what it cannot is refused by name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from hrtem_stream.errors import SegmenterError
from hrtem_stream.unet.architecture import build
from hrtem_stream.unet.checkpoint import load_checkpoint, shipped_weights
from hrtem_stream.unet.dataset import read_real
from hrtem_stream.unet.inference import FOUR_FLIPS, UNetSegmenter, best_precision
from hrtem_stream.unet.openvino_engine import N_SHAPES, OpenVinoNetwork
from hrtem_stream.unet.paper import PaperConfig
from tests.unet.frames import REAL, TINY, needs_real_frames

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)


def _tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    network = build(TINY).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or "1.weight" in name:  # else normalisations start as 0 and 1
            torch.nn.init.normal_(parameter)
    return network


@needs_openvino
@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (1, 1, 50, 61)])
def test_log_odds_in_float32_are_those_of_torch(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape, generator=torch.manual_seed(1))
    network = _tiny()
    with torch.inference_mode():
        expected = network(images)
    found = OpenVinoNetwork(network, precision=torch.float32)(images)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@needs_openvino
@needs_real_frames
def test_masks_of_real_frames_are_those_of_torch() -> None:
    images = np.stack([example.image for example in read_real(REAL)[::15]])
    precision = best_precision("cpu")
    masks, confidences = zip(
        *(
            UNetSegmenter.from_checkpoint(engine=engine, precision=chosen)[0].segment(images)
            for engine, chosen in (("torch", torch.float32), ("openvino", precision))
        ),
        strict=True,
    )
    assert (masks[0] == masks[1]).mean() > 0.999
    np.testing.assert_allclose(confidences[0], confidences[1], atol=0.01)


@needs_openvino
def test_four_flips_are_averaged() -> None:
    images = np.random.default_rng(0).standard_normal((1, 64, 64)).astype(np.float32)
    network = _tiny()
    by_torch = UNetSegmenter(network, flips=FOUR_FLIPS).probabilities(images)
    engine = OpenVinoNetwork(network, precision=torch.float32)
    found = UNetSegmenter(engine, flips=FOUR_FLIPS).probabilities(images)
    np.testing.assert_allclose(found, by_torch, atol=1e-3)


@needs_openvino
def test_an_image_that_is_not_finite_is_refused_and_leaves_the_engine_whole() -> None:
    segmenter = UNetSegmenter(OpenVinoNetwork(_tiny(), precision=torch.float32))
    good = np.random.default_rng(0).standard_normal((1, 64, 64)).astype(np.float32)
    bad = good.copy()
    bad[0, 3, 3] = np.nan
    with pytest.raises(SegmenterError, match="finite") as caught:
        segmenter.segment(bad)
    assert caught.value.reason == "not_finite"
    assert np.isfinite(segmenter.segment(good)[1]).all()


@needs_openvino
def test_graphs_of_a_few_shapes_are_kept() -> None:
    engine = OpenVinoNetwork(_tiny(), precision=torch.float32)
    for size in range(16, 16 + 8 * (N_SHAPES + 2), 8):
        engine(torch.zeros(1, 1, size, 16))
    assert len(engine._requests) == N_SHAPES


@needs_openvino
def test_other_networks_and_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SegmenterError, match="PaperNet"):
        OpenVinoNetwork(build(PaperConfig(n_blocks=3, n_features=4)), precision=torch.float32)
    network = _tiny()
    with torch.no_grad():
        network.head.weight[0, 0] = torch.nan
    with pytest.raises(SegmenterError, match=r"head\.weight"):
        OpenVinoNetwork(network, precision=torch.float32)


@needs_openvino
def test_loading_the_engine_tells_nobody() -> None:
    told = (
        "import sys; from hrtem_stream.unet.openvino_engine import OpenVinoNetwork;"
        "from hrtem_stream.unet.checkpoint import *; import torch;"
        "OpenVinoNetwork(load_checkpoint(shipped_weights())[0], precision=torch.float32);"
        "print(any(name.startswith('openvino_telemetry.') for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_an_engine_that_cannot_begin_is_no_reason_to_die(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = types.ModuleType("openvino")  # without Core, as if half installed
    monkeypatch.setitem(sys.modules, "openvino", broken)
    with pytest.raises(SegmenterError, match="OpenVINO cannot be used") as caught:
        OpenVinoNetwork(load_checkpoint(shipped_weights())[0], precision=torch.float32)
    assert caught.value.reason == "device"


def test_without_openvino_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SegmenterError, match=r"hrtem-stream\[openvino\]") as caught:
        OpenVinoNetwork(load_checkpoint(shipped_weights())[0], precision=torch.float32)
    assert caught.value.reason == "not_installed"
