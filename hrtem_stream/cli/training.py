"""Commands that train and compare networks: train, crossvalidate, gridsearch."""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hrtem_stream.cli.console import print_json, require_torch, say
from hrtem_stream.cli.options import Json
from hrtem_stream.errors import SegmenterError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hrtem_stream.science.scores import Scores
    from hrtem_stream.unet.crossvalidate import CrossValidation
    from hrtem_stream.unet.dataset import Example
    from hrtem_stream.unet.recipe import Recipe

FIRST_TRAINING_SEED = 10_000
"""Seeds of simulated frames below this one are kept for evaluation."""

Folder = Annotated[Path, typer.Argument(help="Folder of NAME.png with NAME_LABEL.png.")]
RunFolder = Annotated[Path, typer.Option(help="Checkpoints and metrics; a stopped run resumes.")]
ArchitectureOption = Annotated[Literal["fast", "paper"], typer.Option(help="Which network.")]
Simulated = Annotated[int, typer.Option(min=0, help="Simulated frames in the mix (fast only).")]
FirstViews = Annotated[
    int | None, typer.Option(min=8, help="Images shown in the first stage, all simulated.")
]
Views = Annotated[int | None, typer.Option(min=8, help="Images shown, in all.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Compiled = Annotated[
    bool, typer.Option("--compiled", help="Compile the network: 2 % faster on a processor.")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads on the processor.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]


def train(
    folder: Folder,
    run: RunFolder = Path("runs/train"),
    architecture: ArchitectureOption = "fast",
    simulated: Simulated = 4200,
    first_views: FirstViews = None,
    views: Views = None,
    start: Annotated[
        Path | None,
        typer.Option(help="Go on from these weights, of the same network, without a first stage."),
    ] = None,
    device: Device = "cpu",
    threads: Threads = 1,
    compiled: Compiled = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a network on labelled frames, and on simulated ones, into RUN/ARCHITECTURE.safetensors.

    Example: hrtem-stream train frames/ --run runs/mine --simulated 1000
    """
    _begin(threads)
    from dataclasses import asdict

    from hrtem_stream.unet.checkpoint import ModelCard, save_checkpoint
    from hrtem_stream.unet.crossvalidate import THRESHOLD
    from hrtem_stream.unet.train import train as train_network

    real = _read(folder)
    mixed = _simulated(run, simulated if architecture == "fast" else 0)
    begun = _network_of(start, architecture) if start else None
    recipe, first = _prepare(
        architecture, len(real), mixed, run, first_views, views, seed, device,
        first_stage=begun is None, compiled=compiled,
    )  # fmt: skip
    network = train_network(
        recipe, real=real, simulated=mixed, checkpoint=run / f"{architecture}.pt",
        start=begun or first, device=device, compiled=compiled,
    )  # fmt: skip
    card = ModelCard(
        architecture=architecture,
        config=asdict(recipe.network),
        threshold=THRESHOLD,
        data=f"{len(real)} labelled frames of {folder.name}, {len(mixed)} simulated frames"
        + (f"; begun with the weights {start.name}" if start else ""),
        seeds=[seed],
        recipe=asdict(recipe),
    )
    weights = run / f"{architecture}.safetensors"
    card = save_checkpoint(weights, network=network, card=card)
    if as_json:
        print_json({"weights": str(weights), "sha256": card.sha256, "n_views": recipe.n_views})
    else:
        print(f"{weights}: use it with --set segment.weights={weights}")


def crossvalidate(
    folder: Folder,
    folds: Annotated[Literal["date", "random"], typer.Option(help="What is held out.")] = "date",
    segmenter: Annotated[Literal["unet", "bragg"], typer.Option(help="What is scored.")] = "unet",
    architecture: ArchitectureOption = "fast",
    n_folds: Annotated[int, typer.Option("--n-folds", min=2, help="Folds.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats, each split anew.")] = 2,
    only_fold: Annotated[
        int | None,
        typer.Option(min=0, help="This fold only, from 0; other processes may take the others."),
    ] = None,
    run: RunFolder = Path("runs/crossvalidate"),
    simulated: Simulated = 4200,
    first_views: FirstViews = None,
    views: Views = None,
    device: Device = "cpu",
    threads: Threads = 1,
    compiled: Compiled = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score a segmenter on frames that it has not seen.

    Folds by date hold out whole sessions; random folds repeat what was published, and leak. The
    Bragg filter is scored on the same folds, and both stand beside the published Table I.
    Example: hrtem-stream crossvalidate frames/ --folds date --architecture fast --repeats 2
    """
    _begin(threads)
    from hrtem_stream.unet.crossvalidate import crossvalidate as run_folds
    from hrtem_stream.unet.crossvalidate import score_untrained
    from hrtem_stream.unet.evaluate import PUBLISHED, table_one

    real = _read(folder)
    if only_fold is not None and only_fold >= n_folds:
        raise SettingsError(f"--only-fold must be below --n-folds, got {only_fold}")
    bragg = score_untrained(
        _bragg_masks, real=real, kind=folds, n_folds=n_folds, n_repeats=repeats,
        only_fold=only_fold, seed=seed,
    )  # fmt: skip
    found = bragg
    if segmenter == "unet":
        mixed = _simulated(run, simulated if architecture == "fast" else 0)
        recipe, start = _prepare(
            architecture,
            _n_kept(real, n_folds),
            mixed,
            run,
            first_views,
            views,
            seed,
            device,
            compiled=compiled,
        )
        found = run_folds(
            recipe, real=real, simulated=mixed, kind=folds, directory=run / architecture,
            n_folds=n_folds, n_repeats=repeats, only_fold=only_fold, start=start, device=device,
            compiled=compiled,
        )  # fmt: skip
    methods = {"Bragg filter": bragg}
    if segmenter == "unet":
        methods = {f"U-Net {architecture}": found, **methods}
    means, spreads = _table(methods)
    rows = {m: _as_plain(row, spreads.get(m)) for m, row in {**means, **PUBLISHED}.items()}
    name = architecture if segmenter == "unet" else ""
    summary = {"segmenter": segmenter, "architecture": name, **found.summary(), "table_one": rows}
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary)
        print(f"\nTable I, {folds} folds; the published ones are random")
        print(table_one({**means, **PUBLISHED}, spreads=spreads))


def gridsearch(
    folder: Folder,
    features: Annotated[str, typer.Option(help="Features to try, separated by commas.")] = "16,32",
    blocks: Annotated[str, typer.Option(help="Blocks to try.")] = "5,7,9",
    rates: Annotated[str, typer.Option(help="Learning rates to try.")] = "1e-4,1e-3",
    folds: Annotated[Literal["date", "random"], typer.Option(help="What is held out.")] = "date",
    n_folds: Annotated[int, typer.Option("--n-folds", min=2, help="Folds.")] = 5,
    run: RunFolder = Path("runs/gridsearch"),
    views: Views = None,
    device: Device = "cpu",
    threads: Threads = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Cross-validate the published network over features, blocks and learning rate.

    Example: hrtem-stream gridsearch frames/ --features 32 --blocks 5,7 --rates 1e-4 --device cuda
    """
    _begin(threads)
    from dataclasses import asdict, replace

    from hrtem_stream.unet.crossvalidate import gridsearch as search
    from hrtem_stream.unet.recipe import published_recipe

    real = _read(folder)
    recipe = published_recipe(n_frames=_n_kept(real, n_folds), seed=seed)
    found = search(
        replace(recipe, n_views=views or recipe.n_views),
        real=real,
        n_features=_numbers(features, int, "--features"),
        n_blocks=_numbers(blocks, int, "--blocks"),
        learning_rates=_numbers(rates, float, "--rates"),
        directory=run,
        kind=folds,
        n_folds=n_folds,
        device=device,
    )
    rows = [
        {"features": f, "blocks": b, "learning_rate": rate, **asdict(scored)}
        for (f, b, rate), scored in found.items()
    ]
    if as_json:
        print_json({"kind": folds, "n_folds": n_folds, "results": rows})
        return
    print(f"{'features':>8} {'blocks':>6} {'rate':>8} {'jaccard':>8} {'f1':>6}")
    for row in rows:
        print(
            f"{row['features']:8d} {row['blocks']:6d} {row['learning_rate']:8g} "
            f"{row['jaccard']:8.3f} {row['f1']:6.3f}"
        )


def _bragg_masks(images: Any) -> Any:
    from hrtem_stream.stages.fallback import BraggSegmenter

    return BraggSegmenter().segment(images).amorphous


ROW_WORDS = {
    "as_is": "",
    "four_flips": ", four flips",
    "others_threshold": ", threshold of the other folds",
    "off_edge": ", off edge",
    "four_flips_off_edge": ", four flips, off edge",
}
"""What is said of a variant in Table I."""


def _table(methods: Mapping[str, CrossValidation]) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Give the rows of Table I: means and spreads over the repeats."""
    means, spreads = {}, {}
    for method, found in methods.items():
        for variant in found.variants:
            means[method + ROW_WORDS[variant]] = found.mean(variant=variant)
            spreads[method + ROW_WORDS[variant]] = found.spread(variant=variant)
    return means, spreads


def _as_plain(mean: Scores, spread: Scores | None) -> dict[str, dict[str, float | None]]:
    """Give a row of Table I for JSON; what is not known is null."""
    from dataclasses import asdict

    spreads = asdict(spread) if spread is not None else {}
    return {
        name: {"mean": None if math.isnan(value) else value, "spread": spreads.get(name)}
        for name, value in asdict(mean).items()
    }


def _begin(threads: int) -> None:
    require_torch()
    from hrtem_stream.unet.inference import use_threads

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    use_threads(threads)


def _read(folder: Path) -> Sequence[Example]:
    from hrtem_stream.sources.files import labelled_pairs
    from hrtem_stream.unet.dataset import read_real

    labelled_pairs(folder)  # says what is wrong with the folder
    return read_real(folder)


def _simulated(run: Path, n_frames: int) -> Sequence[Example]:
    """Simulate the frames of the mix, or those that a stopped run still lacks."""
    from hrtem_stream.unet.dataset import read_simulated, write_simulated

    if not n_frames:
        return []

    def report(n_done: int) -> None:
        if n_done % 100 == 0 or n_done == n_frames:
            say(f"simulated {n_done} of {n_frames} frames")

    seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + n_frames)
    write_simulated(run / "simulated", seeds=seeds, progress=report)
    return read_simulated(run / "simulated", limit=n_frames)


def _prepare(
    architecture: str,
    n_frames: int,
    simulated: Sequence[Example],
    run: Path,
    first_views: int | None,
    views: int | None,
    seed: int,
    device: str,
    *,
    first_stage: bool = True,
    compiled: bool = False,
) -> tuple[Recipe, Any]:
    """Give the recipe, and for `fast` the network of the first stage, which saw no real frame.

    `n_frames` are the real ones that take part in a training.
    """
    from dataclasses import replace

    from hrtem_stream.unet.default import FIRST_STAGE, SECOND_STAGE
    from hrtem_stream.unet.recipe import published_recipe
    from hrtem_stream.unet.train import train as train_network

    if architecture == "paper":
        recipe = published_recipe(n_frames=n_frames, seed=seed)
        return replace(recipe, n_views=views or recipe.n_views), None
    recipe = replace(SECOND_STAGE, seed=seed, n_views=views or SECOND_STAGE.n_views)
    if not simulated:
        return replace(recipe, simulated_share=0.0), None
    if not first_stage:
        return recipe, None
    first = replace(
        FIRST_STAGE,
        n_views=first_views or FIRST_STAGE.n_views,
        seed=FIRST_STAGE.seed + seed,
    )
    start = train_network(
        first, real=(), simulated=simulated, checkpoint=run / "first_stage.pt",
        device=device, compiled=compiled,
    )  # fmt: skip
    return recipe, start


def _n_kept(real: Sequence[Example], n_folds: int) -> int:
    """Count the frames that are left for training in a fold, which make its epoch."""
    return round(len(real) * (n_folds - 1) / n_folds)


def _network_of(weights: Path, architecture: str) -> Any:
    """Load a network to go on with.

    Raises
    ------
    SettingsError
        The weights are damaged, or of another network.
    """
    from hrtem_stream.unet.checkpoint import load_checkpoint

    try:
        network, card = load_checkpoint(weights)
    except SegmenterError as error:
        raise SettingsError(f"--start: {error}") from None
    if card.architecture != architecture:
        raise SettingsError(f"--start must be weights of {architecture}, got {card.architecture}")
    return network


def _numbers(text: str, kind: type[Any], option: str) -> list[Any]:
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError:
        raise SettingsError(f"{option} needs numbers separated by commas, got {text!r}") from None


def _print_summary(summary: dict[str, Any]) -> None:
    names = ("accuracy", "balanced_accuracy", "jaccard", "f1", "precision", "recall")
    print(
        f"{summary['kind']} folds, {summary['n_repeats']} repeats, mean ± spread of pooled scores"
    )
    for variant in ROW_WORDS:
        if variant in summary:
            scores = summary[variant]
            row = "  ".join(
                f"{name} {scores[name]['mean']:.3f} ± {scores[name]['spread']:.3f}"
                for name in names
            )
            print(f"{variant:<19} {row}")
    print(json.dumps(summary["folds"]), file=sys.stderr)
