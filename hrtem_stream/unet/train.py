"""Training: random views, loss, schedule, averaged weights; resumable at every checkpoint.

    L = BCE + w (1 - soft Dice)

over the pixels that count. Learning rate: linear warm-up, then half a cosine to zero. The network
that comes out carries the running mean of the weights, which differs less from seed to seed than
the last weights do.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hrtem_stream.unet.architecture import build
from hrtem_stream.unet.augment import REAL, SIMULATED, View, augment, plain
from hrtem_stream.unet.dataset import Example
from hrtem_stream.unet.inference import best_precision
from hrtem_stream.unet.recipe import Recipe, learning_rate

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands."""

    n_views: int
    n_views_total: int
    loss: float
    """Mean since the last report."""
    views_per_s: float
    remaining_s: float


def log_progress(progress: Progress) -> None:
    """Log one line a report."""
    logger.info(
        "views %d of %d, loss %.4f, %.1f views/s, %.0f s to go",
        progress.n_views,
        progress.n_views_total,
        progress.loss,
        progress.views_per_s,
        progress.remaining_s,
    )


def train(
    recipe: Recipe,
    *,
    real: Sequence[Example],
    simulated: Sequence[Example],
    checkpoint: Path,
    start: nn.Module | None = None,
    device: str = "cpu",
    compiled: bool = False,
    report_every: int = 100,
    report: Callable[[Progress], None] = log_progress,
) -> nn.Module:
    """Train a network, or take up its training where the checkpoint left it.

    Parameters
    ----------
    recipe : Recipe
        What to train and how; the checkpoint must have been written with the same one.
    real, simulated : sequence of Example
        Frames to learn from; either may be empty, not both.
    checkpoint : path
        A file, rewritten at each report; its folder is made if need be. Metrics go line by line to
        the same name with the suffix `.jsonl`.
    start : nn.Module, optional
        Begin with this network's weights, as trained on simulated frames; else at random.
    device : str
        As torch names it.
    compiled : bool
        Compile the network; worth it above some thousand views.
    report_every : int
        Steps between reports.
    report : callable
        Takes a `Progress`.

    Returns
    -------
    nn.Module
        With averaged weights, in evaluation mode, on the CPU.

    Raises
    ------
    ValueError
        Without frames, or if the checkpoint was written with another recipe.
    """
    if not real and not simulated:
        raise ValueError("real or simulated must hold frames, got none")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    network = build(recipe.network)
    if start is not None:
        network.load_state_dict(start.state_dict())
    network = network.to(device, memory_format=torch.channels_last)
    state = _State(network, recipe, device)
    if checkpoint.exists():
        state.load(checkpoint)
    run = torch.compile(network) if compiled else network
    n_steps = math.ceil(recipe.n_views / recipe.batch)
    started, first, losses = time.monotonic(), state.step, []
    network.train()
    while state.step < n_steps:
        views = _batch(recipe, state.step, real=real, simulated=simulated)
        losses.append(_step(run, state, views, recipe=recipe, n_steps=n_steps))
        if state.step % report_every == 0 or state.step == n_steps:
            rate = (state.step - first) * recipe.batch / (time.monotonic() - started)
            progress = Progress(
                n_views=state.step * recipe.batch,
                n_views_total=n_steps * recipe.batch,
                loss=float(np.mean(losses)),
                views_per_s=rate,
                remaining_s=(n_steps - state.step) * recipe.batch / rate,
            )
            losses.clear()
            state.save(checkpoint)
            with checkpoint.with_suffix(".jsonl").open("a") as metrics:
                metrics.write(json.dumps(asdict(progress)) + "\n")
            report(progress)
    return state.averaged.to("cpu").eval()


