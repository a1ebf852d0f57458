"""Gaussian averages of images, mirrored at the borders, and what is measured on them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled, multiply_add, stretch
from hrtem_stream.science.gaussian import gaussian_average

Image = NDArray[np.float32]

_SHRINK = 4


def blur(image: Image, *, deviation_px: float) -> Image:
    """Average over a Gaussian neighbourhood, cut at three deviations."""
    reach = int(np.ceil(3.0 * deviation_px))
    return gaussian_average(image, deviation_px=deviation_px, reach=reach, mirror=0)


def average_magnitude(image: Image, *, deviation_px: float) -> Image:
    """Average |image| over a Gaussian neighbourhood of some pixels, at half the resolution.

    Averaging 2 x 2 pixels and interpolating linearly between them widen the Gaussian by a
    variance of 1/4 and 3/4, which are taken off; so the deviation has to be above 1, and from 2
    on the result is that of `blur` within a few per cent.
    """
    rows, columns = image.shape
    halved_px = 0.5 * float(np.sqrt(deviation_px**2 - 1.0))
    if rows % 2 or columns % 2:
        small = cv2.resize(np.abs(image), (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
        averaged: Image = cv2.resize(
            blur(small, deviation_px=halved_px), (columns, rows), interpolation=cv2.INTER_LINEAR
        )
        return averaged
    small = np.empty((rows // 2, columns // 2), np.float32)
    averaged = np.empty(image.shape, np.float32)
    _halve_magnitudes(np.ascontiguousarray(image, np.float32), small)
    _double(blur(small, deviation_px=halved_px), averaged)
    return averaged


def subtract_local_mean(image: Image, *, deviation_px: float) -> Image:
    """Take off the mean over a wide Gaussian neighbourhood, computed on every fourth pixel."""
    rows, columns = image.shape
    image = np.ascontiguousarray(image, np.float32)
    small = np.empty((max(rows // _SHRINK, 1), max(columns // _SHRINK, 1)), np.float32)
    if rows % _SHRINK or columns % _SHRINK:
        cv2.resize(image, small.shape[::-1], dst=small, interpolation=cv2.INTER_AREA)
    else:
        _average_squares(image, small)
    blurred = blur(small, deviation_px=deviation_px / _SHRINK)
    wide = cv2.resize(blurred, (columns, small.shape[0]), interpolation=cv2.INTER_LINEAR)
    flattened = np.empty_like(image)
    _subtract_stretched(image, wide, flattened)
    return flattened


def quantile(values: NDArray[np.floating], *, share: float) -> float:
    """Return the quantile of an array, between neighbours by linear interpolation.

    The same as `np.quantile`, at a tenth of its cost for some thousand values.
    """
    ordinal = share * (values.size - 1)
    below = int(ordinal)
    parted = np.partition(values, below, axis=None)
    lower = float(parted[below])
    upper = float(parted[below + 1 :].min()) if below + 1 < values.size else lower
    return lower + (ordinal - below) * (upper - lower)


def noise_deviation(image: Image) -> float:
    """Return the deviation of white noise in an image, from its highest frequencies alone.

    The second difference along both axes passes the corner of the spectrum, where neither lattice
    nor texture reach; its gain for white noise is 6.
    """
    total = _squared_differences(np.ascontiguousarray(image, np.float32))
    return float(np.sqrt(total / image.size)) / 6.0


@compiled
def _average_squares(image: Image, small: Image) -> None:
    """Average over squares of four pixels by four."""
    n, n_small = image.shape[1], small.shape[1]
    sums = np.empty(n, np.float32)
    for i in range(small.shape[0]):
        _add_four(
            stretch(image, 4 * i * n, n),
            stretch(image, (4 * i + 1) * n, n),
            stretch(image, (4 * i + 2) * n, n),
            stretch(image, (4 * i + 3) * n, n),
            sums,
        )
        for j in range(n_small):
            four = (sums[4 * j] + sums[4 * j + 1]) + (sums[4 * j + 2] + sums[4 * j + 3])
            small[i, j] = np.float32(1 / 16) * four


@compiled
def _add_four(a: Image, b: Image, c: Image, d: Image, sums: Image) -> None:
    for j in range(sums.size):
        sums[j] = (a[j] + b[j]) + (c[j] + d[j])


@compiled
def _subtract_stretched(image: Image, wide: Image, difference: Image) -> None:
    """Subtract an image of fewer rows, between whose centres it is interpolated linearly."""
    rows, n = image.shape
    last = wide.shape[0] - 1
    for i in range(rows):
        place = min(max((i + 0.5) * (last + 1) / rows - 0.5, 0.0), float(last))
        above = min(int(place), max(last - 1, 0))
        _subtract_between(
            stretch(image, i * n, n),
            stretch(wide, above * n, n),
            stretch(wide, min(above + 1, last) * n, n),
            np.float32(place - above),
            stretch(difference, i * n, n),
        )


@compiled
def _subtract_between(
    row: Image, above: Image, below: Image, share: np.float32, difference: Image
) -> None:
    for j in range(row.size):
        difference[j] = row[j] - (above[j] + share * (below[j] - above[j]))


@compiled
def _halve_magnitudes(image: Image, small: Image) -> None:
    """Average the magnitudes of 2 x 2 pixels."""
    n, n_small = image.shape[1], small.shape[1]
    for i in range(small.shape[0]):
        _average_magnitudes(
            stretch(image, 2 * i * n, n),
            stretch(image, (2 * i + 1) * n, n),
            stretch(small, i * n_small, n_small),
        )


@compiled
def _average_magnitudes(upper: Image, lower: Image, averages: Image) -> None:
    for j in range(averages.size):
        above = abs(upper[2 * j]) + abs(upper[2 * j + 1])
        below = abs(lower[2 * j]) + abs(lower[2 * j + 1])
        averages[j] = np.float32(0.25) * (above + below)


@compiled
def _double(small: Image, image: Image) -> None:
    """Interpolate linearly between the centres of 2 x 2 pixels."""
    rows, n_small = small.shape
    n = image.shape[1]
    wide = np.empty((rows, n), np.float32)
    for i in range(rows):
        _double_row(stretch(small, i * n_small, n_small), stretch(wide, i * n, n))
    for i in range(rows):
        here = stretch(wide, i * n, n)
        above = stretch(wide, max(i - 1, 0) * n, n)
        below = stretch(wide, min(i + 1, rows - 1) * n, n)
        _interpolate(above, here, np.float32(0.75), stretch(image, 2 * i * n, n))
        _interpolate(here, below, np.float32(0.25), stretch(image, (2 * i + 1) * n, n))


@compiled
def _double_row(row: Image, wide: Image) -> None:
    between = row.size - 1
    wide[0], wide[2 * between + 1] = row[0], row[between]
    _interleave(stretch(row, 0, between), stretch(row, 1, between), stretch(wide, 1, 2 * between))


@compiled
def _interleave(left: Image, right: Image, wide: Image) -> None:
    """Write what lies a quarter and three quarters of the way from left to right, in turns."""
    for j in range(left.size):
        step = right[j] - left[j]
        wide[2 * j] = multiply_add(np.float32(0.25), step, left[j])
        wide[2 * j + 1] = multiply_add(np.float32(0.75), step, left[j])


@compiled
def _interpolate(one: Image, other: Image, share: np.float32, between: Image) -> None:
    for j in range(one.size):
        between[j] = multiply_add(share, other[j] - one[j], one[j])


@compiled
def _squared_differences(image: Image) -> float:
    """Sum the squares of [1 -2 1] along both axes, mirrored in the border pixels."""
    rows, n = image.shape
    along, squares = np.empty(n + 2, np.float32), np.zeros(n, np.float32)
    for i in range(rows):
        _second_difference(
            stretch(image, (i - 1 if i > 0 else min(1, rows - 1)) * n, n),
            stretch(image, i * n, n),
            stretch(image, (i + 1 if i < rows - 1 else max(rows - 2, 0)) * n, n),
            stretch(along, 1, n),
        )
        along[0], along[n + 1] = along[min(2, n)], along[max(n - 1, 1)]
        _add_squared_difference(
            stretch(along, 0, n), stretch(along, 1, n), stretch(along, 2, n), squares
        )
    total = 0.0
    for j in range(n):
        total += squares[j]
    return total


@compiled
def _second_difference(before: Image, here: Image, after: Image, difference: Image) -> None:
    for j in range(here.size):
        difference[j] = (before[j] + after[j]) - np.float32(2) * here[j]


@compiled
def _add_squared_difference(before: Image, here: Image, after: Image, squares: Image) -> None:
    for j in range(here.size):
        difference = (before[j] + after[j]) - np.float32(2) * here[j]
        squares[j] += difference * difference
