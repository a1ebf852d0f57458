"""Scores: scikit-learn's definitions, with our rule for 0/0, pooled, per image and off the edge."""

from dataclasses import asdict

import numpy as np
import pytest
from sklearn import metrics

from hrtem_stream.science.scores import (
    confusion,
    off_edge,
    per_image_scores,
    pooled_scores,
    pooled_scores_off_edge,
    scores,
)

Pair = tuple[np.ndarray, np.ndarray]


def random_pairs(n: int) -> list[Pair]:
    rng = np.random.default_rng(n)
    return [(rng.random((16, 20)) < 0.3, rng.random((16, 20)) < 0.4) for _ in range(n)]


def by_scikit_learn(mask: np.ndarray, label: np.ndarray) -> dict[str, float]:
    truth, found = label.ravel(), mask.ravel()
    return {
        "accuracy": metrics.accuracy_score(truth, found),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, found),
        "jaccard": metrics.jaccard_score(truth, found),
        "f1": metrics.f1_score(truth, found),
        "precision": metrics.precision_score(truth, found),
        "recall": metrics.recall_score(truth, found),
    }


def test_pooled_scores_are_those_of_scikit_learn_over_all_pixels() -> None:
    pairs = random_pairs(5)
    masks, labels = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    assert asdict(pooled_scores(pairs)) == pytest.approx(by_scikit_learn(masks, labels))


def test_per_image_scores_are_the_means_of_the_images_own() -> None:
    pairs = random_pairs(4)
    each = [by_scikit_learn(*pair) for pair in pairs]
    mean = {name: np.mean([one[name] for one in each]) for name in each[0]}
    assert asdict(per_image_scores(pairs)) == pytest.approx(mean)


def test_a_perfect_mask_scores_one_throughout() -> None:
    label = random_pairs(1)[0][1]
    assert set(asdict(pooled_scores([(label, label)])).values()) == {1.0}


def test_two_empty_masks_agree_perfectly() -> None:
    none = np.zeros((4, 4), np.bool_)
    assert set(asdict(pooled_scores([(none, none)])).values()) == {1.0}


def test_nothing_found_where_there_is_something_scores_zero() -> None:
    none, everything = np.zeros((4, 4), np.bool_), np.ones((4, 4), np.bool_)
    found = pooled_scores([(none, everything)])
    assert found.precision == found.recall == found.f1 == found.jaccard == 0.0
    assert found.accuracy == found.balanced_accuracy == 0.0


def test_something_found_where_there_is_nothing_scores_zero_but_for_the_rest() -> None:
    label = np.zeros((2, 2), np.bool_)
    mask = np.array([[1, 0], [0, 0]], np.bool_)
    found = pooled_scores([(mask, label)])
    assert found.precision == found.recall == found.f1 == found.jaccard == 0.0
    assert found.accuracy == found.balanced_accuracy == 0.75


def test_the_edge_of_the_label_is_left_out_by_the_margin_on_either_side() -> None:
    label = np.zeros((1, 12), np.bool_)
    label[0, 6:] = True
    kept = [True] * 4 + [False] * 4 + [True] * 4
    assert off_edge(label, margin_px=2)[0].tolist() == kept
    assert off_edge(label, margin_px=0).all()


def test_the_border_of_the_image_is_not_an_edge() -> None:
    assert off_edge(np.ones((5, 5), np.bool_), margin_px=2).all()


def test_a_mask_that_errs_only_near_the_edge_is_perfect_off_it() -> None:
    label = np.zeros((40, 40), np.bool_)
    label[10:30, 10:30] = True
    mask = np.zeros_like(label)
    mask[9:31, 8:30] = True
    assert pooled_scores([(mask, label)]).jaccard < 0.9
    assert pooled_scores_off_edge([(mask, label)], margin_px=2).jaccard == 1.0


def test_counts_of_two_images_add_up() -> None:
    pairs = random_pairs(2)
    total = confusion(*pairs[0]) + confusion(*pairs[1])
    assert scores(total) == pooled_scores(pairs)


def test_unusable_input_is_refused() -> None:
    none = np.zeros((4, 4), np.bool_)
    with pytest.raises(ValueError, match="mask must be boolean, got uint8"):
        confusion(none.astype(np.uint8), none)
    with pytest.raises(ValueError, match="mask must have the label's shape"):
        confusion(none[:2], none)
    with pytest.raises(ValueError, match="counts must hold at least one pixel"):
        pooled_scores([])
    with pytest.raises(ValueError, match="pairs must hold at least one image"):
        per_image_scores([])
    with pytest.raises(ValueError, match="margin_px must not be negative, got -1"):
        off_edge(none, margin_px=-1)
