"""Weights on disk: safetensors, with a model card and a digest in the header.

The card says what the network is, what it has seen, how well it did and how its input must be
prepared. The digest covers card and tensors; a file that was cut, edited or swapped is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hrtem_stream.errors import SegmenterError
from hrtem_stream.unet.architecture import architecture, build, config_from
from hrtem_stream.unet.dataset import PREPROCESSING

WEIGHTS = "weights"
"""Why the Bragg filter took over, as metrics count it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a user of the weights must know."""

    architecture: str
    """fast or paper."""
    config: dict[str, Any]
    """Fields of the network's configuration."""
    threshold: float
    """A pixel is amorphous where the probability lies above; fixed on training frames."""
    preprocessing: str = PREPROCESSING
    data: str = ""
    """The frames it was trained on."""
    licence: str = ""
    """Licence notice of those frames."""
    folds: str = ""
    """How frames were held out for the scores."""
    seeds: list[int] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    """Fields of the training recipe."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Measured on frames that the scored network had not seen."""
    limits: str = ""
    """Where it is known to fail."""
    sha256: str = ""
    """Digest of card and tensors; filled in when the file is written and read."""


def save_checkpoint(path: Path, *, network: nn.Module, card: ModelCard) -> ModelCard:
    """Write a network's weights with their card, and return the card with its digest.

    Raises
    ------
    ValueError
        If the card names another architecture than the network's.
    """
    if card.architecture != architecture(network.config):
        raise ValueError(f"card must name the network's architecture, got {card.architecture}")
    tensors = {name: _row_major(tensor) for name, tensor in network.state_dict().items()}
    text = _text(card)
    digest = _digest(text, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"card": text, "sha256": digest})
    return replace(card, sha256=digest)


def load_checkpoint(path: Path) -> tuple[nn.Module, ModelCard]:
    """Read a network in evaluation mode and its card.

    Raises
    ------
    SegmenterError
        If the file is missing or damaged, its digest does not match, its tensors do not fit the
        architecture, or it was trained with another preparation of the frames.
    """
    text, digest, tensors = _read(path)
    found = _digest(text, tensors)
    if found != digest:
        message = f"{path}: digest sha256 must be {digest[:16]}…, got {found[:16]}…"
        raise SegmenterError(message, WEIGHTS)
    card = _card(path, text, digest)
    if card.preprocessing != PREPROCESSING:
        message = f"{path}: preprocessing must be '{PREPROCESSING}', got '{card.preprocessing}'"
        raise SegmenterError(message, WEIGHTS)
    try:
        network = build(config_from(card.architecture, card.config))
        network.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:
        message = f"{path}: weights do not fit the network: {error}"
        raise SegmenterError(message, WEIGHTS) from error
    return network.eval(), card


def read_card(path: Path) -> ModelCard:
    """Read the card of a checkpoint, with its digest as written.

    Raises
    ------
    SegmenterError
        If the file is missing or damaged.
    """
    text, digest, _ = _read(path)
    return _card(path, text, digest)


def shipped_weights(name: str = "fast") -> Path:
    """Return the path of the weights that come with the package.

    Raises
    ------
    SegmenterError
        If none of that name are shipped.
    """
    path = Path(str(resources.files("hrtem_stream.unet"))) / "weights" / f"{name}.safetensors"
    if not path.exists():
        message = f"weights must be shipped with the package, got no {path.name}"
        raise SegmenterError(message, WEIGHTS)
    return path


def _read(path: Path) -> tuple[str, str, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SegmenterError(f"{path}: weights cannot be read: {error}", WEIGHTS) from error
    if not {"card", "sha256"} <= metadata.keys():
        message = f"{path}: header must hold card and sha256, got {sorted(metadata)}"
        raise SegmenterError(message, WEIGHTS)
    return metadata["card"], metadata["sha256"], tensors


def _text(card: ModelCard) -> str:
    values = {key: value for key, value in asdict(card).items() if key != "sha256"}
    return json.dumps(values, sort_keys=True)


def _card(path: Path, text: str, digest: str) -> ModelCard:
    """Read a card, leaving out fields of later versions."""
    known = {f.name for f in fields(ModelCard)}
    try:
        values = {key: value for key, value in dict(json.loads(text)).items() if key in known}
        card = ModelCard(**values | {"sha256": digest})
        usable = 0.0 < float(card.threshold) < 1.0
    except (ValueError, TypeError) as error:
        raise SegmenterError(f"{path}: card cannot be read: {error}", WEIGHTS) from error
    if not usable:
        message = f"{path}: threshold must lie between 0 and 1, got {card.threshold}"
        raise SegmenterError(message, WEIGHTS)
    return card


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = _row_major(tensors[name])
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else b"")
    return digest.hexdigest()


def _row_major(tensor: Tensor) -> Tensor:
    """Copy a tensor as C lays it out, in its strides too, wherever and however it lies.

    `contiguous` leaves the strides of a 1 × 1 kernel as channels_last made them.
    """
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
