"""Normalising a frame: beside plain NumPy at full resolution, and beside reading the frame.

Plain: the published steps as one would write them down (Eq. 1 to 3: least squares, divide,
standardise, at full resolution, then 8 x 8 means). `normalise_published` does the same on the
working image, one pass over the frame. `normalise_frame`, which ships, does more: a robust fit of
degree 4, defects, the beam's edge, vacuum.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.row import Row, in_turns, row
from hrtem_stream.science.bezier import bernstein
from hrtem_stream.science.compiled import compiled
from hrtem_stream.science.illumination import normalise_frame, normalise_published
from hrtem_stream.science.reduction import reduce_frame
from hrtem_stream.science.synthetic import SyntheticSeries


def measure(seconds: float) -> list[Row]:
    rows = []
    for size in (1024, 2048, 4096):
        frame = SyntheticSeries(shape=(size, size), seed=1).frame(7).pixels
        times = in_turns(
            {
                "published": partial(_published, frame),
                "shipped": partial(normalise_frame, frame),
                "plain": partial(plain, frame),
                "read": partial(_sum, frame.reshape(-1)),
            },
            seconds=seconds or 4.0,
        )
        plain_ms, read_ms = float(np.median(times["plain"])), float(np.median(times["read"]))
        for name in ("published", "shipped"):
            rows.append(
                row(
                    f"normalise, {name} steps, {size}² uint16 to 256², one thread "
                    "(reference: plain NumPy; limit: reading the frame)",
                    times[name], "ms", reference=plain_ms, limit=read_ms,
                )
            )  # fmt: skip
        rows.append(
            row(
                f"block sums alone, {size}² uint16 to 256² (limit: reading the frame)",
                in_turns({"": partial(reduce_frame, frame)}, seconds=1.0)[""],
                "ms", limit=read_ms,
            )
        )  # fmt: skip
    return rows


def _published(frame: NDArray[np.uint16]) -> NDArray[np.float32]:
    return normalise_published(reduce_frame(frame))


def plain(frame: NDArray[np.uint16], *, degree: int = 2) -> NDArray[np.float32]:
    """Normalise at full resolution with NumPy alone, and average over blocks then."""
    image = frame.astype(np.float64)
    left, right = (bernstein(n, degree=degree) for n in image.shape)
    coefficients = np.linalg.pinv(left) @ image @ np.linalg.pinv(right).T
    flat = image / (left @ coefficients @ right.T)
    standardised = (flat - flat.mean()) / flat.std()
    rows, columns = (n // 256 for n in image.shape)
    blocks = standardised.reshape(256, rows, 256, columns).mean(axis=(1, 3))
    return np.asarray(blocks, np.float32)


@compiled
def _sum(values: NDArray[np.uint16]) -> Any:
    total = np.uint64(0)
    for i in range(values.size):
        total += values[i]
    return total
