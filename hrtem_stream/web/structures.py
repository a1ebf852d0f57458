"""What is known of the structure of a frame: bonds to lay over it, and words."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hrtem_stream.archive.reader import Archive
from hrtem_stream.archive.structure import StructureFile, find_structures
from hrtem_stream.science.structure_picture import angle_colours

MAX_SIDE = 1600
BOUNDARY = (255, 255, 255)
GRAPHENE_NM = 0.246


@dataclass(frozen=True, slots=True)
class Found:
    """The structure of one frame."""

    words: str
    bonds: bytes
    """PNG, clear where there is no bond and no boundary."""


def structure_of(archive: Archive, index: int) -> Found | None:
    """Give what was found in a frame of an archive; None if it was not analysed.

    Raises
    ------
    ArchiveError
        The structures are damaged, or of another series.
    """
    if find_structures(archive.path) is None or archive.shape is None:
        return None
    with archive.structure() as structures:
        entry = structures.entry_of(index)
        if entry is None:
            return None
        fault = structures.faults[entry]
        if fault:
            return Found(f"no structure: {fault}", _png(np.zeros((1, 1, 4), np.uint8)))
        return Found(_words(structures, entry), _drawn(structures, entry, archive.shape))


def _words(structures: StructureFile, entry: int) -> str:
    frames = {name: values[entry] for name, values in structures.frames.items()}
    size_nm = frames["pixel_size"]
    n_grains = int(frames["n_grains"])
    parts = [
        f"{int(frames['n_atoms'])} atoms",
        f"{int(frames['n_defects'])} rings that are no hexagons",
        f"{n_grains} grain{'' if n_grains == 1 else 's'}",
    ]
    if n_grains > 1:
        parts.append(f"boundaries {frames['boundary_length']:.1f} nm")
    if frames["is_calibrated"]:
        parameter, error = (frames[f"lattice_{k}"] * size_nm for k in ("parameter", "uncertainty"))
        parts.append(f"lattice {parameter:.4f} ± {error:.4f} nm (graphene {GRAPHENE_NM})")
    else:
        parts.append(f"pixel size {size_nm:.4f} nm by the lattice")
    return ", ".join(parts)


def _drawn(structures: StructureFile, entry: int, shape: tuple[int, int]) -> bytes:
    """Draw bonds in the colour of their angle, boundaries white."""
    M, N = shape
    scale = min(1.0, MAX_SIDE / max(M, N))
    picture = np.zeros((max(1, round(M * scale)), max(1, round(N * scale)), 4), np.uint8)
    atoms, bonds = structures.table("atoms", entry), structures.table("bonds", entry)
    places = np.stack([atoms["column"], atoms["row"]], axis=1)
    places = np.round(16 * ((places + 0.5) * scale - 0.5)).astype(int)
    bond_px = 0.142 / max(float(structures.frames["pixel_size"][entry]), 1e-6) * scale
    thick = max(1, round(bond_px / 6))
    colours = angle_colours(bonds["angle"])
    ends = zip(bonds["first"].tolist(), bonds["second"].tolist(), colours.tolist(), strict=True)
    for first, second, colour in ends:
        if max(first, second) < len(places):
            line = places[first].tolist(), places[second].tolist()
            cv2.line(picture, *line, (*colour, 255), thick, cv2.LINE_AA, shift=4)
    lines = structures.table("boundary_lines", entry)
    _dots(picture, lines["row"], lines["column"], scale=scale, radius=thick)
    return _png(picture)


def _dots(
    picture: NDArray[np.uint8],
    rows: NDArray[np.floating],
    columns: NDArray[np.floating],
    *,
    scale: float,
    radius: int,
) -> None:
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        place = round((column + 0.5) * scale), round((row + 0.5) * scale)
        cv2.circle(picture, place, radius, (*BOUNDARY, 255), -1)


def _png(picture: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
