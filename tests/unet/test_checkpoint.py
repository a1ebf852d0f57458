"""Weights on disk: round trip, and every way in which a file can be wrong."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hrtem_stream.errors import SegmenterError
from hrtem_stream.unet import checkpoint
from hrtem_stream.unet.architecture import build
from hrtem_stream.unet.checkpoint import (
    ModelCard,
    load_checkpoint,
    read_card,
    save_checkpoint,
    shipped_weights,
)
from tests.unet.frames import TINY

CARD = ModelCard(
    architecture="fast", config=asdict(TINY), threshold=0.45, seeds=[1], scores={"jaccard": 0.9}
)


def written(path: Path, card: ModelCard = CARD) -> torch.nn.Module:
    network = build(TINY)
    save_checkpoint(path, network=network, card=card)
    return network


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118


def test_a_network_comes_back_with_its_card(tmp_path: Path) -> None:
    network = written(tmp_path / "a.safetensors")
    loaded, card = load_checkpoint(tmp_path / "a.safetensors")
    assert replace(card, sha256="", config=CARD.config) == CARD
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)


def test_a_network_laid_out_for_speed_is_stored_all_the_same(tmp_path: Path) -> None:
    """Training leaves it so; 1 x 1 kernels then have strides that are neither."""
    torch.manual_seed(0)
    network = build(TINY)
    plain = save_checkpoint(tmp_path / "a.safetensors", network=network, card=CARD)
    network = network.to(memory_format=torch.channels_last)
    fast = save_checkpoint(tmp_path / "b.safetensors", network=network, card=CARD)
    assert fast.sha256 == plain.sha256
    load_checkpoint(tmp_path / "b.safetensors")


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    written(path)
    tensors, metadata = parts(path)
    tensors["head.bias"] = tensors["head.bias"] + 1
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(SegmenterError, match="sha256"):
        load_checkpoint(path)


def test_a_changed_card_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    written(path)
    tensors, metadata = parts(path)
    metadata["card"] = metadata["card"].replace("0.45", "0.95")
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(SegmenterError, match="sha256"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("not JSON", "card cannot be read"),
        ("[1, 2]", "card cannot be read"),
        ('{"architecture": "fast"}', "card cannot be read"),
        ('{"architecture": "fast", "config": {}, "threshold": 1.5}', "threshold must lie"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(tmp_path: Path, card: str, message: str) -> None:
    """Such a file passes its own digest, so it is refused for what it says."""
    path = tmp_path / "a.safetensors"
    written(path)
    tensors, _ = parts(path)
    digest = checkpoint._digest(card, tensors)
    save_file(tensors, path, metadata={"card": card, "sha256": digest})
    with pytest.raises(SegmenterError, match=message) as caught:
        load_checkpoint(path)
    assert caught.value.reason == "weights"


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    other = asdict(replace(TINY, widths=(4, 8, 16)))
    written(path, replace(CARD, config=other))
    with pytest.raises(SegmenterError, match="fit"):
        load_checkpoint(path)


def test_weights_for_another_preparation_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    written(path, replace(CARD, preprocessing="none"))
    with pytest.raises(SegmenterError, match="preprocessing"):
        load_checkpoint(path)
    assert read_card(path).preprocessing == "none"


@pytest.mark.parametrize("content", [b"", b"not weights at all", None])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SegmenterError, match="cannot be read"):
        load_checkpoint(path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    written(path)
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(SegmenterError):
        load_checkpoint(path)


def test_a_file_without_a_card_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(SegmenterError, match="card"):
        load_checkpoint(path)


def test_a_card_of_another_architecture_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="architecture"):
        written(tmp_path / "a.safetensors", replace(CARD, architecture="paper"))


def test_weights_that_are_not_shipped_are_named() -> None:
    with pytest.raises(SegmenterError, match="slow"):
        shipped_weights("slow")


def test_the_shipped_weights_load_and_say_what_they_are() -> None:
    network, card = load_checkpoint(shipped_weights())
    assert card.architecture == "fast"
    assert card.data
    assert card.licence
    assert card.scores
    assert shipped_weights().stat().st_size < 4 * 2**20
    assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 1, 64, 64)
