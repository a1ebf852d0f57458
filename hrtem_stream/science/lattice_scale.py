"""How many detector pixels one lattice spacing spans, read off the frame's own spectrum.

Graphene's first ring of reflections lies at 1/0.213 nm: three ± pairs, 60° apart. They are looked
for at the full resolution of the detector, in windows of the frame, since a reduced image would
fold a fine lattice into false reflections. Spatial frequencies g in 1/px of the detector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.filters import quantile, subtract_local_mean
from hrtem_stream.science.lattice import Reflections, find_reflections
from hrtem_stream.science.reduction import reduce_frame

Frame = NDArray[Any]

RING_NM = 0.246 * 3**0.5 / 2
"""Spacing of graphene's {100} rows: 0.213 nm."""

_WINDOW_PX = 512
"""Side of a window: 5 nm at 0.01 nm a pixel, where a ring has a radius of 24 spectral pixels."""
_STEPS = (1, 2, 4, 8)
_LEAST_CYCLES = 8
"""Spacings in a window, at least: coarser texture has no sharp reflections."""
_N_PEAKS = 48
_PEAK_THRESHOLD = 1.5
_STRONG = 1.9
"""Prominence of the strongest of three reflections."""
_PAIR_THRESHOLD = 2.6
"""Prominence of both, where only two of the three directions are seen."""
_CERTAIN = 9.0
"""Sum of the prominences of a hexagon that needs no further window."""
_TOLERANCE = 0.035
"""Two reflections belong together if they miss the hexagon by less than this share of g."""
_TOLERANCE_PX = 1.6
"""... or by so many pixels of the spectrum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatticeScale:
    """A ring of reflections."""

    spacing_px: float
    """Lattice spacing in detector pixels: 0.213 nm span so many."""
    prominence: float
    """Sum of the prominences of its reflections over their surroundings."""

    @property
    def pixel_size_nm(self) -> float:
        """Size of a detector pixel, if the lattice is graphene's."""
        return RING_NM / self.spacing_px


def find_lattice_scale(frame: Frame) -> LatticeScale | None:
    """Find the first ring of a hexagonal lattice in a frame.

    Parameters
    ----------
    frame
        (M, N) counts, finite, each side at least 64.

    Returns
    -------
    LatticeScale or None
        None where no window shows two or three reflections of a hexagon: the frame is covered,
        empty, out of focus, or too coarse for the lattice.

    Raises
    ------
    ValueError
        If the frame is not two-dimensional or too small.

    Notes
    -----
    Where the lens passes nothing at 0.213 nm but the second ring at 0.123 nm, that one is taken
    for the first, and the pixel size comes out √3 too large. Five windows are looked at, the
    middle first; a lattice in a small part of the frame elsewhere is missed.
    """
    if frame.ndim != 2 or min(frame.shape) < 64:
        raise ValueError(f"frame must be at least 64 x 64, got shape {frame.shape}")
    best: LatticeScale | None = None
    for window, step in _windows(frame):
        found = _scale_of(window)
        if found is None:
            continue
        found = replace(found, spacing_px=step * found.spacing_px)
        if best is None or found.prominence > best.prominence:
            best = found
        if best.prominence > _CERTAIN:
            break
    return best


def _windows(frame: Frame) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Give windows of the frame, and by how much each is reduced.

    First the middle of the frame as it is, then reduced by 2, 4 and 8, where fine pixels show more
    of the lattice; then its four quarters in the same way. Of a small frame the whole.
    """
    M, N = frame.shape
    steps = [step for step in _STEPS if step == 1 or min(M, N) >= step * _WINDOW_PX // 2]
    middle, quarters = [(M // 2, N // 2)], list(product((M // 4, 3 * M // 4), (N // 4, 3 * N // 4)))
    for centres in (middle, quarters):
        for step in steps:
            m, n = min(M, step * _WINDOW_PX), min(N, step * _WINDOW_PX)
            if centres is quarters and (m, n) == (M, N):
                continue
            for row, column in centres:
                top = min(max(row - m // 2, 0), M - m)
                left = min(max(column - n // 2, 0), N - n)
                window = frame[top : top + m, left : left + n]
                with np.errstate(over="ignore", invalid="ignore"):
                    yield reduce_frame(window, shape=(m // step, n // step)), step


def _scale_of(window: NDArray[np.float32]) -> LatticeScale | None:
    side = min(window.shape)
    mean = float(window.mean())
    if not 0.0 < mean < np.inf:
        return None
    # Hot pixels have a flat spectrum that hides the ring. A sixteenth of the pixels tells the
    # deviation as well; the median of all took as long as everything else three times over.
    sample = window[::4, ::4]
    middle = np.float32(quantile(sample, share=0.5))
    deviation = 1.4826 * quantile(np.abs(sample - middle), share=0.5)
    limit = 6.0 * deviation if deviation > 0.0 else np.inf
    flat = np.clip(window - np.float32(mean), -limit, limit)
    flat = subtract_local_mean(flat, deviation_px=max(10.0, side / 16))
    reflections = find_reflections(
        flat, threshold=_PEAK_THRESHOLD, n_peaks=_N_PEAKS, lowest=_LEAST_CYCLES / side
    )
    return hexagon_scale(reflections, side=side)


def hexagon_scale(reflections: Reflections, *, side: int) -> LatticeScale | None:
    """Return the scale of the most prominent hexagon among reflections, or None.

    Parameters
    ----------
    reflections
        (n, 3) from `find_reflections`, one of each ± pair.
    side
        Of the image in pixels, for the tolerance.

    Notes
    -----
    The second ring of a lattice is a hexagon as well, turned by 30° and √3 larger: whichever has
    another inside at that place gives way to it.
    """
    if len(reflections) < 2:
        return None
    places = reflections[:, 0] + 1j * reflections[:, 1]
    prominence = reflections[:, 2]
    candidates: list[LatticeScale] = []
    for first, place in enumerate(places):
        turned = place * np.exp(1j * np.pi / 3 * np.arange(3))
        inner = _met(turned, places, side=side)
        outer = _met(turned * 3**0.5 * np.exp(1j * np.pi / 6), places, side=side)
        if first not in inner or not _is_hexagon(prominence[inner], n_outer=len(outer)):
            continue
        radius = float(np.average(np.abs(places[inner]), weights=prominence[inner]))
        total = float(prominence[inner].sum() + prominence[outer].sum())
        candidates.append(LatticeScale(spacing_px=1.0 / radius, prominence=total))
    if not candidates:
        return None
    best = max(candidates, key=lambda scale: scale.prominence)
    inside = [
        one for one in candidates if abs(one.spacing_px / best.spacing_px / 3**0.5 - 1) < 0.04
    ]
    return max(inside, key=lambda scale: scale.prominence, default=best)


def _met(wanted: NDArray[np.complex128], places: NDArray[np.complex128], *, side: int) -> list[int]:
    """List the reflections that lie where they are wanted, or opposite."""
    found = []
    for place in wanted:
        reach = max(_TOLERANCE * abs(place), _TOLERANCE_PX / side)
        missing = np.minimum(np.abs(places - place), np.abs(places + place))
        nearest = int(np.argmin(missing))
        if missing[nearest] < reach and nearest not in found:
            found.append(nearest)
    return found


def _is_hexagon(prominence: NDArray[np.float64], *, n_outer: int) -> bool:
    """Tell whether enough of a first ring is seen, with so many of the second one behind it."""
    if len(prominence) == 3:
        return float(prominence.max()) > _STRONG
    if len(prominence) == 2:
        return float(prominence.min()) > _PAIR_THRESHOLD or n_outer >= 2
    return False
