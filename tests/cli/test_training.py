"""train, crossvalidate and gridsearch as a user calls them, on a few frames and for a step or two.

What the networks learn is tested in `tests/unet`; here, that the commands do what they say.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

torch = pytest.importorskip("torch")

from hrtem_stream.cli import app  # noqa: E402
from hrtem_stream.errors import SettingsError  # noqa: E402
from hrtem_stream.unet.checkpoint import load_checkpoint, shipped_weights  # noqa: E402
from tests.unet.frames import example  # noqa: E402

SESSIONS = ("2013_0101", "2013_0102", "2013_0103", "2013_0104")


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for seed, session in enumerate(SESSIONS):
        one = example(seed, group=session, size=256)
        grey = np.clip(128 + 30 * one.image, 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{one.name}.png")
        Image.fromarray(one.amorphous.astype(np.uint8) * 255).save(folder / f"{one.name}_LABEL.png")
    return folder


def test_train_leaves_weights_that_load_and_says_where(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("train", folder, "--run", run, "--simulated", 2, "--json")
    report = json.loads(call(*arguments, "--first-views", 8, "--views", 8).stdout)
    network, card = load_checkpoint(Path(report["weights"]))
    assert report["sha256"] == card.sha256
    assert card.data == f"4 labelled frames of {folder.name}, 2 simulated frames"
    assert card.recipe["n_views"] == report["n_views"] == 8
    assert network.config.widths == (16, 32, 64, 128)
    assert {path.name for path in run.iterdir()} >= {"first_stage.jsonl", "fast.jsonl", "simulated"}
    before = (run / "first_stage.pt").stat().st_mtime_ns
    more = json.loads(call(*arguments, "--first-views", 8, "--views", 16).stdout)
    assert more["n_views"] == 16
    assert (run / "first_stage.pt").stat().st_mtime_ns == before, "what was done is not done again"


def test_train_goes_on_from_weights_that_fit(folder: Path, tmp_path: Path) -> None:
    arguments = ("train", folder, "--run", tmp_path, "--simulated", 0, "--views", 8, "--start")
    report = json.loads(call(*arguments, shipped_weights(), "--json").stdout)
    network, card = load_checkpoint(Path(report["weights"]))
    assert card.data.endswith("begun with the weights fast.safetensors")
    begun, _ = load_checkpoint(shipped_weights())
    for new, old in zip(network.parameters(), begun.parameters(), strict=True):
        torch.testing.assert_close(new, old, atol=0.05, rtol=0.0)
    with pytest.raises(SettingsError, match="weights of paper"):
        call(*arguments, shipped_weights(), "--architecture", "paper")
    with pytest.raises(SettingsError, match="cannot be read"):
        call(*arguments, tmp_path / "none.safetensors")


def test_crossvalidate_holds_sessions_out_and_prints_table_one(
    folder: Path, tmp_path: Path
) -> None:
    arguments = ("crossvalidate", folder, "--run", tmp_path, "--n-folds", 2, "--repeats", 1)
    arguments = (*arguments, "--simulated", 0, "--views", 8)
    summary = json.loads(call(*arguments, "--json").stdout)
    assert (summary["segmenter"], summary["architecture"], summary["kind"]) == (
        "unet", "fast", "date",
    )  # fmt: skip
    assert sum(fold["n_frames"] for fold in summary["folds"]) == 4
    rows = summary["table_one"]
    scored = summary["as_is"]["jaccard"]
    assert rows["U-Net fast"]["jaccard"] == {"mean": scored["mean"], "spread": 0.0}
    assert rows["U-Net fast, threshold of the other folds"]["f1"]["mean"] > 0.0
    assert rows["Bragg filter"]["jaccard"]["mean"] > 0.5
    assert rows["Bragg filter, off edge"]["jaccard"]["spread"] == 0.0, "there is one repeat"
    assert rows["U-Net, published"]["f1"] == {"mean": 0.884, "spread": None}
    assert rows["Bragg filter, published"]["recall"]["mean"] is None, "it was not published"
    printed = call(*arguments).stdout
    assert "as_is" in printed
    assert "U-Net fast, four flips" in printed
    assert "Bragg filter, published" in printed


def test_crossvalidate_takes_one_fold_that_exists(folder: Path, tmp_path: Path) -> None:
    arguments = ("crossvalidate", folder, "--run", tmp_path, "--n-folds", 2, "--repeats", 1)
    arguments = (*arguments, "--segmenter", "bragg", "--json", "--only-fold")
    assert [fold["fold"] for fold in json.loads(call(*arguments, 1).stdout)["folds"]] == [1]
    with pytest.raises(SettingsError, match="--only-fold must be below"):
        call(*arguments, 2)


def test_crossvalidate_scores_the_bragg_filter_without_training(
    folder: Path, tmp_path: Path
) -> None:
    summary = json.loads(
        call(
            "crossvalidate", folder, "--segmenter", "bragg", "--folds", "random", "--n-folds", 2,
            "--repeats", 2, "--run", tmp_path / "none", "--json",
        ).stdout
    )  # fmt: skip
    assert (summary["segmenter"], summary["kind"], summary["n_repeats"]) == ("bragg", "random", 2)
    assert not any("fast" in row for row in summary["table_one"])
    assert not (tmp_path / "none").exists()


def test_gridsearch_ranks_every_choice(folder: Path, tmp_path: Path) -> None:
    arguments = ("gridsearch", folder, "--features", "2,4", "--blocks", 3, "--rates", "1e-3")
    arguments = (*arguments, "--n-folds", 2, "--views", 8, "--run", tmp_path)
    results = json.loads(call(*arguments, "--json").stdout)["results"]
    assert sorted(row["features"] for row in results) == [2, 4]
    assert results[0]["jaccard"] >= results[1]["jaccard"]
    assert len(call(*arguments).stdout.splitlines()) == 3


def test_a_list_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="--blocks"):
        call("gridsearch", folder, "--blocks", "five")
