"""Make the shipped weights, and cross-validate how they are made, in one resumable run.

Run:  python bench/unet_training.py REAL RUN [--simulated 4200] [--repeats 2] [--threads 1]

REAL holds NAME.png with NAME_LABEL.png. RUN takes the simulated frames, checkpoints, metrics, the
weights `fast.safetensors` and `unet_cross_validation.json`; a stopped run goes on where it was.
The first stage sees simulated frames only, and so all folds may start from it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch

from hrtem_stream.unet.checkpoint import save_checkpoint
from hrtem_stream.unet.crossvalidate import THRESHOLD, CrossValidation, crossvalidate
from hrtem_stream.unet.dataset import read_real, read_simulated, write_simulated
from hrtem_stream.unet.default import FIRST_STAGE, SECOND_STAGE, default_card
from hrtem_stream.unet.train import train

FIRST_SEED = 10_000
"""Seeds below are kept for evaluation."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("real", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--simulated", type=int, default=4200, help="simulated frames")
    parser.add_argument("--first-views", type=int, default=FIRST_STAGE.n_views)
    parser.add_argument("--second-views", type=int, default=SECOND_STAGE.n_views)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--kind", choices=("date", "random"), default="date")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    run = arguments.run
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.simulated)
    write_simulated(run / "simulated", seeds=seeds)
    simulated = read_simulated(run / "simulated", limit=arguments.simulated)
    real = read_real(arguments.real)
    first = replace(FIRST_STAGE, n_views=arguments.first_views)
    second = replace(SECOND_STAGE, n_views=arguments.second_views)
    start = train(
        first,
        real=(),
        simulated=simulated,
        checkpoint=run / "first_stage.pt",
        device=arguments.device,
        compiled=arguments.compiled,
    )
    folds = crossvalidate(
        second,
        real=real,
        simulated=simulated,
        kind=arguments.kind,
        directory=run / "folds",
        n_folds=arguments.folds,
        n_repeats=arguments.repeats,
        start=start,
        device=arguments.device,
        compiled=arguments.compiled,
    )
    _write(run / "unet_cross_validation.json", folds)
    network = train(
        second,
        real=real,
        simulated=simulated,
        checkpoint=run / "second_stage.pt",
        start=start,
        device=arguments.device,
        compiled=arguments.compiled,
    )
    card = default_card(
        first=first,
        second=second,
        n_real=len(real),
        n_simulated=len(simulated),
        threshold=THRESHOLD,
        folds=f"{arguments.folds} folds by {arguments.kind}, {arguments.repeats} repeats",
        scores=folds.summary(),
    )
    save_checkpoint(run / "fast.safetensors", network=network, card=card)


def _write(path: Path, folds: CrossValidation) -> None:
    found = {"command": "python " + " ".join(sys.argv), **folds.summary()}
    path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
