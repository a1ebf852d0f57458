"""At what size a frame is worked on: always the same one, or that at which its lattice is sharp.

As published every frame is reduced to 256 x 256, whatever its magnification: a fine pixel or a
wide field then loses the lattice, and with it all difference between graphene and contaminant.
Networks and Bragg filter know lattices of 0.028 to 0.070 nm a working pixel, 3.0 to 7.6 px a
spacing; `matched_to_lattice` chooses the working image so that the lattice lies in that range.
Where the reduction as published leaves it there already, nothing is changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.lattice_scale import find_lattice_scale

Frame = NDArray[Any]

RESIZE = "resize"
CALIBRATION = "calibration"
SPECTRUM = "spectrum"
NOT_FOUND = "none"

FINEST_NM, COARSEST_NM = 0.028, 0.070
"""Working pixels at which a frame is left as published. The U-Net was trained on simulated frames
of 0.026 to 0.08 and 104 real ones of, by their own spectra, 0.030 to 0.074. With fewer
than three pixels a spacing the reflections come near the Nyquist frequency, and the speckle of
contaminant over a whole frame is taken for a lattice: finer pixels, where the detector has them,
mend that."""
COARSEST_DETECTOR_NM = 0.085
"""A coarser detector pixel cannot show the lattice: 0.213 nm span less than two and a half."""
LEAST_SIDE = 64
MOST_PIXELS = 4096 * 4096
"""Of a working image."""
LEAST_WORKING_SIDE = 32
"""Of a working image: what the Bragg filter needs. Of a smaller field no lattice can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingScale:
    """Size of a working image, and where it is from."""

    shape: tuple[int, int]
    source: str
    """resize, calibration, spectrum, or none: no lattice scale was found."""
    pixel_size_nm: float = math.nan
    """Size of a working pixel, NaN where it is not known."""


Scaling: TypeAlias = Callable[[Frame, float], WorkingScale]
"""Gives the scale for a frame (M, N) and the size of its pixels in nm, 0 where that is unknown."""


def resized(frame: Frame, pixel_size_nm: float, *, size: int) -> WorkingScale:
    """Give `size` x `size` for every frame, as published."""
    coarsest = pixel_size_nm * max(frame.shape) / size
    return WorkingScale(shape=(size, size), source=RESIZE, pixel_size_nm=coarsest or math.nan)


def matched_to_lattice(
    frame: Frame, pixel_size_nm: float, *, size: int, working_pixel_nm: float
) -> WorkingScale:
    """Give the size at which the lattice of a frame is as fine as networks and filter know it.

    Parameters
    ----------
    frame
        (M, N) unsigned integers or floats, finite.
    pixel_size_nm
        Of the detector as calibrated; 0 where it is not known: it is then found in the spectrum
        of the frame (`find_lattice_scale`).
    size
        Height and width as published, kept where the lattice is fine enough there, and where
        none is found.
    working_pixel_nm
        Size of a working pixel otherwise.

    Returns
    -------
    WorkingScale
        Of source none, and the size as published, where no lattice is found or the frame is too
        large to be worked on at the resolution that it needs.
    """
    source = CALIBRATION
    if not pixel_size_nm > 0.0:
        found = find_lattice_scale(frame) if min(frame.shape) >= LEAST_SIDE else None
        if found is None:
            return WorkingScale(shape=(size, size), source=NOT_FOUND)
        source, pixel_size_nm = SPECTRUM, found.pixel_size_nm
    as_published = [n * pixel_size_nm / size for n in frame.shape]
    if all(FINEST_NM <= nm <= COARSEST_NM for nm in as_published):
        return WorkingScale(shape=(size, size), source=source, pixel_size_nm=max(as_published))
    if pixel_size_nm > COARSEST_DETECTOR_NM:
        return WorkingScale(shape=(size, size), source=NOT_FOUND, pixel_size_nm=max(as_published))
    pixel_nm = _working_pixel(frame.shape, pixel_size_nm, working_pixel_nm)
    shape = [max(1, round(n * pixel_size_nm / pixel_nm)) for n in frame.shape]
    if math.prod(shape) > MOST_PIXELS or min(shape) < LEAST_WORKING_SIDE:
        return WorkingScale(shape=(size, size), source=NOT_FOUND, pixel_size_nm=max(as_published))
    return WorkingScale(shape=(shape[0], shape[1]), source=source, pixel_size_nm=pixel_nm)


def reduce_mask(mask: NDArray[np.bool_], *, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Bring a mask to another size: True where it covers half of a pixel or more."""
    if mask.shape == shape:
        return mask
    covered = cv2.resize(
        mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA
    )
    return np.asarray(covered >= 0.5)


def _working_pixel(shape: tuple[int, ...], pixel_size_nm: float, wanted_nm: float) -> float:
    """Choose the working pixel: as wanted, but no enlargement that adds nothing."""
    if wanted_nm < pixel_size_nm:
        return pixel_size_nm
    # A small field is worked on with finer pixels, so that enough of them are left.
    return max(pixel_size_nm, min(wanted_nm, max(FINEST_NM, min(shape) * pixel_size_nm / 192)))
