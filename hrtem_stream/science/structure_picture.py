"""Pictures of a structure: atoms as dots, bonds coloured by their angle, defects marked."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.science.classes import AMORPHOUS, VACUUM
from hrtem_stream.science.structure import Structure

Picture = NDArray[np.uint8]

_RING_COLOURS = {5: (31, 119, 180), 7: (214, 39, 40)}
_OTHER = (148, 103, 189)
_CLASS_COLOURS = np.array([(148, 190, 148), (0, 0, 0), (86, 180, 233), (230, 159, 0)], np.uint8)
"""Graphene green, boundaries black, vacuum blue, amorphous material orange."""


def draw_structure(frame: NDArray[Any], structure: Structure, *, width: int = 900) -> Picture:
    """Draw the structure over its frame.

    Bonds are coloured round the circle of hues, 60° once around; rings of five are filled blue,
    of seven red, others but hexagons violet; amorphous material is dimmed red, vacuum blue.

    Parameters
    ----------
    frame
        (M, N) counts.
    structure
        From `analyse_frame`.
    width
        Of the picture in pixels.

    Returns
    -------
    (m, width, 3) uint8, red, green, blue.
    """
    M, N = frame.shape
    scale = width / N
    height = max(1, round(M * scale))
    grey = _stretched(frame)
    grey = cv2.resize(
        grey, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    classes = cv2.resize(structure.classes, (width, height), interpolation=cv2.INTER_NEAREST)
    for value, tint in ((AMORPHOUS, (214, 39, 40)), (VACUUM, (31, 119, 180))):
        where = classes == value
        picture[where] = (0.65 * picture[where] + 0.35 * np.array(tint)).astype(np.uint8)
    places = np.round(16 * ((structure.positions + 0.5) * scale - 0.5)).astype(int)[:, ::-1]
    network = structure.network
    bond_px = 0.142 / structure.pixel_size_nm * scale
    for n in network.defects:
        centre = np.round((network.ring_centre[n] + 0.5) * scale).astype(int)[::-1]
        colour = _RING_COLOURS.get(int(network.ring_size[n]), _OTHER)
        _disc(picture, centre, radius=max(2, round(0.8 * bond_px)), colour=colour)
    colours = angle_colours(network.angle_deg)
    thick = max(1, round(bond_px / 8))
    for (first, second), colour in zip(network.bonds, colours, strict=True):
        ends = places[first].tolist(), places[second].tolist()
        cv2.line(picture, *ends, colour.tolist(), thick, cv2.LINE_AA, shift=4)
    if bond_px > 6:
        for place in places:
            radius = max(16, int(16 * bond_px / 9))
            cv2.circle(picture, place.tolist(), radius, (255, 255, 255), -1, cv2.LINE_AA, shift=4)
    return np.asarray(picture, np.uint8)


def draw_orientations(structure: Structure, *, width: int = 400) -> Picture:
    """Draw the map of orientations in the colours of the bonds, boundaries black."""
    P, Q = structure.classes.shape
    colours = angle_colours(structure.orientation_deg.ravel()).reshape(P, Q, 3)
    colours[structure.classes == AMORPHOUS] = 90
    colours[structure.classes == VACUUM] = 255
    wide = cv2.dilate(structure.grains.boundary.astype(np.uint8), np.ones((3, 3), np.uint8))
    colours[wide > 0] = 0
    size = (width, max(1, round(P * width / Q)))
    return np.asarray(cv2.resize(colours, size, interpolation=cv2.INTER_AREA), np.uint8)


def draw_classes(structure: Structure, *, width: int = 400) -> Picture:
    """Draw the map of classes: graphene green, boundaries black, vacuum blue, amorphous orange."""
    P, Q = structure.classes.shape
    size = (width, max(1, round(P * width / Q)))
    colours = _CLASS_COLOURS[structure.classes]
    return np.asarray(cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def angle_colours(angle_deg: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Map angles modulo 60° onto the circle of hues; (n, 3) uint8."""
    hue = (np.asarray(angle_deg) % 60.0) * 3.0
    hsv = np.stack([hue, np.full_like(hue, 230), np.full_like(hue, 255)], axis=1)
    rows = hsv.astype(np.uint8)[None]
    return np.asarray(cv2.cvtColor(rows, cv2.COLOR_HSV2RGB)[0], np.uint8)


def _stretched(frame: NDArray[Any]) -> NDArray[np.uint8]:
    values = frame.astype(np.float32)
    low, high = np.percentile(values[::2, ::2], (1, 99))
    stretched = (values - low) * (200 / max(float(high - low), 1e-6))
    return np.asarray(np.clip(stretched, 0, 200), np.uint8)


def _disc(
    picture: Picture, centre: NDArray[np.intp], *, radius: int, colour: tuple[int, int, int]
) -> None:
    top, left = max(0, centre[1] - radius), max(0, centre[0] - radius)
    part = picture[top : centre[1] + radius + 1, left : centre[0] + radius + 1]
    if part.size:
        painted = part.copy()
        cv2.circle(
            painted, (int(centre[0] - left), int(centre[1] - top)), radius, colour, -1, cv2.LINE_AA
        )
        part[...] = (0.4 * part + 0.6 * painted).astype(np.uint8)
