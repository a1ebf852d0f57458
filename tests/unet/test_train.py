"""Training learns, resumes and repeats itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrtem_stream.unet.recipe import Recipe, learning_rate, published_recipe
from hrtem_stream.unet.train import Progress, loss, train
from tests.unet.frames import TINY, example

RECIPE = Recipe(network=TINY, n_views=48, batch=4, averaging=0.9, seed=3)
FRAMES = [example(seed) for seed in range(6)]


def trained(recipe: Recipe, checkpoint: Path, **values: object) -> torch.nn.Module:
    return train(
        recipe,
        real=FRAMES,
        simulated=(),
        checkpoint=checkpoint,
        report=lambda _: None,
        **values,  # type: ignore[arg-type]
    )


def test_the_loss_falls(tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(
        replace(RECIPE, n_views=240, learning_rate=1e-2),
        real=FRAMES,
        simulated=FRAMES[:2],
        checkpoint=tmp_path / "a.pt",
        report_every=20,
        report=seen.append,
    )
    assert [p.n_views for p in seen] == [80, 160, 240]
    assert seen[-1].loss < 0.9 * seen[0].loss
    assert seen[-1].remaining_s == 0.0


def test_the_same_seed_gives_the_same_network(tmp_path: Path) -> None:
    first, second = (trained(RECIPE, tmp_path / name) for name in ("a.pt", "b.pt"))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_folder_of_a_new_run_is_made(tmp_path: Path) -> None:
    checkpoint = tmp_path / "runs" / "mine" / "a.pt"
    trained(replace(RECIPE, n_views=4), checkpoint)
    assert checkpoint.exists()


def test_a_stopped_training_ends_where_it_would_have(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.n_views == 24:
            raise StopError

    whole = trained(RECIPE, tmp_path / "whole.pt", report_every=6)
    with pytest.raises(StopError):
        train(
            RECIPE,
            real=FRAMES,
            simulated=(),
            checkpoint=tmp_path / "cut.pt",
            report_every=6,
            report=stop,
        )
    resumed = trained(RECIPE, tmp_path / "cut.pt", report_every=6)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert len((tmp_path / "cut.jsonl").read_text().splitlines()) == 2


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    trained(RECIPE, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="recipe"):
        trained(replace(RECIPE, dice=0.1), tmp_path / "a.pt")


def test_training_needs_frames(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames"):
        train(RECIPE, real=(), simulated=(), checkpoint=tmp_path / "a.pt")


def test_pixels_without_weight_have_no_say() -> None:
    log_odds, label = torch.randn(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    weight = torch.ones(1, 1, 8, 8)
    weight[..., :4] = 0
    changed = log_odds.clone()
    changed[..., :4] += 5
    first, second = (loss(x, label, weight, dice=0.5) for x in (log_odds, changed))
    torch.testing.assert_close(first, second)


def test_a_perfect_answer_costs_nothing() -> None:
    label = (torch.arange(64).reshape(1, 1, 8, 8) % 3 == 0).float()
    log_odds = 100 * (label - 0.5)
    assert float(loss(log_odds, label, torch.ones_like(label), dice=0.5)) < 1e-6


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(Recipe(warm_up=0.1), step=step, n_steps=100) for step in range(100)]
    assert int(np.argmax(rates)) in (9, 10)
    assert rates[-1] < 1e-5 < rates[0] < max(rates) == pytest.approx(2e-3)
    steady = published_recipe(n_frames=80, seed=0)
    assert learning_rate(steady, step=0, n_steps=9) == learning_rate(steady, step=8, n_steps=9)


def test_the_published_recipe_shows_every_frame_300_times() -> None:
    assert published_recipe(n_frames=80, seed=0).n_views == 24_000
