"""Cross-validation and grid search: the paper's experiments, with honest folds.

Each fold is trained into its own checkpoint, so that a stopped cross-validation goes on where it
was, and each scored fold is kept, so that a finished one is not repeated.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """All folds of all repeats."""

    kind: str
    """date or random."""
    folds: list[FoldResult]

    def pooled(self, *, repeat: int, variant: str = "as_is") -> Scores:
        """Score the pixels of all held-out frames of a repeat together."""
        counts = [getattr(f, variant) for f in self.folds if f.repeat == repeat]
        return scores(sum(counts, Confusion()))

    def mean(self, *, variant: str = "as_is") -> Scores:
        """Average the pooled scores of the repeats."""
        repeats = {fold.repeat for fold in self.folds}
        each = [asdict(self.pooled(repeat=r, variant=variant)) for r in sorted(repeats)]
        return Scores(**{name: float(np.mean([one[name] for one in each])) for name in each[0]})

    def summary(self) -> dict[str, object]:
        """Return mean and spread over the repeats of the pooled scores, and the folds."""
        repeats = sorted({fold.repeat for fold in self.folds})
        found: dict[str, object] = {"kind": self.kind, "n_repeats": len(repeats)}
        for variant in ("as_is", "four_flips", "off_edge"):
            each = [asdict(self.pooled(repeat=r, variant=variant)) for r in repeats]
            found[variant] = {
                name: {
                    "mean": float(np.mean([scored[name] for scored in each])),
                    "spread": float(np.std([scored[name] for scored in each])),
                    "repeats": [scored[name] for scored in each],
                }
                for name in each[0]
            }
        found["folds"] = [
            {
                "repeat": fold.repeat,
                "fold": fold.fold,
                "n_frames": len(fold.held_out),
                "jaccard": scores(fold.as_is).jaccard,
                "jaccard_four_flips": scores(fold.four_flips).jaccard,
            }
            for fold in self.folds
        ]
        return found


def crossvalidate(
    recipe: Recipe,
    *,
    real: Sequence[Example],
    simulated: Sequence[Example],
    kind: str,
    directory: Path,
    n_folds: int = 5,
    n_repeats: int = 2,
    start: nn.Module | None = None,
    device: str = "cpu",
    compiled: bool = False,
    report: Callable[[Progress], None] = log_progress,
) -> CrossValidation:
    """Train and score on folds, resuming what `directory` holds.

    Parameters
    ----------
    recipe : Recipe
        Of every training; the seed of a fold is `recipe.seed + 100 repeat + fold`.
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
    start : nn.Module, optional
        Weights to begin every fold with; they must not have seen a real frame.
    device, compiled, report
        See `train.train`.

    Raises
    ------
    ValueError
        If `kind` is unknown or the frames do not suffice for the folds.
    """
    directory.mkdir(parents=True, exist_ok=True)
    results = []
    for repeat in range(n_repeats):
        for fold, held_out in enumerate(_split(real, kind, n_folds=n_folds, seed=repeat)):
            stem = directory / f"{kind}_{repeat}_{fold}"
            if not stem.with_suffix(".json").exists():
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
            results.append(_result(json.loads(stem.with_suffix(".json").read_text())))
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
) -> CrossValidation:
    """Score a segmenter that needs no training on the same folds.

    Parameters
    ----------
    segment : callable
        Maps normalised images (B, P, Q) to masks (B, P, Q).
    real, kind, n_folds, n_repeats
        See `crossvalidate`.
    """
    results = []
    for repeat in range(n_repeats):
        for fold, held_out in enumerate(_split(real, kind, n_folds=n_folds, seed=repeat)):
            test = [real[i] for i in held_out]
            masks = segment(np.stack([example.image for example in test]))
            counted, away = Confusion(), Confusion()
            for mask, example in zip(masks, test, strict=True):
                label = example.amorphous
                counted = counted + confusion(mask, label, counted=example.counts)
                inner = example.counts & off_edge(label, margin_px=EDGE_MARGIN_PX)
                away = away + confusion(mask, label, counted=inner)
            results.append(
                FoldResult(
                    repeat=repeat,
                    fold=fold,
                    seed=repeat,
                    held_out=[example.name for example in test],
                    as_is=counted,
                    four_flips=counted,
                    off_edge=away,
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


def _score(
    network: nn.Module,
    *,
    test: Sequence[Example],
    place: tuple[int, int, int],
) -> FoldResult:
    counted = {
        name: _counted(_probabilities(network, test, flips), test)
        for name, flips in (("as_is", AS_IS), ("four_flips", FOUR_FLIPS))
    }
    masks = [p > THRESHOLD for p in _probabilities(network, test, AS_IS)]
    away = Confusion()
    for mask, example in zip(masks, test, strict=True):
        counted_there = example.counts & off_edge(example.amorphous, margin_px=EDGE_MARGIN_PX)
        away = away + confusion(mask, example.amorphous, counted=counted_there)
    repeat, fold, seed = place
    return FoldResult(
        repeat=repeat,
        fold=fold,
        seed=seed,
        held_out=[example.name for example in test],
        as_is=counted["as_is"],
        four_flips=counted["four_flips"],
        off_edge=away,
    )


def _probabilities(
    network: nn.Module, examples: Sequence[Example], flips: Flips
) -> list[NDArray[np.float32]]:
    segmenter = UNetSegmenter(network, flips=flips)
    return list(segmenter.probabilities(np.stack([example.image for example in examples])))


def _counted(
    probabilities: Sequence[NDArray[np.float32]], examples: Sequence[Example]
) -> Confusion:
    total = Confusion()
    for probability, example in zip(probabilities, examples, strict=True):
        mask = probability > THRESHOLD
        total = total + confusion(mask, example.amorphous, counted=example.counts)
    return total


def _result(values: dict[str, object]) -> FoldResult:
    counts = {
        name: Confusion(**values.pop(name))  # type: ignore[arg-type]
        for name in ("as_is", "four_flips", "off_edge")
    }
    return FoldResult(**values, **counts)  # type: ignore[arg-type]
