"""Commands on what the masks guard: analyse finds atoms and grains, rank orders by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hrtem_stream.cli.console import output_errors, print_json, say
from hrtem_stream.cli.options import Json, Overwrite, PixelSizeOption

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hrtem_stream.archive.reader import Archive
    from hrtem_stream.science.structure import Structure

LATTICE_TOLERANCE = 0.02
"""Deviation of the lattice parameter from graphene's above which a calibration is doubted."""
Measure = Literal["graphene_fraction", "boundary_length", "n_atoms", "largest_grain"]


def analyse(
    archive: Annotated[Path, typer.Argument(help="An archive, *.nxs.")],
    best: Annotated[
        int, typer.Option(help="Only so many frames, most graphene first; 0: all.", min=0)
    ] = 0,
    pixel_size_nm: PixelSizeOption = 0.0,
    csv: Annotated[Path | None, typer.Option(help="Folder for tables as CSV.")] = None,
    xyz: Annotated[Path | None, typer.Option(help="File for atoms as XYZ.")] = None,
    extxyz: Annotated[Path | None, typer.Option(help="File for extended XYZ, as ASE's.")] = None,
    overlays: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures: atoms and bonds, classes, orientations."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find atoms, bonds, rings, grains, boundaries and classes of pixels in an archive.

    Results go to NAME.structure.nxs beside the archive, to which /entry/structure in it points.
    Frames that are there already, found while the session ran or by an analysis that was broken
    off, are not analysed again. The pixel size is that of the option, of the archive's
    calibration, or of the lattice itself, taken as 0.246 nm.
    """
    from hrtem_stream.archive import structure_export
    from hrtem_stream.archive.reader import open_archive
    from hrtem_stream.archive.structure import StructureFile, structure_path
    from hrtem_stream.archive.structure_writer import StructureWriter
    from hrtem_stream.science.structure import LATTICE_NM

    path = structure_path(archive)
    with (
        open_archive(archive) as series,
        StructureWriter.begin(archive, series.header, overwrite=overwrite) as writer,
    ):
        rows = [int(row) for row in series.ranking()[: best or None]]
        n_known = len(writer.rows)
        new = sorted(set(rows) - writer.rows)
        for row, structure in _structures(series, new, pixel_size_nm, overlays):
            writer.append(row, structure)
    with StructureFile(path) as structures:
        if csv is not None:
            with output_errors(csv):
                structure_export.write_csv(structures, csv)
        if xyz is not None:
            with output_errors(xyz):
                structure_export.write_xyz(structures, xyz)
        if extxyz is not None:
            with output_errors(extxyz):
                structure_export.write_extended_xyz(structures, extxyz)
        lattice = _lattice(structures.frames)
        report = {
            "output": str(path),
            "n_frames": len(structures),
            "n_known_before": n_known,
            "n_without_structure": sum(bool(fault) for fault in structures.faults),
            "n_atoms": int(structures.frames["n_atoms"].sum()),
            "n_defects": int(structures.frames["n_defects"].sum()),
            **lattice,
        }
        for row, fault in zip(structures.frames["frame"], structures.faults, strict=True):
            if fault:
                say(f"row {row}: no structure: {fault}")
    parameter = lattice["lattice_parameter_nm"]
    if parameter and abs(parameter / LATTICE_NM - 1.0) > LATTICE_TOLERANCE:
        say(
            f"the lattice parameter is {parameter:.4f} nm by the calibration, and graphene's is "
            f"{LATTICE_NM}: the pixels are {LATTICE_NM / parameter:.3f} times as large"
        )
    if as_json:
        print_json(report)
    else:
        print(f"{report['n_frames']} frames, {report['n_atoms']} atoms: {path}")


def rank(
    archive: Annotated[Path, typer.Argument(help="An archive, *.nxs.")],
    by: Annotated[Measure, typer.Option(help="What makes a frame good.")] = "graphene_fraction",
    best: Annotated[int, typer.Option(help="So many frames.", min=1)] = 20,
    as_json: Json = False,
) -> None:
    """Rank the frames of an archive; all but graphene_fraction need `analyse` first."""
    import numpy as np

    from hrtem_stream.archive.reader import open_archive

    with open_archive(archive) as series:
        names = series.score("name")
        if by == "graphene_fraction":
            rows, values = np.arange(len(series)), series.score(by)
        else:
            with series.structure() as structures:
                rows, values = structures.frames["frame"], structures.frames[by].astype(float)
    order = np.argsort(-np.nan_to_num(values, nan=-1.0), kind="stable")[:best]
    table: list[dict[str, Any]] = [
        {"rank": place, "row": int(rows[n]), "name": str(names[rows[n]]), by: float(values[n])}
        for place, n in enumerate(order)
    ]
    if as_json:
        print_json({"archive": str(archive), "by": by, "frames": table})
        return
    print(f"{'rank':>5}{'row':>7}  {by:<18}name")
    for line in table:
        print(f"{line['rank']:5}{line['row']:7}  {line[by]:<18.4f}{line['name']}")


def _lattice(frames: dict[str, NDArray[Any]]) -> dict[str, float | None]:
    """Tell the lattice parameter by the calibration: median over the frames, and their spread."""
    import numpy as np

    calibrated = frames["is_calibrated"].astype(bool)
    parameters = (frames["lattice_parameter"] * frames["pixel_size"])[calibrated]
    parameters = parameters[np.isfinite(parameters)]
    if not parameters.size:
        return {"lattice_parameter_nm": None, "lattice_spread_nm": None}
    return {
        "lattice_parameter_nm": float(np.median(parameters)),
        "lattice_spread_nm": float(parameters.std()),
    }


def _structures(
    series: Archive, rows: list[int], pixel_size_nm: float, overlays: Path | None
) -> Iterator[tuple[int, Structure | str]]:
    from hrtem_stream.archive.structure_analysis import analyse_row

    for row in rows:
        frame, structure = analyse_row(series, row, pixel_size_nm=pixel_size_nm)
        if overlays is not None and not isinstance(structure, str):
            _write_overlays(overlays, row, frame, structure)
        yield row, structure


def _write_overlays(folder: Path, row: int, frame: Any, structure: Structure) -> None:
    from PIL import Image

    from hrtem_stream.science import structure_picture

    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "atoms": structure_picture.draw_structure(frame, structure),
        "classes": structure_picture.draw_classes(structure),
        "grains": structure_picture.draw_orientations(structure),
    }
    for kind, picture in pictures.items():
        path = folder / f"{row:06d}_{kind}.png"
        with output_errors(path):
            Image.fromarray(picture).save(path)
