"""Structures as text: CSV for spreadsheets, XYZ and ASE's extended XYZ for programs of the field.

In XYZ the image's columns run along x and its rows along y, in ångström; z is 0.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.archive.structure import MAPS, PER_FRAME, TABLES, StructureFile


def write_csv(structures: StructureFile, directory: Path) -> list[Path]:
    """Write frames.csv and one CSV a table, but no maps; `frame` is the row in the archive.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / "frames.csv"]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([_with_units(*item) for item in PER_FRAME.items()] + ["fault"])
        columns = [structures.frames[name] for name in PER_FRAME]
        for i, fault in enumerate(structures.faults):
            writer.writerow([*(column[i] for column in columns), fault])
    for name, fields in TABLES.items():
        if name == MAPS:  # a line a pixel is of no use to anybody
            continue
        paths.append(directory / f"{name}.csv")
        with paths[-1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["frame", *(_with_units(*item) for item in fields.items())])
            for i in range(len(structures)):
                row = int(structures.frames["frame"][i])
                values = structures.table(name, i).values()
                writer.writerows((row, *line) for line in zip(*values, strict=True))
    return paths


def write_xyz(structures: StructureFile, path: Path) -> None:
    """Write all frames as plain XYZ, one after the other.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        for i, x, y in _positions(structures):
            row, pixel = structures.frames["frame"][i], structures.frames["pixel_size"][i]
            file.write(f"{len(x)}\nframe {row}, pixel {pixel:.6f} nm, in angstrom\n")
            file.writelines(f"C {a:.4f} {b:.4f} 0.0000\n" for a, b in zip(x, y, strict=True))


def write_extended_xyz(structures: StructureFile, path: Path) -> None:
    """Write all frames as extended XYZ, with the height of each atom, for `ase.io.read`.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        for i, x, y in _positions(structures):
            height = structures.table("atoms", i)["height"]
            file.write(f"{len(x)}\n")
            _write_comment(file, structures, i)
            file.writelines(
                f"C {a:.4f} {b:.4f} 0.0000 {h:.4f}\n" for a, b, h in zip(x, y, height, strict=True)
            )


def _write_comment(file: IO[str], structures: StructureFile, i: int) -> None:
    frames = structures.frames
    values = {
        "frame": int(frames["frame"][i]),
        "pixel_size_nm": f"{frames['pixel_size'][i]:.6f}",
        "n_grains": int(frames["n_grains"][i]),
        "boundary_length_nm": f"{frames['boundary_length'][i]:.4f}",
    }
    words = " ".join(f"{name}={value}" for name, value in values.items())
    file.write(f'Properties=species:S:1:pos:R:3:height:R:1 pbc="F F F" {words}\n')


def _positions(
    structures: StructureFile,
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    for i in range(len(structures)):
        atoms: dict[str, NDArray[Any]] = structures.table("atoms", i)
        if len(atoms["row"]):
            angstrom = 10.0 * float(structures.frames["pixel_size"][i])
            yield i, atoms["column"] * angstrom, atoms["row"] * angstrom


def _with_units(name: str, field: tuple[str, str]) -> str:
    return f"{name} [{field[1]}]" if field[1] else name
