"""Pictures of masks: what is amorphous in red over the image, and sheets of many such pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

RED = (214, 39, 40)
BLUE = (31, 119, 180)
OPACITY = 0.45
CAPTION_HEIGHT = 22
GAP = 6


def overlay(
    image: NDArray[np.uint8], *, amorphous: NDArray[np.bool_], vacuum: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Tint a grey image: amorphous red, vacuum blue.

    Parameters
    ----------
    image
        (P, Q) uint8.
    amorphous, vacuum
        (P, Q) bool.

    Returns
    -------
    (P, Q, 3) uint8, red, green, blue.
    """
    colour = np.repeat(image[:, :, np.newaxis], 3, axis=2).astype(np.float32)
    for mask, tint in ((amorphous, RED), (vacuum, BLUE)):
        colour[mask] = (1 - OPACITY) * colour[mask] + OPACITY * np.array(tint, np.float32)
    tinted: NDArray[np.uint8] = colour.round().astype(np.uint8)
    return tinted


def error_map(
    image: NDArray[np.uint8], *, mask: NDArray[np.bool_], label: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Set an image beside the errors of its mask, as Fig. 4 of Sadre et al. 2021.

    Parameters
    ----------
    image
        (P, Q) uint8.
    mask, label
        (P, Q) bool: found, and drawn by hand.

    Returns
    -------
    (P, 2 Q, 3) uint8: true positives white, false positives red, false negatives blue.
    """
    errors = np.zeros((*image.shape, 3), np.uint8)
    errors[mask & label] = (255, 255, 255)
    errors[mask & ~label] = (255, 0, 0)
    errors[~mask & label] = (0, 0, 255)
    return np.concatenate([np.repeat(image[:, :, np.newaxis], 3, axis=2), errors], axis=1)


def contact_sheet(
    pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], *, n_columns: int
) -> NDArray[np.uint8]:
    """Set pictures of one size in rows, each with its caption below.

    Parameters
    ----------
    pictures
        (P, Q, 3) uint8 each.
    captions
        One for each picture.
    n_columns
        Pictures in a row, at least 1.

    Raises
    ------
    ValueError
        There is no picture, or not one caption for each.
    """
    if not pictures or len(pictures) != len(captions):
        raise ValueError(f"need one caption a picture, got {len(pictures)} and {len(captions)}")
    height, width = pictures[0].shape[:2]
    n_columns = min(n_columns, len(pictures))
    n_rows = -(-len(pictures) // n_columns)
    pitch = (height + CAPTION_HEIGHT + GAP, width + GAP)
    sheet = np.full((n_rows * pitch[0] + GAP, n_columns * pitch[1] + GAP, 3), 255, np.uint8)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        top = GAP + number // n_columns * pitch[0]
        left = GAP + number % n_columns * pitch[1]
        sheet[top : top + height, left : left + width] = picture
        cv2.putText(
            sheet, caption, (left, top + height + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42,
            (20, 20, 20), 1, cv2.LINE_AA,
        )  # fmt: skip
    return sheet
