"""Cross-validation and grid search: the paper's experiments, with honest folds.

Each fold is trained into its own checkpoint, so that a stopped cross-validation goes on where it
was, and each scored fold is kept, so that a finished one is not repeated.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hrtem_stream.science.scores import Confusion, Scores, confusion, off_edge, scores
from hrtem_stream.unet.dataset import Example, date_folds, random_folds
from hrtem_stream.unet.evaluate import EDGE_MARGIN_PX
from hrtem_stream.unet.inference import AS_IS, FOUR_FLIPS, Flips, UNetSegmenter
from hrtem_stream.unet.paper import PaperConfig
from hrtem_stream.unet.recipe import Recipe
from hrtem_stream.unet.train import Progress, log_progress, train

logger = logging.getLogger(__name__)

THRESHOLD = 0.45
"""Fixed beforehand for all folds. Training frames alone would ask for .35, as hand-drawn labels are
a little generous, and simulated frames for .5."""
THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(4, 15))
"""Among these a fold is given the one that is best on the other folds' held-out frames."""

VARIANTS = ("as_is", "four_flips", "off_edge", "four_flips_off_edge")
OTHERS_THRESHOLD = "others_threshold"
"""Four flips, at the threshold that is best on the other folds of the repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """One fold of one repeat: what was held out, and the pixels counted on it."""

    repeat: int
    fold: int
    seed: int
    held_out: list[str]
    as_is: Confusion
    four_flips: Confusion
    off_edge: Confusion
    """As it is, without the pixels near the label's edge."""
    four_flips_off_edge: Confusion
    by_threshold: list[Confusion]
    """Four flips at each of `THRESHOLDS`; empty for a segmenter that has no threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """All folds of all repeats."""

    kind: str
    """date or random."""
    folds: list[FoldResult]

    @property
    def repeats(self) -> list[int]:
        """The numbers of the repeats."""
        return sorted({fold.repeat for fold in self.folds})

    @property
    def variants(self) -> tuple[str, ...]:
        """The ways in which the folds were scored."""
        if not all(fold.by_threshold for fold in self.folds):
            return ("as_is", "off_edge")
        return (*VARIANTS, OTHERS_THRESHOLD) if len(self.folds) > len(self.repeats) else VARIANTS

    def pooled(self, *, repeat: int, variant: str = "as_is") -> Scores:
        """Score the pixels of all held-out frames of a repeat together."""
        folds = [fold for fold in self.folds if fold.repeat == repeat]
        if variant == OTHERS_THRESHOLD:
            return scores(sum((_at_others_threshold(fold, folds) for fold in folds), Confusion()))
        return scores(sum((getattr(fold, variant) for fold in folds), Confusion()))

    def mean(self, *, variant: str = "as_is") -> Scores:
        """Average the pooled scores of the repeats."""
        return self._over_repeats(np.mean, variant)

    def spread(self, *, variant: str = "as_is") -> Scores:
        """Give the standard deviation of the pooled scores over the repeats."""
        return self._over_repeats(np.std, variant)

    def summary(self) -> dict[str, object]:
        """Return mean and spread over the repeats of the pooled scores, and the folds."""
        found: dict[str, object] = {"kind": self.kind, "n_repeats": len(self.repeats)}
        for variant in self.variants:
            mean, spread = asdict(self.mean(variant=variant)), asdict(self.spread(variant=variant))
            each = [asdict(self.pooled(repeat=r, variant=variant)) for r in self.repeats]
            found[variant] = {
                name: {
                    "mean": mean[name],
                    "spread": spread[name],
                    "repeats": [scored[name] for scored in each],
                }
                for name in mean
            }
        found["folds"] = [
            {
                "repeat": fold.repeat,
                "fold": fold.fold,
                "n_frames": len(fold.held_out),
                "jaccard": scores(fold.as_is).jaccard,
                "jaccard_four_flips": scores(fold.four_flips).jaccard,
                "jaccard_off_edge": scores(fold.off_edge).jaccard,
            }
            for fold in self.folds
        ]
        return found

    def _over_repeats(self, reduce: Callable[[list[float]], np.floating], variant: str) -> Scores:
        each = [asdict(self.pooled(repeat=r, variant=variant)) for r in self.repeats]
        return Scores(**{name: float(reduce([one[name] for one in each])) for name in each[0]})


def crossvalidate(
    recipe: Recipe,
    *,
    real: Sequence[Example],
    simulated: Sequence[Example],
    kind: str,
    directory: Path,
    n_folds: int = 5,
    n_repeats: int = 2,
    only_fold: int | None = None,
    start: nn.Module | None = None,
    device: str = "cpu",
    compiled: bool = False,
    report: Callable[[Progress], None] = log_progress,
) -> CrossValidation:
    """Train and score on folds, resuming what `directory` holds.

    Parameters
    ----------
    recipe : Recipe
        Of every training; the seed of a fold is `recipe.seed + 100 repeat + fold`, and that of a
        repeat's split `recipe.seed + repeat`.
    real : sequence of Example
        The frames that are held out in turn.
    simulated : sequence of Example
        Take part in every training, never in the scores.
    kind : str
        date: no session stands on both sides; random: as published, which leaks.
    directory : path
        Checkpoints, metrics and fold results.
    n_folds, n_repeats : int
        Each repeat splits anew.
    only_fold : int, optional
        Train and score this fold only, from 0; other processes may take the others.
    start : nn.Module, optional
        Weights to begin every fold with; they must not have seen a real frame.
    device, compiled, report
        See `train.train`.

    Raises
    ------
    ValueError
        If `kind` is unknown, the frames do not suffice for the folds, or there is no such fold.
    """
    directory.mkdir(parents=True, exist_ok=True)
    results = []
    for repeat in range(n_repeats):
        split = _split(real, kind, n_folds=n_folds, seed=recipe.seed + repeat)
        for fold, held_out in _chosen(split, only_fold):
            stem = directory / f"{kind}_{repeat}_{fold}"
            result = _stored(stem.with_suffix(".json"))
            if result is None:
                own = replace(recipe, seed=recipe.seed + 100 * repeat + fold)
                kept = np.setdiff1d(np.arange(len(real)), held_out)
                network = train(
                    own,
                    real=[real[i] for i in kept],
                    simulated=simulated,
                    checkpoint=stem.with_suffix(".pt"),
                    start=start,
                    device=device,
                    compiled=compiled,
                    report=report,
                )
                result = _score(
                    network,
                    test=[real[i] for i in held_out],
                    place=(repeat, fold, own.seed),
                )
                stem.with_suffix(".json").write_text(json.dumps(asdict(result)))
            results.append(result)
            logger.info(
                "%s folds, repeat %d, fold %d: Jaccard %.3f",
                kind,
                repeat,
                fold,
                scores(results[-1].as_is).jaccard,
            )
    return CrossValidation(kind=kind, folds=results)


def score_untrained(
    segment: Callable[[NDArray[np.float32]], NDArray[np.bool_]],
    *,
    real: Sequence[Example],
    kind: str,
    n_folds: int = 5,
    n_repeats: int = 2,
    only_fold: int | None = None,
    seed: int = 0,
) -> CrossValidation:
    """Score a segmenter that needs no training on the same folds.

    Parameters
    ----------
    segment : callable
        Maps normalised images (B, P, Q) to masks (B, P, Q).
    real, kind, n_folds, n_repeats, only_fold
        See `crossvalidate`.
    seed : int
        That of the recipe whose folds these shall be.
    """
    results = []
    for repeat in range(n_repeats):
        split = _split(real, kind, n_folds=n_folds, seed=seed + repeat)
        for fold, held_out in _chosen(split, only_fold):
            test = [real[i] for i in held_out]
            masks = segment(np.stack([example.image for example in test]))
            counted, away = _counted(masks, test), _counted_off_edge(masks, test)
            results.append(
                FoldResult(
                    repeat=repeat,
                    fold=fold,
                    seed=seed + repeat,
                    held_out=[example.name for example in test],
                    as_is=counted,
                    four_flips=counted,
                    off_edge=away,
                    four_flips_off_edge=away,
                    by_threshold=[],
                )
            )
    return CrossValidation(kind=kind, folds=results)


def gridsearch(
    recipe: Recipe,
    *,
    real: Sequence[Example],
    n_features: Sequence[int],
    n_blocks: Sequence[int],
    learning_rates: Sequence[float],
    directory: Path,
    kind: str = "date",
    n_folds: int = 5,
    device: str = "cpu",
    report: Callable[[Progress], None] = log_progress,
) -> dict[tuple[int, int, float], Scores]:
    """Cross-validate the published network for each choice of features, blocks and rate.

    Returns
    -------
    dict
        Pooled scores by (features, blocks, learning rate), the best Jaccard first.
    """
    found: dict[tuple[int, int, float], Scores] = {}
    for features, blocks, rate in itertools.product(n_features, n_blocks, learning_rates):
        own = replace(
            recipe,
            network=PaperConfig(n_blocks=blocks, n_features=features),
            learning_rate=rate,
        )
        folds = crossvalidate(
            own,
            real=real,
            simulated=(),
            kind=kind,
            directory=directory / f"{features}_{blocks}_{rate:g}",
            n_folds=n_folds,
            n_repeats=1,
            device=device,
            report=report,
        )
        found[features, blocks, rate] = folds.pooled(repeat=0)
    return dict(sorted(found.items(), key=lambda item: -item[1].jaccard))


def _split(
    real: Sequence[Example], kind: str, *, n_folds: int, seed: int
) -> list[NDArray[np.intp]]:
    if kind == "date":
        return date_folds([example.group for example in real], n_folds=n_folds, seed=seed)
    if kind == "random":
        return random_folds(len(real), n_folds=n_folds, seed=seed)
    raise ValueError(f"kind must be date or random, got {kind}")


def _chosen(
    split: Sequence[NDArray[np.intp]], only_fold: int | None
) -> list[tuple[int, NDArray[np.intp]]]:
    numbered = list(enumerate(split))
    if only_fold is None:
        return numbered
    if not 0 <= only_fold < len(split):
        raise ValueError(f"only_fold must be from 0 to {len(split) - 1}, got {only_fold}")
    return [numbered[only_fold]]


def _score(
    network: nn.Module,
    *,
    test: Sequence[Example],
    place: tuple[int, int, int],
) -> FoldResult:
    as_is, four_flips = (_probabilities(network, test, flips) for flips in (AS_IS, FOUR_FLIPS))
    masks, averaged = as_is > THRESHOLD, four_flips > THRESHOLD
    repeat, fold, seed = place
    return FoldResult(
        repeat=repeat,
        fold=fold,
        seed=seed,
        held_out=[example.name for example in test],
        as_is=_counted(masks, test),
        four_flips=_counted(averaged, test),
        off_edge=_counted_off_edge(masks, test),
        four_flips_off_edge=_counted_off_edge(averaged, test),
        by_threshold=[_counted(four_flips > threshold, test) for threshold in THRESHOLDS],
    )


def _probabilities(
    network: nn.Module, examples: Sequence[Example], flips: Flips
) -> NDArray[np.float32]:
    segmenter = UNetSegmenter(network, flips=flips)
    return segmenter.probabilities(np.stack([example.image for example in examples]))


def _counted(masks: NDArray[np.bool_], examples: Sequence[Example]) -> Confusion:
    return sum(
        (
            confusion(mask, example.amorphous, counted=example.counts)
            for mask, example in zip(masks, examples, strict=True)
        ),
        Confusion(),
    )


def _counted_off_edge(masks: NDArray[np.bool_], examples: Sequence[Example]) -> Confusion:
    inner = [
        replace(
            example,
            counts=example.counts & off_edge(example.amorphous, margin_px=EDGE_MARGIN_PX),
        )
        for example in examples
    ]
    return _counted(masks, inner)


def _at_others_threshold(own: FoldResult, folds: Sequence[FoldResult]) -> Confusion:
    """Count a fold at the threshold that is best on the frames of the other folds."""
    others = [fold.by_threshold for fold in folds if fold.fold != own.fold]
    jaccards = [scores(sum(counts, Confusion())).jaccard for counts in zip(*others, strict=True)]
    return own.by_threshold[int(np.argmax(jaccards))]


def _stored(path: Path) -> FoldResult | None:
    """Read a fold that is done; None if there is none, or one of an earlier version."""
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    if values.keys() != {field.name for field in fields(FoldResult)}:
        return None
    for name in VARIANTS:
        values[name] = Confusion(**values[name])
    values["by_threshold"] = [Confusion(**counted) for counted in values["by_threshold"]]
    return FoldResult(**values)
