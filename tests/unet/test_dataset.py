"""Frames on disk, and how they are split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrtem_stream.unet import dataset
from tests.unet.frames import REAL, needs_real_frames


def test_pairs_are_read_and_other_pictures_left(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 190, (64, 64)).astype(np.uint8)
    label = np.zeros((64, 64), np.uint8)
    label[:20] = 255
    Image.fromarray(pixels).save(tmp_path / "2013_0611_a.png")
    Image.fromarray(label).save(tmp_path / "2013_0611_a_LABEL.png")
    Image.fromarray(pixels).save(tmp_path / "2013_0611_b.png")
    (read,) = dataset.read_real(tmp_path)
    assert read.name == "2013_0611_a"
    assert read.group == "2013_0611"
    np.testing.assert_array_equal(read.amorphous, label > 0)
    assert read.image.std() == pytest.approx(1.0, abs=1e-3)


def test_a_directory_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pairs"):
        dataset.read_real(tmp_path)


def test_a_label_of_another_shape_is_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(60, 190, (64, 64)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a_b_c.png")
    Image.fromarray(pixels[:32]).save(tmp_path / "a_b_c_LABEL.png")
    with pytest.raises(ValueError, match="label"):
        dataset.read_real(tmp_path)


def test_simulated_frames_come_back_and_are_not_made_twice(tmp_path: Path) -> None:
    dataset.write_simulated(tmp_path, seeds=[3, 4])
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    dataset.write_simulated(tmp_path, seeds=[3, 4])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    examples = dataset.read_simulated(tmp_path)
    assert [e.name for e in examples] == ["00000003", "00000004"]
    assert examples[0].image.shape == (256, 256)
    assert examples[0].group == "simulated"


@pytest.mark.parametrize("n_folds", [2, 5])
def test_date_folds_never_part_a_session_and_cover_everything(n_folds: int) -> None:
    groups = [f"2014_{day:04d}" for day in (1, 1, 1, 2, 3, 3, 4, 5, 6, 6, 7)]
    folds = dataset.date_folds(groups, n_folds=n_folds, seed=1)
    assert sorted(np.concatenate(folds)) == list(range(len(groups)))
    for group in set(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        assert sum(bool(np.isin(members, fold).any()) for fold in folds) == 1


def test_more_folds_than_sessions_are_refused() -> None:
    with pytest.raises(ValueError, match="n_folds"):
        dataset.date_folds(["a", "a", "b"], n_folds=3, seed=0)


def test_random_folds_cover_everything_evenly() -> None:
    folds = dataset.random_folds(11, n_folds=3, seed=0)
    assert sorted(np.concatenate(folds)) == list(range(11))
    assert {len(fold) for fold in folds} == {3, 4}


@needs_real_frames
def test_the_published_frames_have_the_known_amorphous_share() -> None:
    examples = dataset.read_real(REAL)
    assert len(examples) == 104
    assert np.mean([e.amorphous.mean() for e in examples]) == pytest.approx(0.138, abs=0.002)
    assert sum(not e.amorphous.any() for e in examples) == 2
