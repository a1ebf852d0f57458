"""Labelled frames for training: the published real ones, and simulated ones kept on disk.

Both come out as `Example`: the working image as the stream makes it, the labels, and which pixels
count. Simulated frames are stored raw, so that a change of the normalisation needs no new physics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hrtem_stream.science.illumination import normalise_frame
from hrtem_stream.science.physical import simulate

PREPROCESSING = "normalise_frame, Bézier degree 4, 256 x 256"
"""Names the way from raw frame to network input; written into every checkpoint."""
WORKING_SIZE = 256
RAW_SIZE = 512
LABEL_SUFFIX = "_LABEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled working image."""

    name: str
    group: str
    """Frames of one group never stand on both sides of a split: session date, or `simulated`."""
    image: NDArray[np.float32]
    """(P, Q), normalised and standardised."""
    amorphous: NDArray[np.bool_]
    """(P, Q), the label."""
    counts: NDArray[np.bool_]
    """(P, Q), False where neither loss nor score looks: outside the beam."""


def session_date(name: str) -> str:
    """Return the session date in a frame's name: all up to the second underscore."""
    return "_".join(name.split("_")[:2])


def read_real(directory: Path) -> list[Example]:
    """Read every NAME.png that has a NAME_LABEL.png, in the order of the names.

    Raises
    ------
    ValueError
        If there is no such pair, or a label has another shape than its frame.
    """
    examples = []
    for label_path in sorted(directory.glob(f"*{LABEL_SUFFIX}.png")):
        name = label_path.stem.removesuffix(LABEL_SUFFIX)
        pixels = _read_grey(directory / f"{name}.png")
        label = _read_grey(label_path)
        if label.shape != pixels.shape:
            raise ValueError(f"{name}: label must be {pixels.shape}, got {label.shape}")
        examples.append(
            Example(
                name=name,
                group=session_date(name),
                image=normalise_frame(pixels, shape=(pixels.shape[0], pixels.shape[1])).image,
                amorphous=label > 127,
                counts=np.ones(label.shape, np.bool_),
            )
        )
    if not examples:
        raise ValueError(f"{directory} must hold pairs NAME.png and NAME_LABEL.png, got none")
    return examples


def write_simulated(
    directory: Path, *, seeds: Sequence[int], progress: Callable[[int], None] = lambda _: None
) -> None:
    """Simulate one frame for each seed into `directory`; those that are there already stay.

    Each becomes a SEED.npz with the raw `pixels` and the masks `amorphous`, `vacuum` and
    `beam_off` of the working image.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for n_done, seed in enumerate(seeds):
        path = directory / f"{seed:08d}.npz"
        if not path.exists():
            rng = np.random.default_rng(seed)
            frame = simulate(RAW_SIZE, working_size=WORKING_SIZE, rng=rng)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.savez(
                    file,
                    pixels=frame.pixels,
                    amorphous=_reduced(frame.amorphous),
                    vacuum=_reduced(frame.vacuum),
                    beam_off=_reduced(frame.beam_off),
                    coverage=np.str_(frame.conditions.coverage),
                    C10_nm=np.float64(frame.conditions.optics.C10_nm),
                    thickness_nm=np.float64(frame.conditions.thickness_nm),
                )
            part.replace(path)
        progress(n_done + 1)


def read_simulated(directory: Path, *, limit: int | None = None) -> list[Example]:
    """Read and normalise the frames that `write_simulated` left, in the order of their seeds."""
    return [_read_one(path) for path in sorted(directory.glob("*.npz"))[:limit]]


def date_folds(groups: Sequence[str], *, n_folds: int, seed: int) -> list[NDArray[np.intp]]:
    """Split frames by group into folds of about equal size, the large groups first.

    Parameters
    ----------
    groups : sequence of str
        The group of each frame.
    n_folds : int
        From 2 to the number of groups.
    seed : int
        Shuffles groups of equal size, and which fold takes the next one among the smallest.

    Returns
    -------
    list of (n,) int
        The indices held out in each fold.

    Raises
    ------
    ValueError
        If there are fewer groups than folds.
    """
    names, counts = np.unique(np.asarray(groups), return_counts=True)
    if not 2 <= n_folds <= len(names):
        raise ValueError(f"n_folds must be from 2 to {len(names)}, got {n_folds}")
    rng = np.random.default_rng(seed)
    # A little noise on the counts shuffles the order without losing the balance.
    order = np.argsort(-(counts + rng.uniform(0, 2, len(counts))))
    members: list[list[str]] = [[] for _ in range(n_folds)]
    sizes = rng.uniform(0, 1, n_folds)
    for index in order:
        fold = int(np.argmin(sizes))
        members[fold].append(str(names[index]))
        sizes[fold] += counts[index]
    return [np.flatnonzero(np.isin(np.asarray(groups), fold)) for fold in members]


def random_folds(n_frames: int, *, n_folds: int, seed: int) -> list[NDArray[np.intp]]:
    """Split frames at random, as published; frames of one focal series then leak."""
    if not 2 <= n_folds <= n_frames:
        raise ValueError(f"n_folds must be from 2 to {n_frames}, got {n_folds}")
    shuffled = np.random.default_rng(seed).permutation(n_frames)
    return [np.sort(fold) for fold in np.array_split(shuffled, n_folds)]


def _read_one(path: Path) -> Example:
    with np.load(path, allow_pickle=False) as stored:
        beam_off = stored["beam_off"]
        return Example(
            name=path.stem,
            group="simulated",
            image=normalise_frame(stored["pixels"], shape=beam_off.shape).image,
            amorphous=stored["amorphous"],
            counts=~beam_off,
        )


def _reduced(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    step = mask.shape[0] // WORKING_SIZE
    blocks = mask.reshape(WORKING_SIZE, step, WORKING_SIZE, step)
    return np.asarray(blocks.mean(axis=(1, 3)) >= 0.5)


def _read_grey(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))
