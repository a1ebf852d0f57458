"""How the shipped weights are made: simulated frames first, then real ones mixed in.

The first stage sees no real frame, so every fold of a cross-validation may start from it. The
second one shows both kinds, lest the network forget what the real session never had. The shipped
weights went through a second stage twice, the later one begun with the weights of the earlier
(`train --start`) on harder simulated frames; their card has all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from hrtem_stream.unet.architecture import architecture
from hrtem_stream.unet.checkpoint import ModelCard
from hrtem_stream.unet.dataset import Example
from hrtem_stream.unet.recipe import Recipe
from hrtem_stream.unet.train import Progress, log_progress, train

FIRST_STAGE = Recipe(n_views=30_000, simulated_share=1.0, seed=77)
SECOND_STAGE = Recipe(n_views=16_000, simulated_share=0.625, learning_rate=1.5e-3)

LICENCE = (
    "Real training frames: Graphene U-Net Copyright (c) 2021, The Regents of the University of "
    "California, through Lawrence Berkeley National Laboratory; used under its BSD-style licence. "
    "No frame is contained in the weights."
)
LIMITS = (
    "80 kV graphene, 0.026 to 0.08 nm per working pixel, 256 x 256 working images. Weak where the "
    "lattice is invisible (defocus below 3 nm), for contaminant below 0.5 nm, for speckles, and at "
    "low dose where contaminant covers the whole frame."
)


def train_default(
    *,
    real: Sequence[Example],
    simulated: Sequence[Example],
    directory: Path,
    first: Recipe = FIRST_STAGE,
    second: Recipe = SECOND_STAGE,
    device: str = "cpu",
    compiled: bool = False,
    report: Callable[[Progress], None] = log_progress,
) -> nn.Module:
    """Train the default network in its two stages, resuming what `directory` holds."""
    directory.mkdir(parents=True, exist_ok=True)
    start = train(
        first,
        real=(),
        simulated=simulated,
        checkpoint=directory / "first_stage.pt",
        device=device,
        compiled=compiled,
        report=report,
    )
    return train(
        second,
        real=real,
        simulated=simulated,
        checkpoint=directory / "second_stage.pt",
        start=start,
        device=device,
        compiled=compiled,
        report=report,
    )


def default_card(
    *,
    second: Recipe,
    first: Recipe,
    n_real: int,
    n_simulated: int,
    threshold: float,
    folds: str,
    scores: Mapping[str, Any],
) -> ModelCard:
    """Return the card of weights that `train_default` made."""
    return ModelCard(
        architecture=architecture(second.network),
        config=asdict(second.network),
        threshold=threshold,
        data=(
            f"{n_real} labelled frames of the published graphene set (TEAM 0.5, 2013 to 2015) and "
            f"{n_simulated} frames of hrtem_stream.science.physical"
        ),
        licence=LICENCE,
        folds=folds,
        seeds=[first.seed, second.seed],
        recipe={"first_stage": asdict(first), "second_stage": asdict(second)},
        scores=dict(scores),
        limits=LIMITS,
    )
