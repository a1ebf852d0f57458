"""Scores, thresholds and error maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hrtem_stream.science.scores import Scores
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
    lines = evaluate.table_one({"fast": score, **evaluate.PUBLISHED}).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("fast")
    assert lines[1].count("1.000") == 6
    assert lines[2].split()[-4:] == ["0.812", "0.884", "0.886", "0.889"]
    assert lines[3].split()[-6:] == ["0.956", "-", "0.688", "0.791", "-", "-"]


def test_table_one_shows_the_spread_where_it_is_known() -> None:
    published = evaluate.PUBLISHED["U-Net, published"]
    rows = {"one": published, "other": published}
    spread = Scores(
        accuracy=0.001, balanced_accuracy=0.002, jaccard=0.003, f1=0.004, precision=0.005,
        recall=0.006,
    )  # fmt: skip
    header, one, other = evaluate.table_one(rows, spreads={"one": spread}).splitlines()
    assert "0.812 ±0.003" in one
    assert "±" not in other
    assert len(header) == len(one) == len(other)
