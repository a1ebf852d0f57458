"""How well a segmenter does on labelled frames: the paper's Table I."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.scores import Confusion, Scores, confusion, off_edge, scores
from hrtem_stream.unet.dataset import Example

Mask = NDArray[np.bool_]
Segment = Callable[[NDArray[np.float32]], Mask]
"""Maps normalised images (B, P, Q) to masks (B, P, Q)."""

EDGE_MARGIN_PX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores over all counted pixels together."""

    n_frames: int
    pooled: Scores
    off_edge: Scores
    """Without the pixels within ±2 px of the label's edge, which the hand drew."""
    per_frame: dict[str, Confusion]
    """By the frame's name."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON, without the single frames."""
        return {
            "n_frames": self.n_frames,
            "pooled": asdict(self.pooled),
            "off_edge": asdict(self.off_edge),
        }


def evaluate(masks: Sequence[Mask], examples: Sequence[Example]) -> Evaluation:
    """Score one mask for each example.

    Raises
    ------
    ValueError
        If there are none, or not as many masks as examples.
    """
    if not examples or len(masks) != len(examples):
        raise ValueError(f"masks must be one each of {len(examples)} frames, got {len(masks)}")
    per_frame, away = {}, Confusion()
    for mask, example in zip(masks, examples, strict=True):
        label = example.amorphous
        per_frame[example.name] = confusion(mask, label, counted=example.counts)
        counted = example.counts & off_edge(label, margin_px=EDGE_MARGIN_PX)
        away = away + confusion(mask, label, counted=counted)
    return Evaluation(
        n_frames=len(examples),
        pooled=scores(sum(per_frame.values(), Confusion())),
        off_edge=scores(away),
        per_frame=per_frame,
    )


NAN = float("nan")
PUBLISHED: Mapping[str, Scores] = {
    "U-Net, published": Scores(
        accuracy=0.979, balanced_accuracy=0.950, jaccard=0.812, f1=0.884, precision=0.886,
        recall=0.889,
    ),
    "Bragg filter, published": Scores(
        accuracy=0.956, balanced_accuracy=NAN, jaccard=0.688, f1=0.791, precision=NAN, recall=NAN
    ),
}  # fmt: skip
"""Table I of Sadre et al. (2021): random folds, in which frames of one focal series leak."""


def table_one(rows: Mapping[str, Scores], *, spreads: Mapping[str, Scores] | None = None) -> str:
    """Return the paper's Table I as text: a line for each method, six scores; - is not known.

    Parameters
    ----------
    rows
        Scores by method.
    spreads
        Standard deviations over the repeats, for some of the methods.
    """
    names = ("accuracy", "balanced_accuracy", "jaccard", "f1", "precision", "recall")
    lines = [f"{'':46s}" + "".join(f"{name.removesuffix('_accuracy'):>13s}" for name in names)]
    for method, score in rows.items():
        mean, spread = asdict(score), (spreads or {}).get(method)
        cells = [_cell(mean[name], getattr(spread, name, None)) for name in names]
        lines.append(f"{method:46s}" + "".join(f"{cell:>13s}" for cell in cells))
    return "\n".join(lines)


def _cell(mean: float, spread: float | None) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.3f}" if spread is None else f"{mean:.3f} ±{spread:.3f}"
