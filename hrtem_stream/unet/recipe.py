"""What to train and how: the recipe that works best here, and the published one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hrtem_stream.unet.architecture import Config
from hrtem_stream.unet.fast import FastConfig
from hrtem_stream.unet.paper import PaperConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained. The defaults are what works best for `fast`."""

    network: Config = field(default_factory=FastConfig)
    n_views: int = 30_000
    """Images shown in all."""
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warm_up: float = 0.05
    """Share of the training in which the learning rate rises."""
    cosine: bool = True
    """The learning rate falls to zero; else it stays."""
    dice: float = 0.5
    """Weight of the soft Dice loss beside the cross-entropy."""
    simulated_share: float = 0.5
    """Share of simulated frames in the views, where there are any."""
    augmented: bool = True
    averaging: float = 0.998
    """Decay of the running mean of the weights per step; 0 keeps the last weights."""
    seed: int = 0


def published_recipe(*, n_frames: int, seed: int) -> Recipe:
    """Return the paper's training: Adam 1e-4, cross-entropy, 300 epochs, nothing augmented."""
    return Recipe(
        network=PaperConfig(),
        n_views=300 * n_frames,
        learning_rate=1e-4,
        weight_decay=0.0,
        warm_up=0.0,
        cosine=False,
        dice=0.0,
        simulated_share=0.0,
        augmented=False,
        averaging=0.0,
        seed=seed,
    )


def learning_rate(recipe: Recipe, *, step: int, n_steps: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    n_rising = max(1, round(recipe.warm_up * n_steps))
    if step < n_rising and recipe.warm_up > 0:
        return recipe.learning_rate * (step + 1) / n_rising
    if not recipe.cosine:
        return recipe.learning_rate
    done = (step - n_rising) / max(1, n_steps - n_rising)
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
