"""Run coding of the amorphous mask: beside plain NumPy, and beside copying the frame."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bench.row import Row, in_turns, row
from hrtem_stream.science.run_length import flatten, runs_of_mask


def measure(seconds: float) -> list[Row]:
    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.random((256, 256)), 5)
    mask = field > np.quantile(field, 0.7)
    rows = []
    for size in (1024, 2048):
        frame = rng.poisson(200, (size, size)).astype("<u2")
        times = in_turns(
            {
                "ours": partial(coded, frame, mask),
                "plain": partial(plain, frame, mask),
                "copy": frame.copy,
            },
            seconds=seconds or 3.0,
        )
        rows.append(
            row(
                f"runs, means and flattening, {size}² uint16, 30 % amorphous, one thread "
                "(reference: plain NumPy; limit: copying the frame)",
                times["ours"], "ms",
                reference=float(np.median(times["plain"])), limit=float(np.median(times["copy"])),
            )
        )  # fmt: skip
    return rows


def coded(frame: NDArray[Any], mask: NDArray[np.bool_]) -> Any:
    start, length = runs_of_mask(mask, shape=frame.shape)
    return flatten(frame, start=start, length=length)


def plain(frame: NDArray[Any], mask: NDArray[np.bool_]) -> Any:
    """Enlarge the mask, find its edges, and take the means, with whole arrays."""
    factors = frame.shape[0] // mask.shape[0], frame.shape[1] // mask.shape[1]
    flat = np.repeat(np.repeat(mask, factors[0], axis=0), factors[1], axis=1).ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    start, length = edges[::2], edges[1::2] - edges[::2]
    sums = np.add.reduceat(np.where(flat, frame.ravel(), 0).astype(np.int64), edges[::2])
    value = ((2 * sums + length) // (2 * length)).astype(frame.dtype)
    flattened = frame.ravel().copy()
    flattened[flat] = np.repeat(value, length)
    return start, length, value, flattened
