"""Scores of the shipped weights and of the Bragg filter on simulated frames that no training saw.

Run:  python -m bench unet_accuracy [-- --frames 100 --weights FILE --json FILE]

Two kinds of frames: those of `science.physical` with seeds below the training's, and those of
`bench.multislice`, another simulation altogether. Training frames are never drawn from either.
They are worked on as in the pipeline, at a size that follows from the lattice found in each, and
scored at 256 x 256; "256 px" is the U-Net on working images of that size always, as published.
Real frames held out by session are scored by `hrtem-stream crossvalidate`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench import multislice
from hrtem_stream.pipeline import make_scaling
from hrtem_stream.science import physical
from hrtem_stream.science.bragg import bragg_mask
from hrtem_stream.science.illumination import normalise_frame
from hrtem_stream.science.scores import Confusion, confusion, scores
from hrtem_stream.science.working_scale import Scaling, reduce_mask, resized
from hrtem_stream.settings import NormaliseSettings
from hrtem_stream.unet.inference import FOUR_FLIPS, UNetSegmenter

SIDE = 256
SHAPE = (SIDE, SIDE)
Mask = NDArray[np.bool_]
Segment = Callable[[NDArray[np.float32]], Mask]
Way = tuple[Segment, Scaling]
"""How a frame is segmented, and at what size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A raw frame, its label, what counts, and which kind of frame it is."""

    pixels: NDArray[np.uint16]
    amorphous: Mask
    counts: Mask
    coverage: str
    hard: bool
    defocus_nm: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first frame")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    one, _ = UNetSegmenter.from_checkpoint(arguments.weights, max_batch=1)
    four, _ = UNetSegmenter.from_checkpoint(arguments.weights, max_batch=1, flips=FOUR_FLIPS)
    shipped = make_scaling(NormaliseSettings())
    ways: dict[str, Way] = {
        "U-Net": (lambda image: one.segment(image[None])[0][0], shipped),
        "U-Net, four flips": (lambda image: four.segment(image[None])[0][0], shipped),
        "U-Net, 256 px": (
            lambda image: one.segment(image[None])[0][0], partial(resized, size=SIDE)
        ),
        "Bragg filter": (bragg_mask, shipped),
    }  # fmt: skip
    found = {}
    for name, frames in (("physical", physical_frames), ("multislice", multislice_frames)):
        rows = score(ways, frames(arguments.first, arguments.first + arguments.frames))
        for method, values in rows.items():
            print(f"{name:11s} {method:18s}", *(f"{k} {v:.4f} " for k, v in values.items()))
        found[name] = {"n_frames": arguments.frames, "first": arguments.first, **rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def physical_frames(first: int, end: int) -> Iterator[Labelled]:
    """Draw frames as for training, of other seeds: they lie below `FIRST_TRAINING_SEED`."""
    for seed in range(first, end):
        drawn = physical.simulate(2 * SIDE, working_size=SIDE, rng=np.random.default_rng(seed))
        chosen = drawn.conditions
        kind = chosen.coverage
        defocus_nm = chosen.optics.C10_nm
        dim = chosen.dose_e_per_nm2 < 3e5 or chosen.thickness_nm < 1
        yield Labelled(
            pixels=drawn.pixels,
            amorphous=_reduced(drawn.amorphous),
            counts=~_reduced(drawn.beam_off),
            coverage=kind if kind in ("none", "full") else "partial",
            hard=dim or abs(defocus_nm) < 4,
            defocus_nm=defocus_nm,
        )


def multislice_frames(first: int, end: int) -> Iterator[Labelled]:
    """Draw frames of the other simulation."""
    for seed in range(first, end):
        drawn = multislice.draw(seed)
        yield Labelled(
            pixels=drawn.pixels, amorphous=drawn.amorphous, counts=~drawn.beam_off,
            coverage=drawn.coverage, hard=drawn.hard, defocus_nm=drawn.defocus_nm,
        )  # fmt: skip


def score(ways: dict[str, Way], frames: Iterator[Labelled]) -> dict[str, dict[str, float]]:
    """Score all ways on the same frames, which come without calibration."""
    counted: dict[str, list[tuple[Labelled, Confusion]]] = {name: [] for name in ways}
    for frame in frames:
        for name, (segment, scaling) in ways.items():
            shape = scaling(frame.pixels, 0.0).shape
            mask = segment(normalise_frame(frame.pixels, shape=shape).image)
            one = confusion(reduce_mask(mask, shape=SHAPE), frame.amorphous, counted=frame.counts)
            counted[name].append((frame, one))
    return {name: _summary(each) for name, each in counted.items()}


def _summary(each: list[tuple[Labelled, Confusion]]) -> dict[str, float]:
    full = [scores(c).recall for f, c in each if f.coverage == "full"]
    far = [scores(c).recall for f, c in each if f.coverage == "full" and abs(f.defocus_nm) > 3]
    clean = [
        c.false_positive / (c.false_positive + c.true_negative)
        for f, c in each if f.coverage == "none"
    ]  # fmt: skip
    return {
        "jaccard": _pooled(c for _, c in each),
        "jaccard_hard": _pooled(c for f, c in each if f.hard),
        "jaccard_partial": _pooled(c for f, c in each if f.coverage == "partial"),
        "full_recall": float(np.mean(full)),
        "full_recall_beyond_3_nm": float(np.mean(far)),
        "clean_false_positives": float(np.mean(clean)),
        "clean_false_positives_worst": float(np.max(clean)),
    }


def _pooled(each: Iterator[Confusion]) -> float:
    return scores(sum(each, Confusion())).jaccard


def _reduced(mask: Mask) -> Mask:
    return np.asarray(mask.reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3)) >= 0.5)


if __name__ == "__main__":
    main()
