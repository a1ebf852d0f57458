"""The camera as the analysis sees it: corrected, binned, and summed over sub-frames.

Only what is analysed is changed. The archive holds what was received.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.messages import FrameHeader
from hrtem_stream.science.corrections import Filling, binned, corrected, filled, filling_of


class Camera(Protocol):
    """Turns the pixels of a frame into what is analysed."""

    binning: int
    """Side of a pixel that is analysed, in pixels of the detector."""

    def analysed(self, header: FrameHeader, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return (M, N) counts; raises ValueError when they cannot be had."""


class CorrectedCamera:
    """A camera whose feed is already corrected: only signed counts become float32."""

    binning = 1

    def analysed(self, header: FrameHeader, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return the pixels as they are, signed counts as float32."""
        return pixels.astype(np.float32) if pixels.dtype.kind == "i" else pixels


class RawCamera:
    """A camera whose frames are to be corrected, binned or summed before they are analysed.

    Parameters
    ----------
    dark, gain
        References (M, N) float32, None for none.
    bad
        (M, N) bool, True for a bad pixel, None for none.
    fills_largest
        Whether pixels of the largest number of their dtype are bad, too: so do detectors mark gaps
        and dead pixels.
    binning
        Side of the squares over which counts are summed, in pixels.
    n_summed
        Each frame is analysed as the sum of itself and the frames just before it, so many in all.
    """

    def __init__(
        self,
        *,
        dark: NDArray[np.float32] | None = None,
        gain: NDArray[np.float32] | None = None,
        bad: NDArray[np.bool_] | None = None,
        fills_largest: bool = False,
        binning: int = 1,
        n_summed: int = 1,
    ) -> None:
        self.binning = binning
        self._dark = dark
        self._gain = gain
        self._bad = bad
        self._fills_largest = fills_largest
        self._n_summed = n_summed
        self._filled_for: NDArray[np.bool_] | None = bad
        self._filling = filling_of(bad) if bad is not None else None
        self._recent: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        """Frames that later ones are summed with, by sequence number."""
        self._series_id = ""

    def analysed(self, header: FrameHeader, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return the counts to be analysed, float32.

        Raises
        ------
        ValueError
            When a reference has another shape than the frame, or the binning does not divide it.
        """
        filling = self._filling_of(pixels)
        image = corrected(pixels, dark=self._dark, gain=self._gain)
        if filling is not None:
            image = filled(image, filling=filling)
        image = binned(image, factor=self.binning)
        return self._summed(header, image) if self._n_summed > 1 else image

    def _filling_of(self, pixels: NDArray[Any]) -> Filling | None:
        """Find how bad pixels are filled; anew only when others are bad than in the last frame."""
        bad = self._bad
        if bad is not None and bad.shape != pixels.shape:
            raise ValueError(f"map of bad pixels must be {pixels.shape}, is {bad.shape}")
        if not self._fills_largest or pixels.dtype.kind not in "iu":
            return self._filling
        largest = pixels == np.iinfo(pixels.dtype).max
        bad = largest if bad is None else bad | largest
        last = self._filled_for
        if last is None or not np.array_equal(bad, last):
            self._filled_for = bad
            self._filling = filling_of(bad)
        return self._filling

    def _summed(self, header: FrameHeader, image: NDArray[np.float32]) -> NDArray[np.float32]:
        if header.series_id != self._series_id:
            self._recent.clear()
            self._series_id = header.series_id
        self._recent[header.sequence] = image
        first = header.sequence - self._n_summed + 1
        total = image.copy()
        for sequence, earlier in self._recent.items():
            if first <= sequence < header.sequence and earlier.shape == image.shape:
                total += earlier
        while len(self._recent) > self._n_summed:
            del self._recent[min(self._recent)]
        return total
