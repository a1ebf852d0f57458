"""Scores, thresholds and error maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrtem_stream.unet import evaluate
from tests.unet.frames import SIZE, example


def test_the_label_itself_scores_one() -> None:
    examples = [example(seed) for seed in range(3)]
    found = evaluate.evaluate([e.amorphous for e in examples], examples)
    assert found.pooled.jaccard == found.off_edge.jaccard == 1.0
    assert found.n_frames == 3
    assert set(found.per_frame) == {e.name for e in examples}
    assert found.as_dict()["n_frames"] == 3


def test_a_mask_that_is_one_pixel_too_large_is_right_off_the_edge() -> None:
    one = example()
    grown = one.amorphous.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            grown |= np.roll(one.amorphous, shift, axis)
    found = evaluate.evaluate([grown], [one])
    assert found.pooled.jaccard < 0.95
    assert found.off_edge.jaccard == 1.0


def test_pixels_that_do_not_count_do_not_count() -> None:
    one = example()
    found = evaluate.evaluate(
        [np.ones((SIZE, SIZE), np.bool_)], [replace(one, counts=one.amorphous)]
    )
    assert found.pooled.jaccard == 1.0


def test_a_mask_for_every_frame_is_needed() -> None:
    with pytest.raises(ValueError, match="masks"):
        evaluate.evaluate([], [example()])


def test_table_one_has_a_line_for_each_method() -> None:
    one = example()
    score = evaluate.evaluate([one.amorphous], [one]).pooled
    lines = evaluate.table_one({"fast": score, "bragg": score}).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("fast")
    assert lines[1].count("1.000") == 6


def test_error_maps_are_coloured_as_in_the_paper() -> None:
    mask = np.array([[True, True], [False, False]])
    label = np.array([[True, False], [True, False]])
    picture = evaluate.error_map(mask, label)
    np.testing.assert_array_equal(picture[0], [(255, 255, 255), (255, 0, 0)])
    np.testing.assert_array_equal(picture[1], [(0, 0, 255), (0, 0, 0)])


def test_error_maps_are_written_beside_their_frames(tmp_path: Path) -> None:
    one = example()
    evaluate.write_error_maps(tmp_path / "maps", masks=[one.amorphous], examples=[one])
    with Image.open(tmp_path / "maps" / f"{one.name}.png") as picture:
        assert picture.size == (2 * SIZE, SIZE)
