"""Gaussian averages of images, mirrored at the borders."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

_SHRINK = 4


def blur(image: Image, *, deviation_px: float) -> Image:
    """Average over a Gaussian neighbourhood, cut at three deviations."""
    size = 2 * int(np.ceil(3.0 * deviation_px)) + 1
    blurred: Image = cv2.GaussianBlur(
        image, (size, size), deviation_px, borderType=cv2.BORDER_REFLECT
    )
    return blurred


def subtract_local_mean(image: Image, *, deviation_px: float) -> Image:
    """Take off the mean over a wide Gaussian neighbourhood, computed on every fourth pixel."""
    rows, columns = image.shape
    shape = max(columns // _SHRINK, 1), max(rows // _SHRINK, 1)
    small = cv2.resize(np.ascontiguousarray(image, np.float32), shape, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(
        blur(small, deviation_px=deviation_px / _SHRINK),
        (columns, rows),
        interpolation=cv2.INTER_LINEAR,
    )
    flattened: Image = image - mean
    return flattened
