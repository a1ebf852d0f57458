"""What a raw camera needs before its frames can be analysed: dark, gain, bad pixels, binning.

Symbols: I counts of the camera, D dark reference in counts, G gain reference, without unit. The
frame that is analysed is (I - D) G, with bad pixels filled from their neighbours.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled

MAX_ROUNDS: Final = 32
"""A hole wider than twice as many pixels is filled with the median of the frame."""


class Filling(NamedTuple):
    """How bad pixels are filled, from the rim of each hole inwards."""

    rounds: tuple[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]], ...]
    """For each round: flat indices of K pixels, of their neighbours (K, 8), and weights (K, 8)."""
    rest: NDArray[np.int64]
    """Flat indices of the pixels too far from any good one."""


def corrected(
    frame: NDArray[Any],
    *,
    dark: NDArray[np.float32] | None,
    gain: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Return (I - D) G.

    Parameters
    ----------
    frame
        (M, N) of any real dtype, in counts.
    dark, gain
        (M, N) float32, or None for no such correction.

    Returns
    -------
    ndarray
        (M, N) float32.

    Raises
    ------
    ValueError
        When a reference has not the shape of the frame.
    """
    for name, reference in (("dark", dark), ("gain", gain)):
        if reference is not None and reference.shape != frame.shape:
            raise ValueError(f"{name} reference must be {frame.shape}, is {reference.shape}")
    out = np.empty(frame.shape, np.float32)
    if dark is not None and gain is not None:
        _dark_and_gain(frame, dark, gain, out)
    elif dark is not None:
        np.subtract(frame, dark, out=out, dtype=np.float32, casting="unsafe")
    elif gain is not None:
        np.multiply(frame, gain, out=out, dtype=np.float32, casting="unsafe")
    else:
        out[...] = frame
    return out


@compiled
def _dark_and_gain(
    frame: NDArray[Any],
    dark: NDArray[np.float32],
    gain: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    for row in range(frame.shape[0]):
        for column in range(frame.shape[1]):
            counts = np.float32(frame[row, column])
            out[row, column] = (counts - dark[row, column]) * gain[row, column]


def filling_of(bad: NDArray[np.bool_]) -> Filling:
    """Find the neighbours that each bad pixel is filled from.

    A pixel takes the mean of those of its eight neighbours that are good, or that an earlier round
    has filled.

    Parameters
    ----------
    bad
        (M, N) bool, True for a bad pixel.
    """
    M, N = bad.shape
    padded = np.ones((M + 2, N + 2), np.bool_)
    padded[1:-1, 1:-1] = bad
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    rounds: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    rows, columns = np.nonzero(bad)
    while rows.size and len(rounds) < MAX_ROUNDS:
        known = np.stack([~padded[rows + 1 + i, columns + 1 + j] for i, j in steps], axis=1)
        places = np.stack([(rows + i) * N + columns + j for i, j in steps], axis=1)
        now = known.any(axis=1)
        if not now.any():
            break
        weights = known[now] / known[now].sum(axis=1, keepdims=True)
        targets = rows[now] * N + columns[now]
        sources = np.where(known[now], places[now], targets[:, None])
        rounds.append((targets, sources, weights.astype(np.float32)))
        padded[rows[now] + 1, columns[now] + 1] = False
        rows, columns = rows[~now], columns[~now]
    return Filling(tuple(rounds), rows * N + columns)


def filled(image: NDArray[np.float32], *, filling: Filling) -> NDArray[np.float32]:
    """Return an image whose bad pixels are filled.

    Parameters
    ----------
    image
        (M, N) float32.
    filling
        Of the mask of bad pixels, which has the same shape.
    """
    out = image.copy()
    flat = out.reshape(-1)
    for targets, sources, weights in filling.rounds:
        # A weight of 0 must not let a NaN through.
        taken = np.where(weights > 0, flat[sources], 0)
        flat[targets] = (taken * weights).sum(axis=1)
    if filling.rest.size:
        is_good = np.ones(flat.size, np.bool_)
        is_good[filling.rest] = False
        flat[filling.rest] = np.median(flat[is_good]) if is_good.any() else 0
    return out


def binned(image: NDArray[Any], *, factor: int) -> NDArray[np.float32]:
    """Sum the counts over squares of `factor` by `factor` pixels.

    Parameters
    ----------
    image
        (M, N).
    factor
        Side of a square in pixels; it must divide M and N, so that a mask keeps its place.

    Returns
    -------
    ndarray
        (M / factor, N / factor) float32, in counts.

    Raises
    ------
    ValueError
        When it does not.
    """
    M, N = image.shape
    if factor < 1 or M % factor or N % factor:
        raise ValueError(f"binning must divide {M} x {N}, got {factor}")
    if factor == 1:
        return np.ascontiguousarray(image, np.float32)
    squares = image.reshape(M // factor, factor, N // factor, factor)
    return np.asarray(squares.sum(axis=(1, 3), dtype=np.float32))
