"""The average over a Gaussian neighbourhood, as OpenCV's GaussianBlur takes it.

Sums are rounded in the same order: the result is the same to the last bit, but for a few columns
at the end of a row that do not fill a vector register. OpenCV takes a third to two thirds more
time. Here the weights are taken seven and six at a time along a row, then in threes on either side
along the columns: as many as the compiler still turns into one loop over many pixels.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.compiled import compiled, multiply_add, stretch

Image = NDArray[np.float32]
Places = NDArray[np.int64]


def gaussian_average(image: Image, *, deviation_px: float, reach: int, mirror: int) -> Image:
    """Average over a Gaussian neighbourhood.

    Parameters
    ----------
    image
        (P, Q) float32, finite.
    deviation_px
        Deviation of the Gaussian.
    reach
        It is cut at so many pixels.
    mirror
        0: mirrored at the outer edges of the border pixels, which so count twice; 1: at their
        centres.

    Returns
    -------
    (P, Q) float32.
    """
    image = np.ascontiguousarray(image, np.float32)
    averaged = np.empty_like(image)
    _average(image, _weights(reach, deviation_px), mirror, averaged)
    return averaged


@lru_cache(maxsize=32)
def _weights(reach: int, deviation_px: float) -> Image:
    """Return the weights from one end to the other, with zeros up to a reach in threes."""
    weights = cv2.getGaussianKernel(2 * reach + 1, deviation_px, cv2.CV_32F).ravel()
    return np.pad(weights, -reach % 3 if reach else 3)


@compiled
def _average(image: Image, weights: Image, mirror: int, averaged: Image) -> None:
    rows, n = image.shape
    reach = weights.size // 2
    along = np.empty_like(image)
    _average_along_rows(image, weights, _mirrored_places(n, reach, mirror), along)
    place = _mirrored_places(rows, reach, mirror)
    for i in range(rows):
        centre = i + reach
        out = stretch(averaged, i * n, n)
        _weigh_four(
            stretch(weights, reach, 4),
            stretch(along, i * n, n),
            stretch(along, place[centre - 1] * n, n),
            stretch(along, place[centre + 1] * n, n),
            stretch(along, place[centre - 2] * n, n),
            stretch(along, place[centre + 2] * n, n),
            stretch(along, place[centre - 3] * n, n),
            stretch(along, place[centre + 3] * n, n),
            out,
        )
        for k in range(4, reach + 1, 3):
            _add_three(
                stretch(weights, reach + k, 3),
                stretch(along, place[centre - k] * n, n),
                stretch(along, place[centre + k] * n, n),
                stretch(along, place[centre - k - 1] * n, n),
                stretch(along, place[centre + k + 1] * n, n),
                stretch(along, place[centre - k - 2] * n, n),
                stretch(along, place[centre + k + 2] * n, n),
                out,
            )


@compiled
def _mirrored_places(n: int, reach: int, mirror: int) -> Places:
    """Return the places that stand for -reach to n + reach - 1."""
    places = np.empty(n + 2 * reach, np.int64)
    period = max(2 * (n - mirror), 1)
    for i in range(-reach, n + reach):
        place = i if 0 <= i < n else i % period
        places[i + reach] = place if place < n else period - place - 1 + mirror
    return places


@compiled
def _average_along_rows(image: Image, weights: Image, places: Places, along: Image) -> None:
    n = image.shape[1]
    reach = weights.size // 2
    row = np.empty(n + 2 * reach, np.float32)
    for i in range(image.shape[0]):
        source, out = stretch(image, i * n, n), stretch(along, i * n, n)
        _copy(source, stretch(row, reach, n))
        for k in range(reach):
            row[k] = source[places[k]]
            row[reach + n + k] = source[places[reach + n + k]]
        _weigh_seven(weights, row, out)
        for k in range(7, weights.size, 6):
            _add_six(stretch(weights, k, 6), stretch(row, k, n + 5), out)


@compiled
def _copy(values: Image, copied: Image) -> None:
    for j in range(values.size):
        copied[j] = values[j]


@compiled
def _weigh_seven(weights: Image, row: Image, out: Image) -> None:
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    w4, w5, w6 = weights[4], weights[5], weights[6]
    for j in range(out.size):
        total = multiply_add(w2, row[j + 2], multiply_add(w1, row[j + 1], w0 * row[j]))
        total = multiply_add(w4, row[j + 4], multiply_add(w3, row[j + 3], total))
        out[j] = multiply_add(w6, row[j + 6], multiply_add(w5, row[j + 5], total))


@compiled
def _add_six(weights: Image, row: Image, out: Image) -> None:
    w0, w1, w2 = weights[0], weights[1], weights[2]
    w3, w4, w5 = weights[3], weights[4], weights[5]
    for j in range(out.size):
        total = multiply_add(w1, row[j + 1], multiply_add(w0, row[j], out[j]))
        total = multiply_add(w3, row[j + 3], multiply_add(w2, row[j + 2], total))
        out[j] = multiply_add(w5, row[j + 5], multiply_add(w4, row[j + 4], total))


@compiled
def _weigh_four(
    weights: Image,
    centre: Image,
    above: Image,
    below: Image,
    above_2: Image,
    below_2: Image,
    above_3: Image,
    below_3: Image,
    out: Image,
) -> None:
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for j in range(out.size):
        total = multiply_add(w1, above[j] + below[j], w0 * centre[j])
        total = multiply_add(w2, above_2[j] + below_2[j], total)
        out[j] = multiply_add(w3, above_3[j] + below_3[j], total)


@compiled
def _add_three(
    weights: Image,
    above: Image,
    below: Image,
    above_2: Image,
    below_2: Image,
    above_3: Image,
    below_3: Image,
    out: Image,
) -> None:
    w1, w2, w3 = weights[0], weights[1], weights[2]
    for j in range(out.size):
        total = multiply_add(w1, above[j] + below[j], out[j])
        total = multiply_add(w2, above_2[j] + below_2[j], total)
        out[j] = multiply_add(w3, above_3[j] + below_3[j], total)
