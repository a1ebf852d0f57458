"""The reflections of the lattice: where they are in the spectrum, and the image they alone make.

Spatial frequencies g are in 1/px of the working image. Half planes have the
shape that `scipy.fft.rfft2` returns; spectra themselves are packed (`packed_spectrum`).
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from hrtem_stream.science.compiled import compiled, stretch
from hrtem_stream.science.gaussian import gaussian_average
from hrtem_stream.science.packed_spectrum import multiply_packed, unfold_amplitudes

Image = NDArray[np.float32]
Reflections = NDArray[np.float64]
"""(n, 3): row and column component of g in 1/px, one of each ± pair, and the prominence."""
NO_REFLECTIONS: Reflections = np.empty((0, 3))

BACKGROUND_PX = 17
"""Width of the neighbourhood in the spectrum that a reflection has to stand out from."""
_APART_PX = 7
"""Two maxima within half of this many pixels are one."""
_HIGHEST = 0.5
_APERTURE_REACH = 3.5
_PADDING_PX = 32
"""Three times the width of the apertures in real space, so that opposite borders do not meet."""


def find_reflections(
    image: Image,
    *,
    threshold: float,
    n_peaks: int,
    blur_px: float = 2.0,
    lowest: float = 0.1,
    background_px: int | None = BACKGROUND_PX,
) -> Reflections:
    """Find the reflections of a lattice (Eq. 4): maxima of the smoothed, |g|-weighted spectrum.

        P(g) = ( |g| |F[w I](g)| ) * Gaussian,         w a Hann window

    A maximum is taken where P exceeds `threshold` times its mean over a neighbourhood: amorphous
    texture is broad in the spectrum and does not stand out so.

    Parameters
    ----------
    image
        (P, Q) float32 of mean about 0.
    threshold
        Least prominence of a reflection, above 1.
    n_peaks
        At most so many reflections, the strongest; both of a ± pair count.
    blur_px
        Deviation of the Gaussian, in pixels of the spectrum.
    lowest
        Least |g|, in 1/px.
    background_px
        Width of the neighbourhood in pixels of the spectrum, odd; None takes the mean over the
        whole band instead, as published.

    Returns
    -------
    (n, 3) float64, most prominent first: g along rows and columns in 1/px, prominence.
    """
    rows, columns = image.shape
    windowed = image * _hann(rows, columns)
    spectrum = cv2.dft(windowed, dst=windowed)
    # With a margin of negative columns, a neighbourhood of a reflection near the edge of the half
    # plane is whole.
    margin = min(BACKGROUND_PX // 2 + 4, columns // 2)
    plane = np.empty((rows, margin + columns // 2 + 1), np.float32)
    unfold_amplitudes(spectrum, _weights(rows, columns), margin, plane)
    reach = round(8.0 * blur_px + 1.0) // 2
    smooth = gaussian_average(plane, deviation_px=blur_px, reach=reach, mirror=1)
    band = _band(rows, columns, margin, lowest)
    maxima = _find_maxima(smooth, band, _APART_PX // 2)
    if background_px is None:
        background = np.full(maxima.size, smooth[band].mean())
    else:
        background = np.empty(maxima.size, np.float32)
        _average_around(smooth, maxima, background_px // 2, background)
    found = np.empty((n_peaks // 2, 3))
    n = _take_strongest(smooth, maxima, background, np.float32(threshold), found)
    found = found[:n]
    # From pixels of the plane to 1/px.
    found[:, 0] = (found[:, 0] - rows // 2) / rows
    found[:, 1] = (found[:, 1] - margin) / columns
    return found


def lattice_image(image: Image, reflections: Reflections, *, aperture: float) -> Image:
    """Return what the reflections alone make of an image (Eq. 5), even at its borders.

        I_B = F⁻¹[ A(g) F[I](g) ] / (1 * a)

    A is 1 at a reflection and falls off as a Gaussian; where apertures overlap the larger counts.
    The image is padded with zeros and the result divided by what one aperture, at g = 0, makes of
    the field of view, so that a lattice keeps its amplitude up to the border.

    Parameters
    ----------
    image
        (P, Q) float32 of mean about 0.
    reflections
        (n, 3) from `find_reflections`.
    aperture
        Deviation of the Gaussian apertures, in 1/px.

    Returns
    -------
    (P, Q) float32; zero where there is no reflection.
    """
    lattice = np.empty(image.shape, np.float32)
    _even_out(_filtered(image, reflections, aperture), *_gains(image.shape, aperture), lattice)
    return lattice


def without_lattice(image: Image, reflections: Reflections, *, aperture: float) -> Image:
    """Return an image less its `lattice_image`."""
    image = np.ascontiguousarray(image, np.float32)
    residual = np.empty(image.shape, np.float32)
    filtered = _filtered(image, reflections, aperture)
    _subtract_evened(image, filtered, *_gains(image.shape, aperture), residual)
    return residual


def _filtered(image: Image, reflections: Reflections, aperture: float) -> Image:
    """Return what apertures at the reflections let through of an image, padded with zeros."""
    rows, columns = image.shape
    padded = padded_shape(rows, columns)
    apertures = np.zeros((padded[0], padded[1] // 2 + 1), np.float32)
    _open_apertures(apertures, reflections, padded[1], aperture)
    field = np.empty(padded, np.float32)
    field[:rows, :columns] = image
    field[rows:] = 0.0
    field[:rows, columns:] = 0.0
    spectrum = cv2.dft(field, dst=field)
    multiply_packed(spectrum, apertures)
    filtered: Image = cv2.dft(spectrum, dst=spectrum, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE)
    return filtered


@lru_cache(maxsize=64)
def padded_shape(rows: int, columns: int) -> tuple[int, int]:
    """Return the least shape that leaves the padding and transforms fast."""
    return (
        fft.next_fast_len(rows + _PADDING_PX, real=True),
        fft.next_fast_len(columns + _PADDING_PX, real=True),
    )


@compiled
def _open_apertures(
    apertures: Image, reflections: Reflections, n_columns: int, deviation: float
) -> None:
    n_rows, n_half = apertures.shape
    high, wide = _APERTURE_REACH * deviation * n_rows, _APERTURE_REACH * deviation * n_columns
    across = np.empty(int(2.0 * wide) + 2, np.float32)
    for k in range(reflections.shape[0]):
        for sign in (-1.0, 1.0):
            y, x = sign * reflections[k, 0] * n_rows, sign * reflections[k, 1] * n_columns
            left = max(0, int(np.ceil(x - wide)))
            right = min(n_half, int(np.floor(x + wide)) + 1)
            if right <= left:
                continue
            for j in range(left, right):
                across[j - left] = np.exp(-0.5 * ((j - x) / (n_columns * deviation)) ** 2)
            for i in range(int(np.ceil(y - high)), int(np.floor(y + high)) + 1):
                along = np.float32(np.exp(-0.5 * ((i - y) / (n_rows * deviation)) ** 2))
                row = stretch(apertures, (i % n_rows) * n_half + left, right - left)
                _raise(row, across, along)


@compiled
def _raise(row: Image, across: Image, along: np.float32) -> None:
    for j in range(row.size):
        row[j] = max(row[j], along * across[j])


@compiled
def _find_maxima(plane: Image, band: NDArray[np.bool_], reach: int) -> NDArray[np.int64]:
    """Return where in a band no pixel in the square around is higher, as ascending flat indices."""
    columns = plane.shape[1]
    places, n = np.empty(plane.size, np.int64), 0
    # Most pixels have a higher neighbour: that is found for many at once.
    words = np.zeros((plane.size + 7) // 8, np.uint64)
    marks = words.view(np.uint8)
    _mark_steep(plane, band, marks)
    for k in range(words.size):
        if words[k] == 0:
            continue
        for place in range(8 * k, 8 * k + 8):
            if marks[place] and _is_highest(plane, place // columns, place % columns, reach):
                places[n] = place
                n += 1
    return places[:n].copy()


@compiled
def _mark_steep(plane: Image, band: NDArray[np.bool_], marks: NDArray[np.uint8]) -> None:
    """Mark the pixels of a band that none of the four neighbours exceeds, and all at the border."""
    rows, columns = plane.shape
    inner = max(rows - 2, 0) * columns
    _mark_higher(
        stretch(plane, columns - 1, inner),
        stretch(plane, columns, inner),
        stretch(plane, columns + 1, inner),
        stretch(plane, 0, inner),
        stretch(plane, 2 * columns, inner),
        stretch(band, columns, inner),
        stretch(marks, columns, inner),
    )
    for j in range(columns):
        marks[j], marks[plane.size - 1 - j] = band[0, j], band[rows - 1, columns - 1 - j]
    for i in range(rows):
        marks[i * columns] = band[i, 0]
        marks[i * columns + columns - 1] = band[i, columns - 1]


@compiled
def _mark_higher(
    left: Image,
    row: Image,
    right: Image,
    above: Image,
    below: Image,
    band: NDArray[np.bool_],
    marks: NDArray[np.uint8],
) -> None:
    for j in range(row.size):
        highest = max(max(left[j], right[j]), max(above[j], below[j]))
        marks[j] = np.uint8(row[j] >= highest) & np.uint8(band[j])


@compiled
def _is_highest(plane: Image, row: int, column: int, reach: int) -> bool:
    rows, columns = plane.shape
    height = plane[row, column]
    left, right = max(column - reach, 0), min(column + reach + 1, columns)
    for i in range(max(row - reach, 0), min(row + reach + 1, rows)):
        around = stretch(plane, i * columns + left, right - left)
        for j in range(around.size):
            if around[j] > height:
                return False
    return True


@compiled
def _take_strongest(
    plane: Image,
    places: NDArray[np.int64],
    background: Image,
    threshold: np.float32,
    strongest: Reflections,
) -> int:
    """Write row, column and prominence of the most prominent maxima, the first first; count them.

    Of two that are alike the one that comes first is taken.
    """
    n_columns, n = plane.shape[1], 0
    values = stretch(plane, 0, plane.size)
    tiny = np.finfo(np.float32).tiny
    for m in range(places.size):
        prominence = np.divide(values[places[m]], max(background[m], tiny))
        if not prominence > threshold:
            continue
        rank = n
        while rank > 0 and prominence > strongest[rank - 1, 2]:
            rank -= 1
        if rank == strongest.shape[0]:
            continue
        n = min(n + 1, strongest.shape[0])
        for k in range(n - 1, rank, -1):
            strongest[k] = strongest[k - 1]
        strongest[rank, 0], strongest[rank, 1] = divmod(places[m], n_columns)
        strongest[rank, 2] = prominence
    return n


@compiled
def _average_around(plane: Image, places: NDArray[np.int64], reach: int, averages: Image) -> None:
    """Average a plane, mirrored in its border pixels, over the square around each place.

    The places ascend. Sums along the columns slide down the plane with them.
    """
    rows, columns = plane.shape
    sums = np.zeros(columns)
    for i in range(-reach, reach + 1):
        sums += plane[_mirrored(i, rows)]
    middle = 0
    for n in range(places.size):
        row, column = places[n] // columns, places[n] % columns
        while middle < row:
            _slide(
                sums,
                stretch(plane, _mirrored(middle - reach, rows) * columns, columns),
                stretch(plane, _mirrored(middle + reach + 1, rows) * columns, columns),
            )
            middle += 1
        total = 0.0
        for j in range(column - reach, column + reach + 1):
            total += sums[_mirrored(j, columns)]
        averages[n] = total / (2 * reach + 1) ** 2


@compiled
def _slide(sums: NDArray[np.float64], left_behind: Image, reached: Image) -> None:
    for j in range(sums.size):
        sums[j] += np.float64(reached[j]) - np.float64(left_behind[j])


@compiled
def _mirrored(i: int, n: int) -> int:
    if 0 <= i < n:
        return i
    period = max(2 * (n - 1), 1)
    i %= period
    return i if i < n else period - i


@lru_cache(maxsize=8)
def _hann(rows: int, columns: int) -> Image:
    """Return the Hann window that is zero just outside the image."""
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    return np.asarray(window, np.float32)


@lru_cache(maxsize=8)
def _weights(rows: int, columns: int) -> Image:
    """Return |g| in 1/px on the half plane."""
    g = np.hypot(fft.fftfreq(rows)[:, None], fft.rfftfreq(columns)[None, :])
    return np.asarray(g, np.float32)


@lru_cache(maxsize=8)
def _band(rows: int, columns: int, margin: int, lowest: float) -> NDArray[np.bool_]:
    """Return where a reflection may lie on the unfolded plane: one of each ± pair."""
    row = (np.arange(rows) - rows // 2)[:, None] / rows
    column = (np.arange(-margin, columns // 2 + 1))[None, :] / columns
    g = np.hypot(row, column)
    half = (column > 0) | ((column == 0) & (row > 0))
    return np.asarray((g >= lowest) & (g <= _HIGHEST) & half)


@lru_cache(maxsize=8)
def _gains(shape: tuple[int, int], aperture: float) -> tuple[Image, Image]:
    """Return one over what a Gaussian aperture at g = 0 makes of the padded field, along each axis.

    What it makes of the whole field is their product.
    """
    gains = []
    for n, n_padded in zip(shape, padded_shape(*shape), strict=True):
        transmission = np.exp(-0.5 * (fft.rfftfreq(n_padded) / aperture) ** 2)
        light = fft.irfft(fft.rfft(np.ones(n), n_padded) * transmission, n_padded)[:n]
        gains.append(np.asarray(1.0 / light, np.float32))
    return gains[0], gains[1]


@compiled
def _even_out(filtered: Image, along: Image, across: Image, lattice: Image) -> None:
    """Cut a filtered image out of its padding, times the gain along either axis."""
    width, n = filtered.shape[1], lattice.shape[1]
    for i in range(lattice.shape[0]):
        _multiply(stretch(filtered, i * width, n), across, along[i], stretch(lattice, i * n, n))


@compiled
def _subtract_evened(
    image: Image, filtered: Image, along: Image, across: Image, residual: Image
) -> None:
    width, n = filtered.shape[1], image.shape[1]
    for i in range(image.shape[0]):
        _subtract_product(
            stretch(image, i * n, n),
            stretch(filtered, i * width, n),
            across,
            along[i],
            stretch(residual, i * n, n),
        )


@compiled
def _multiply(values: Image, factors: Image, factor: np.float32, products: Image) -> None:
    for j in range(values.size):
        products[j] = values[j] * (factor * factors[j])


@compiled
def _subtract_product(
    row: Image, values: Image, factors: Image, factor: np.float32, difference: Image
) -> None:
    for j in range(row.size):
        difference[j] = row[j] - values[j] * (factor * factors[j])
