"""Cross-validation: folds, resuming, summaries."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrtem_stream.unet.crossvalidate import crossvalidate, gridsearch
from hrtem_stream.unet.recipe import Recipe
from tests.unet.frames import TINY, example

RECIPE = Recipe(network=TINY, n_views=16, batch=4, averaging=0.9)
FRAMES = [example(seed, group=f"2013_{seed // 2:04d}") for seed in range(8)]


def test_every_frame_is_held_out_once_in_each_repeat_and_done_folds_are_kept(
    tmp_path: Path,
) -> None:
    def run() -> object:
        return crossvalidate(
            RECIPE,
            real=FRAMES,
            simulated=FRAMES[:2],
            kind="date",
            directory=tmp_path,
            n_folds=2,
            n_repeats=2,
            report=lambda _: None,
        )

    first = run()
    for repeat in range(2):
        held_out = [n for f in first.folds if f.repeat == repeat for n in f.held_out]  # type: ignore[attr-defined]
        assert sorted(held_out) == sorted(frame.name for frame in FRAMES)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(stamps) == 4
    assert run() == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == stamps
    summary = first.summary()  # type: ignore[attr-defined]
    assert summary["n_repeats"] == 2
    assert len(summary["as_is"]["jaccard"]["repeats"]) == 2
    assert len(summary["folds"]) == 4


def test_an_unknown_kind_of_folds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind"):
        crossvalidate(RECIPE, real=FRAMES, simulated=(), kind="series", directory=tmp_path)


def test_a_grid_search_ranks_its_choices(tmp_path: Path) -> None:
    found = gridsearch(
        RECIPE,
        real=FRAMES,
        n_features=[2, 4],
        n_blocks=[3],
        learning_rates=[1e-3],
        directory=tmp_path,
        n_folds=2,
        report=lambda _: None,
    )
    assert set(found) == {(2, 3, 1e-3), (4, 3, 1e-3)}
    jaccards = [score.jaccard for score in found.values()]
    assert jaccards == sorted(jaccards, reverse=True)
