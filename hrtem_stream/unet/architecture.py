"""The two networks by name: `fast`, the default, and `paper`, the published reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import nn

from hrtem_stream.unet.fast import FastConfig, FastNet
from hrtem_stream.unet.paper import PaperConfig, PaperNet

Config: TypeAlias = FastConfig | PaperConfig


def build(config: Config) -> nn.Module:
    """Return the network of a configuration, with random weights."""
    return FastNet(config) if isinstance(config, FastConfig) else PaperNet(config)


def architecture(config: Config) -> str:
    """Return the name of a configuration's network."""
    return "fast" if isinstance(config, FastConfig) else "paper"


def config_from(name: str, fields: Mapping[str, Any]) -> Config:
    """Return the configuration of a named network from plain values, as read from JSON.

    Raises
    ------
    ValueError
        If the name or a field is unknown.
    """
    kinds: dict[str, Callable[..., Config]] = {"fast": FastConfig, "paper": PaperConfig}
    if name not in kinds:
        raise ValueError(f"architecture must be one of {', '.join(kinds)}, got {name}")
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    try:
        return kinds[name](**values)
    except TypeError as error:
        raise ValueError(f"configuration of {name}: {error}") from error
