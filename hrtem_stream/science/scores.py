"""How well a mask agrees with a label. The positive class is amorphous.

With TP, FP, FN, TN pixels (found and labelled, found only, labelled only, neither):

    accuracy   = (TP + TN) / all                   Jaccard = TP / (TP + FP + FN)
    recall     = TP / (TP + FN)                    F1      = 2 TP / (2 TP + FP + FN)
    precision  = TP / (TP + FP)                    balanced accuracy = (recall + TN/(TN + FP)) / 2

These are scikit-learn's definitions. Where a ratio is 0/0 it is 1 if mask and label agree in
having no such pixel (precision, recall, F1 and Jaccard of two empty masks) and 0 if they do not;
scikit-learn's `zero_division=1` gives 1 in either case for precision and recall. Balanced accuracy
leaves out a class that the label does not have, as scikit-learn does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Pixels by what the mask and the label say."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def __add__(self, other: Confusion) -> Confusion:
        """Pool the pixels of two images."""
        return Confusion(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Confusion)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The six scores, each 0 to 1."""

    accuracy: float
    balanced_accuracy: float
    jaccard: float
    f1: float
    precision: float
    recall: float


def confusion(mask: Mask, label: Mask, *, counted: Mask | None = None) -> Confusion:
    """Count the pixels of a mask against a label.

    Parameters
    ----------
    mask, label
        (..., M, N) bool, True = amorphous.
    counted
        Where given, only pixels that are True in it count.

    Raises
    ------
    ValueError
        If the arrays differ in shape or are not boolean.
    """
    if counted is None:
        counted = np.ones_like(label)
    for name, array in (("mask", mask), ("label", label), ("counted", counted)):
        if array.dtype != np.bool_:
            raise ValueError(f"{name} must be boolean, got {array.dtype}")
        if array.shape != label.shape:
            raise ValueError(f"{name} must have the label's shape {label.shape}, got {array.shape}")
    return Confusion(
        true_positive=int(np.count_nonzero(mask & label & counted)),
        false_positive=int(np.count_nonzero(mask & ~label & counted)),
        false_negative=int(np.count_nonzero(~mask & label & counted)),
        true_negative=int(np.count_nonzero(~mask & ~label & counted)),
    )


def scores(counts: Confusion) -> Scores:
    """Turn counted pixels into scores.

    Raises
    ------
    ValueError
        If no pixel was counted.
    """
    tp, fp = counts.true_positive, counts.false_positive
    fn, tn = counts.false_negative, counts.true_negative
    n_pixels = tp + fp + fn + tn
    if n_pixels == 0:
        raise ValueError("counts must hold at least one pixel, got none")
    nothing = float(tp + fp + fn == 0)
    per_class = [right / total for right, total in ((tp, tp + fn), (tn, tn + fp)) if total > 0]
    return Scores(
        accuracy=(tp + tn) / n_pixels,
        balanced_accuracy=sum(per_class) / len(per_class),
        jaccard=_ratio(tp, tp + fp + fn, nothing),
        f1=_ratio(2 * tp, 2 * tp + fp + fn, nothing),
        precision=_ratio(tp, tp + fp, nothing),
        recall=_ratio(tp, tp + fn, nothing),
    )


def pooled_scores(pairs: Iterable[tuple[Mask, Mask]]) -> Scores:
    """Score all pixels of many (mask, label) pairs together.

    Raises
    ------
    ValueError
        If there is no pair, or a pair is refused by `confusion`.
    """
    return scores(sum((confusion(mask, label) for mask, label in pairs), Confusion()))


def per_image_scores(pairs: Iterable[tuple[Mask, Mask]]) -> Scores:
    """Score each (mask, label) pair by itself and average over the images.

    Raises
    ------
    ValueError
        If there is no pair, or a pair is refused by `confusion`.
    """
    each = [scores(confusion(mask, label)) for mask, label in pairs]
    if not each:
        raise ValueError("pairs must hold at least one image, got none")
    return Scores(
        **{f.name: float(np.mean([getattr(s, f.name) for s in each])) for f in fields(Scores)}
    )


def pooled_scores_off_edge(pairs: Iterable[tuple[Mask, Mask]], *, margin_px: int = 2) -> Scores:
    """Score all pixels of many pairs together, but not those close to an edge of the label.

    Hand-drawn edges are uncertain by a few pixels; what lies within `margin_px` of one says more
    about the hand than about the mask.

    Raises
    ------
    ValueError
        If the margin is negative, nothing is left to count, or a pair is refused by `confusion`.
    """
    counts = Confusion()
    for mask, label in pairs:
        away = off_edge(label, margin_px=margin_px)
        counts = counts + confusion(mask, label, counted=away)
    return scores(counts)


def off_edge(label: Mask, *, margin_px: int) -> Mask:
    """Return where a label is the same out to a chessboard distance of `margin_px`.

    A margin of n leaves out the n pixels on either side of each edge; the border of the image is
    not an edge.

    Raises
    ------
    ValueError
        If the margin is negative or the label is not an (M, N) mask.
    """
    if margin_px < 0:
        raise ValueError(f"margin_px must not be negative, got {margin_px}")
    if label.ndim != 2 or label.dtype != np.bool_:
        raise ValueError(f"label must be an (M, N) mask, got {label.ndim}-D {label.dtype}")
    size = 2 * margin_px + 1
    values = label.astype(np.uint8)
    same: Mask = ndimage.minimum_filter(values, size, mode="nearest") == ndimage.maximum_filter(
        values, size, mode="nearest"
    )
    return same


def _ratio(part: int, whole: int, if_empty: float) -> float:
    return part / whole if whole else if_empty