def loss(log_odds: Tensor, amorphous: Tensor, weight: Tensor, *, dice: float) -> Tensor:
    """Return cross-entropy plus `dice` times one minus soft Dice, both over weighted pixels."""
    each = F.binary_cross_entropy_with_logits(log_odds, amorphous, reduction="none")
    entropy = (each * weight).sum() / weight.sum().clamp(min=1.0)
    if dice == 0.0:
        return entropy
    found = torch.sigmoid(log_odds) * weight
    common = (found * amorphous).sum()
    overlap = (2.0 * common + 1.0) / (found.sum() + (amorphous * weight).sum() + 1.0)
    return entropy + dice * (1.0 - overlap)


class _State:
    """All that a training must remember to go on after a stop."""

    def __init__(self, network: nn.Module, recipe: Recipe, device: str) -> None:
        self.step = 0
        self.network = network
        self.averaged = copy.deepcopy(network)
        self.device = device
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        # The number of views may be extended; all else must be as it was.
        self.recipe = json.dumps(asdict(replace(recipe, n_views=0)), sort_keys=True)

    def save(self, path: Path) -> None:
        part = path.with_suffix(".part")
        torch.save(
            {
                "recipe": self.recipe,
                "step": self.step,
                "network": self.network.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
            part,
        )
        part.replace(path)

    def load(self, path: Path) -> None:
        stored = torch.load(path, map_location=self.device, weights_only=True)
        if stored["recipe"] != self.recipe:
            raise ValueError(f"{path}: recipe must be the one it began with, {stored['recipe']}")
        self.step = int(stored["step"])
        self.network.load_state_dict(stored["network"])
        self.averaged.load_state_dict(stored["averaged"])
        self.optimiser.load_state_dict(stored["optimiser"])


def _step(
    run: Callable[[Tensor], Tensor],
    state: _State,
    views: Sequence[View],
    *,
    recipe: Recipe,
    n_steps: int,
) -> float:
    rate = learning_rate(recipe, step=state.step, n_steps=n_steps)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    images, amorphous, weight = (tensor.to(state.device) for tensor in _stacked(views))
    coarse = best_precision(state.device) == torch.bfloat16
    with torch.autocast(torch.device(state.device).type, torch.bfloat16, enabled=coarse):
        log_odds = run(images)
    value = loss(log_odds.float(), amorphous, weight, dice=recipe.dice)
    state.optimiser.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimiser.step()
    state.step += 1
    # Early on the mean looks back over a tenth of the steps so far only.
    decay = min(recipe.averaging, 1.0 - 10.0 / (state.step + 10.0))
    with torch.no_grad():
        averaged = list(state.averaged.parameters())
        torch._foreach_lerp_(averaged, list(state.network.parameters()), 1.0 - decay)
    return float(value.detach())


def _batch(
    recipe: Recipe, step: int, *, real: Sequence[Example], simulated: Sequence[Example]
) -> list[View]:
    """Draw the views of a step; they depend on the seed and the step only."""
    rng = np.random.default_rng((recipe.seed, step))
    n_simulated = round(recipe.batch * recipe.simulated_share) if simulated else 0
    n_simulated = recipe.batch if not real else n_simulated
    views = []
    for example, augmentation in [
        *(
            (real[index], REAL)
            for index in _places(recipe, step, len(real), recipe.batch - n_simulated)
        ),
        *(
            (simulated[index], SIMULATED)
            for index in _places(recipe, step, len(simulated), n_simulated)
        ),
    ]:
        views.append(
            augment(example, augmentation=augmentation, rng=rng)
            if recipe.augmented
            else plain(example)
        )
    return views


def _places(recipe: Recipe, step: int, n_frames: int, n_views: int) -> Iterator[int]:
    """Go through all frames in an order that is shuffled anew for each pass."""
    for place in range(step * n_views, (step + 1) * n_views):
        epoch, within = divmod(place, n_frames)
        yield int(
            np.random.default_rng((recipe.seed, n_frames, epoch)).permutation(n_frames)[within]
        )


def _stacked(views: Sequence[View]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(np.stack([view.image for view in views])[:, None]),
        torch.from_numpy(np.stack([view.amorphous for view in views])[:, None]),
        torch.from_numpy(np.stack([view.weight for view in views])[:, None]),
    )
