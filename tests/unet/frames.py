"""Tiny labelled frames and networks for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrtem_stream.unet.dataset import Example
from hrtem_stream.unet.fast import FastConfig

TINY = FastConfig(widths=(4, 8, 8), dilations=(1, 2))
SIZE = 64
REAL = Path(__file__).parents[3] / "shared" / "data" / "graphene-u-net"

needs_real_frames = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"the published frames are not at {REAL}"
)


def example(seed: int = 0, *, group: str = "2013_0101", size: int = SIZE) -> Example:
    """Return a lattice with a disc of noise on it, labelled."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    lattice = np.cos(2 * np.pi * columns / 5) + np.cos(2 * np.pi * (rows * 0.866 + columns / 2) / 5)
    centre = rng.uniform(0.25, 0.75, 2) * size
    disc = np.hypot(rows - centre[0], columns - centre[1]) < size / 5
    image = np.where(disc, 3 * rng.standard_normal((size, size)), lattice)
    image = (image - image.mean()) / image.std()
    return Example(
        name=f"{group}_{seed:03d}",
        group=group,
        image=image.astype(np.float32),
        amorphous=disc,
        counts=np.ones((size, size), np.bool_),
    )
