"""Commands export and report: what is taken out of an archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hrtem_stream.cli.console import output_errors, print_json, require_writable
from hrtem_stream.cli.options import Json, Overwrite
from hrtem_stream.errors import ArchiveError, SettingsError


def export(
    archive: Annotated[Path, typer.Argument(help="An archive, *.nxs or *.nxs.part.")],
    top: Annotated[int | None, typer.Option(min=1, help="How many; all that are kept.")] = None,
    form: Annotated[
        Literal["tiff", "mrc", "png"], typer.Option("--format", help="Counts, or a picture (png).")
    ] = "tiff",
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: NAME-export beside it.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least graphene fraction, 0 to 1; default: as on the page.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the best kept frames, one file each: above the threshold and not rejected."""
    from hrtem_stream import open_archive
    from hrtem_stream.archive.export import export_frames, kept_rows
    from hrtem_stream.archive.marks import marks_of

    folder = output or archive.with_name(f"{archive.name.partition('.nxs')[0]}-export")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise SettingsError(f"output {folder} is not empty; --overwrite writes into it")
    with open_archive(archive) as opened:
        marks = marks_of(opened)
        try:
            marks = marks if threshold is None else marks.with_threshold(threshold)
        except ValueError as error:
            raise SettingsError(f"--threshold: {error}") from None
        rows = kept_rows(opened, marks)
        n_kept, rows = len(rows), rows[:top]
        try:
            written = list(export_frames(opened, rows, folder=folder, form=form))
        except OSError as error:
            raise ArchiveError(f"{folder} cannot be written: {error.strerror}") from error
        n_frames, size_nm = len(opened), opened.calibration.pixel_size_nm
    if as_json:
        files = [
            {"path": str(w.path), "row": w.row, "graphene_fraction": w.graphene_fraction}
            for w in written
        ]
        print_json(
            {"folder": str(folder), "n_frames": n_frames, "n_kept": n_kept,
             "threshold": marks.threshold, "n_rejected": len(marks.rejected),
             "pixel_size_nm": size_nm, "files": files}
        )  # fmt: skip
        return
    print(
        f"{len(written)} of {n_kept} kept frames (of {n_frames}; threshold {marks.threshold:.0%}, "
        f"{len(marks.rejected)} rejected) in {folder}"
    )
    if size_nm is None:
        print("the archive knows no pixel size, so the files have none")


def report(
    archives: Annotated[list[Path], typer.Argument(help="The archives of one series, *.nxs.")],
    output: Annotated[
        Path | None, typer.Option(help="The file to write; default: NAME.html beside it.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write one HTML file that tells of a series: what, how, how well, with best and worst."""
    from hrtem_stream.web.report import report_path, write_report

    path = output or report_path(archives)
    require_writable(path, overwrite)
    with output_errors(path):
        write_report(archives, path)
    if as_json:
        print_json({"report": str(path)})
    else:
        print(path)
