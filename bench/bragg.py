"""The Bragg filter: beside Eq. 4 to 6 in plain SciPy, and beside its Fourier transforms."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.row import Row, in_turns, row
from hrtem_stream.science.bragg import bragg_mask, bragg_mask_published
from hrtem_stream.science.illumination import normalise_frame
from hrtem_stream.science.synthetic import SyntheticSeries

Image = NDArray[np.float32]


def measure(seconds: float) -> list[Row]:
    cv2.setNumThreads(1)
    image = normalise_frame(SyntheticSeries(shape=(1024, 1024), seed=1).frame(14).pixels).image
    times = in_turns(
        {
            "published": lambda: bragg_mask_published(
                image, peak_threshold=2.0, mask_threshold=0.8
            ),
            "shipped": lambda: bragg_mask(image),
            "plain": lambda: plain(image),
            "limit": lambda: cv2.dft(cv2.dft(image), flags=cv2.DFT_INVERSE | cv2.DFT_SCALE),
        },
        seconds=seconds or 5.0,
    )
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return [
        row(
            f"Bragg filter, {name} steps, 256², one thread "
            "(reference: plain Eq. 4-6; limit: one forward and one inverse FFT)",
            times[name], "ms", reference=medians["plain"], limit=medians["limit"],
        )
        for name in ("published", "shipped")
    ]  # fmt: skip


def plain(image: Image, *, n_peaks: int = 24, aperture: float = 0.0156) -> NDArray[np.bool_]:
    """Write Eq. 4 to 6 down in NumPy and SciPy: complex transforms, apertures over the plane."""
    rows, columns = image.shape
    g_row, g_column = np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None, :]
    g = np.hypot(g_row, g_column)
    window = np.outer(np.hanning(rows), np.hanning(columns))
    power = ndimage.gaussian_filter(g * np.abs(np.fft.fft2(image * window)), 2.0, mode="wrap")
    peaks = (power == ndimage.maximum_filter(power, 7, mode="wrap")) & (g > 0.1) & (g < 0.5)
    places = np.argwhere(peaks & (power > 2.0 * power.mean()))
    strongest = places[np.argsort(-power[tuple(places.T)])][:n_peaks]
    apertures = np.zeros_like(power)
    for i, j in strongest:
        squared = np.square(g_row - g_row[i, 0]) + np.square(g_column - g_column[0, j])
        apertures = np.maximum(apertures, np.exp(-0.5 * squared / aperture**2))
    lattice = np.fft.ifft2(np.fft.fft2(image) * apertures).real
    return np.asarray(ndimage.gaussian_filter(np.abs(image - lattice), 5.0) > 0.8)
