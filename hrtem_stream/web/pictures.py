"""Pictures for the page and the report: frames as JPEG, masks as transparent PNG, spectra.

A browser lays the mask over the frame and stretches the contrast itself, so each frame is encoded
once, however many people look at it and whatever they set. Colours are those of Okabe and Ito,
which differ for every kind of colour vision, also on grey.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

AMORPHOUS = (230, 159, 0)
VACUUM = (86, 180, 233)
AMORPHOUS_WORD, VACUUM_WORD = "orange", "blue"
JPEG_QUALITY = 88
LATTICE_SPACING_NM = 0.213
"""Spacing of the (10-10) planes of graphene."""
SCREEN_SIDE = 2048
"""Longest side of a full view, in pixels."""
FULL_PERCENTILES = (0.1, 99.9)
BAR_SHARE = 0.25
"""A scale bar is at most this share of the field."""

Grey = NDArray[np.uint8]


def grey_jpeg(image: Grey) -> bytes:
    """Encode a grey image (P, Q) uint8 as JPEG."""
    return _encoded(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def mask_png(amorphous: NDArray[np.bool_], *, vacuum: NDArray[np.bool_]) -> bytes:
    """Encode masks (P, Q) as a PNG that is clear elsewhere; where both are true, amorphous."""
    labels = np.where(amorphous, 1, np.where(vacuum, 2, 0)).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, *AMORPHOUS, *VACUUM])
    stream = io.BytesIO()
    image.save(stream, format="PNG", transparency=0, compress_level=1)
    return stream.getvalue()


def tinted(
    image: Grey, *, amorphous: NDArray[np.bool_], vacuum: NDArray[np.bool_], opacity: float
) -> NDArray[np.uint8]:
    """Lay the masks over a grey image; give (P, Q, 3) uint8, red, green, blue."""
    colour = np.repeat(image[:, :, np.newaxis], 3, axis=2).astype(np.float32)
    for mask, tint in ((vacuum, VACUUM), (amorphous, AMORPHOUS)):
        colour[mask] = (1 - opacity) * image[mask][:, np.newaxis] + opacity * np.array(
            tint, np.float32
        )
    result: NDArray[np.uint8] = colour.round().astype(np.uint8)
    return result


def colour_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode (P, Q, 3) uint8, red, green, blue, as JPEG."""
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    return _encoded(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def data_url(content: bytes, kind: str = "image/jpeg") -> str:
    """Give content as an address that holds it, for a file that stands alone."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def screen_image(frame: NDArray[Any]) -> Grey:
    """Turn detector counts (M, N) into grey at most `SCREEN_SIDE` wide, by area average."""
    counts = np.nan_to_num(frame.astype(np.float32), posinf=0.0, neginf=0.0)
    shrink = SCREEN_SIDE / max(counts.shape)
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in counts.shape[::-1]]
        counts = cv2.resize(counts, size, interpolation=cv2.INTER_AREA)
    low, high = np.percentile(counts, FULL_PERCENTILES)
    scale = 255 / max(float(high - low), 1e-9)
    grey: Grey = np.clip((counts - np.float32(low)) * np.float32(scale), 0, 255).astype(np.uint8)
    return grey


def spectrum(image: Grey) -> Grey:
    """Give the logarithm of the power spectrum |F(g)|² of an image, (P, Q), g = 0 in the middle.

    A Hann window keeps the edges of the image out of it. Grey runs from the median, which is
    noise, to the strongest reflection.
    """
    values = image.astype(np.float32)
    rows, columns = (np.hanning(side).astype(np.float32) for side in values.shape)
    windowed = (values - values.mean()) * rows[:, np.newaxis] * columns
    power = np.abs(np.fft.fftshift(np.fft.fft2(windowed))) ** 2
    logarithm = np.log10(power + 1.0)
    middle = tuple(side // 2 for side in values.shape)
    reach = tuple(max(1, side // 16) for side in values.shape)
    outside = logarithm.copy()
    outside[
        middle[0] - reach[0] : middle[0] + reach[0] + 1,
        middle[1] - reach[1] : middle[1] + reach[1] + 1,
    ] = np.nan  # the illumination, brighter than any reflection
    low, high = float(np.nanmedian(outside)), float(np.nanmax(outside))
    scaled = (logarithm - low) * (255 / max(high - low, 1e-9))
    shown: Grey = np.clip(scaled, 0, 255).astype(np.uint8)
    return shown


def ring_radii(
    shape: tuple[int, int], *, pixel_size_nm: float, working_side: int
) -> tuple[float, float] | None:
    """Say where the reflections of graphene lie in the spectrum of a working image.

    A spacing d is seen at N·a/d cycles in a field of N pixels of size a; the spectrum of Q working
    pixels reaches Q/2 cycles.

    Parameters
    ----------
    shape
        (M, N) of the frame.
    pixel_size_nm
        a, of the frame.
    working_side
        Q.

    Returns
    -------
    (vertical, horizontal) radius as a share of half the spectrum; None where the ring lies
    outside it, so that the working image cannot show the lattice.
    """
    vertical, horizontal = (
        side * pixel_size_nm / LATTICE_SPACING_NM / (working_side / 2) for side in shape
    )
    return (vertical, horizontal) if max(vertical, horizontal) < 1 else None


def scale_bar(width: int, *, pixel_size_nm: float) -> tuple[float, float]:
    """Choose a scale bar: its length in nm, 1, 2 or 5 times a power of ten, and as a share.

    Parameters
    ----------
    width
        Of the frame in pixels.
    """
    longest = BAR_SHARE * width * pixel_size_nm
    decade = 10.0 ** math.floor(math.log10(longest))
    length = next(step * decade for step in (5, 2, 1) if step * decade <= longest * (1 + 1e-9))
    return length, length / (width * pixel_size_nm)


def contrast_filter(image: Grey, low_percent: float, high_percent: float) -> tuple[float, float]:
    """Say how a browser stretches an image between two percentiles, by `brightness contrast`.

    CSS gives brightness b and contrast c as v ↦ (b v - 1/2) c + 1/2, v from 0 to 1. With the
    percentiles at l and h this is to be (v - l)/(h - l), hence c = (h + l)/(h - l), b = 1/(h + l).

    Returns
    -------
    (b, c)
    """
    counts = np.bincount(image.reshape(-1), minlength=256).cumsum()
    low, high = (
        int(np.searchsorted(counts, percent / 100 * counts[-1])) / 255
        for percent in (low_percent, high_percent)
    )
    high = max(high, low + 1 / 255)
    return 1 / (high + low), (high + low) / (high - low)


def _encoded(ending: str, image: NDArray[np.uint8], options: list[int]) -> bytes:
    is_done, content = cv2.imencode(ending, image, options)
    if not is_done:
        raise ValueError(f"an image of shape {image.shape} cannot be encoded as {ending}")
    return content.tobytes()
