"""Overlapping tiles of an image that is too large to be worked on as a whole, joined without seams.

Each tile counts fully in its middle and less and less towards those of its borders that lie within
the image; values of overlapping tiles are averaged by these weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def by_tiles(image: Image, work: Callable[[Image], Image], *, side: int, overlap: int) -> Image:
    """Return what `work` makes of an image, tile by tile, in the shape of the image.

    Parameters
    ----------
    image
        (P, Q) float32.
    work
        Maps a (p, q) image, p and q at most `side`, to values (p, q).
    side
        Of a tile, in pixels.
    overlap
        Of neighbouring tiles in pixels, at least; below half of the side.

    Raises
    ------
    ValueError
        If the overlap is not from 1 to less than half of the side.
    """
    if not 1 <= overlap < side / 2:
        raise ValueError(f"overlap must be 1 to less than half of side = {side}, got {overlap}")
    total, weights = np.zeros(image.shape, np.float64), np.zeros(image.shape, np.float64)
    for rows in _parts(image.shape[0], side, overlap):
        for columns in _parts(image.shape[1], side, overlap):
            weight = np.outer(
                _ramp(rows, image.shape[0], overlap), _ramp(columns, image.shape[1], overlap)
            )
            total[rows, columns] += weight * work(image[rows, columns])
            weights[rows, columns] += weight
    return np.asarray(total / weights, np.float32)


def _parts(n: int, side: int, overlap: int) -> Iterator[slice]:
    """Give parts of equal length, evenly spread."""
    if n <= side:
        yield slice(0, n)
        return
    n_parts = -(-(n - overlap) // (side - overlap))
    for i in range(n_parts):
        first = round(i * (n - side) / (n_parts - 1))
        yield slice(first, first + side)


def _ramp(part: slice, n: int, overlap: int) -> NDArray[np.float64]:
    """Rise from the borders within the image, over the overlap; 1 elsewhere."""
    place = np.arange(part.start, part.stop)
    weight = np.ones(place.size)
    if part.start > 0:
        weight = np.minimum(weight, (place - part.start + 0.5) / overlap)
    if part.stop < n:
        weight = np.minimum(weight, (part.stop - place - 0.5) / overlap)
    return weight
