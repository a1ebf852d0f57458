"""The four classes of a pixel, as in Fig. 1 of Sadre et al. 2021: what a frame shows where."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

GRAPHENE, BOUNDARY, VACUUM, AMORPHOUS = range(4)
CLASS_NAMES = ("graphene", "grain boundary", "vacuum", "amorphous")
"""By the number of the class."""

_BOUNDARY_WIDTH_NM = 0.3


def classify(
    boundary: Mask, *, amorphous: Mask, vacuum: Mask, pixel_size_nm: float
) -> NDArray[np.uint8]:
    """Give each pixel its class.

    Parameters
    ----------
    boundary
        (P, Q) bool, the lines between grains; they are widened to 0.3 nm.
    amorphous, vacuum
        (P, Q) bool; amorphous material covers all else, vacuum covers boundaries.
    pixel_size_nm
        Above 0.

    Returns
    -------
    (P, Q) uint8, one of `GRAPHENE`, `BOUNDARY`, `VACUUM`, `AMORPHOUS`.

    Raises
    ------
    ValueError
        If the masks differ in shape, or the pixel size is not above 0.
    """
    if not boundary.shape == amorphous.shape == vacuum.shape:
        raise ValueError(
            f"masks must have one shape, got {boundary.shape}, {amorphous.shape}, {vacuum.shape}"
        )
    if not pixel_size_nm > 0.0:
        raise ValueError(f"pixel_size_nm must be above 0, got {pixel_size_nm}")
    width = max(1, round(_BOUNDARY_WIDTH_NM / pixel_size_nm))
    wide = cv2.dilate(boundary.astype(np.uint8), np.ones((width, width), np.uint8))
    classes = np.full(boundary.shape, GRAPHENE, np.uint8)
    classes[wide > 0] = BOUNDARY
    classes[vacuum] = VACUUM
    classes[amorphous] = AMORPHOUS
    return classes
