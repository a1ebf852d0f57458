"""Cross-validation: folds, resuming, summaries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hrtem_stream.science.scores import Confusion, scores
from hrtem_stream.unet.crossvalidate import (
    OTHERS_THRESHOLD,
    THRESHOLDS,
    CrossValidation,
    FoldResult,
    crossvalidate,
    gridsearch,
    score_untrained,
)
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


def test_the_seed_sets_the_folds_and_both_segmenters_get_the_same(tmp_path: Path) -> None:
    def held_out(seed: int) -> list[list[str]]:
        found = score_untrained(
            lambda images: images > 1, real=FRAMES, kind="date", n_folds=2, n_repeats=1, seed=seed
        )
        return [fold.held_out for fold in found.folds]

    assert held_out(0) != held_out(1)
    trained = crossvalidate(
        replace(RECIPE, seed=1),
        real=FRAMES, simulated=(), kind="date", directory=tmp_path, n_folds=2, n_repeats=1,
        report=lambda _: None,
    )  # fmt: skip
    assert [fold.held_out for fold in trained.folds] == held_out(1)


def test_single_folds_by_several_processes_make_up_the_whole(tmp_path: Path) -> None:
    def run(only_fold: int | None) -> CrossValidation:
        return crossvalidate(
            RECIPE,
            real=FRAMES, simulated=(), kind="date", directory=tmp_path, n_folds=2, n_repeats=1,
            only_fold=only_fold, report=lambda _: None,
        )  # fmt: skip

    apart = [run(fold) for fold in (1, 0)]
    assert [len(one.folds) for one in apart] == [1, 1]
    assert OTHERS_THRESHOLD not in apart[0].variants, "there is no other fold to choose it on"
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.json"))]
    assert run(None).folds == [apart[1].folds[0], apart[0].folds[0]]
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.json"))] == stamps
    with pytest.raises(ValueError, match="only_fold"):
        run(2)


def test_a_fold_that_an_earlier_version_scored_is_scored_anew_without_training(
    tmp_path: Path,
) -> None:
    def run() -> CrossValidation:
        return crossvalidate(
            RECIPE,
            real=FRAMES, simulated=(), kind="date", directory=tmp_path, n_folds=2, n_repeats=1,
            report=lambda _: None,
        )  # fmt: skip

    first = run()
    path = tmp_path / "date_0_0.json"
    values = json.loads(path.read_text())
    del values["by_threshold"]
    path.write_text(json.dumps(values))
    trained = path.with_suffix(".pt").stat().st_mtime_ns
    assert run() == first
    assert path.with_suffix(".pt").stat().st_mtime_ns == trained


def test_a_threshold_is_chosen_on_the_other_folds_only() -> None:
    best = Confusion(true_positive=90, false_positive=5, false_negative=5, true_negative=100)
    poor = Confusion(true_positive=50, false_positive=50, false_negative=45, true_negative=55)

    def fold(number: int, place_of_best: int) -> FoldResult:
        curve = [best if n == place_of_best else poor for n in range(len(THRESHOLDS))]
        return FoldResult(
            repeat=0, fold=number, seed=0, held_out=["one"], as_is=poor, four_flips=poor,
            off_edge=poor, four_flips_off_edge=poor, by_threshold=curve,
        )  # fmt: skip

    alike = CrossValidation(kind="date", folds=[fold(0, 3), fold(1, 3)])
    assert alike.pooled(repeat=0, variant=OTHERS_THRESHOLD) == scores(best + best)
    unlike = CrossValidation(kind="date", folds=[fold(0, 3), fold(1, 4)])
    assert unlike.pooled(repeat=0, variant=OTHERS_THRESHOLD) == scores(poor + poor)


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
