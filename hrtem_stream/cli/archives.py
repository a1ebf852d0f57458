"""Commands on archives: info, verify, recover."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hrtem_stream.cli.console import (
    print_json,
)
from hrtem_stream.cli.options import (
    Json,
    Overwrite,
)


def info(
    archive: Annotated[Path, typer.Argument(help="An archive, *.nxs or *.nxs.part.")],
    as_json: Json = False,
) -> None:
    """Summarise an archive."""
    from hrtem_stream.archive.summary import summary

    content = summary(archive)
    if as_json:
        print_json(content)
    else:
        for key, value in content.items():
            print(f"{key:<22} {value}")


def verify(
    archive: Annotated[Path, typer.Argument(help="An archive, *.nxs.")],
    as_json: Json = False,
) -> None:
    """Recompute digests, expand runs and check the ledger; exit 5 on a difference."""
    from dataclasses import asdict

    from hrtem_stream.archive.verify import verify as verify_archive
    from hrtem_stream.pipeline import EXIT_DIFFERENT

    report = verify_archive(archive)
    if as_json:
        print_json({"archive": str(archive), "ok": not report.differences, **asdict(report)})
    elif report.differences:
        for difference in report.differences:
            print(difference)
    else:
        print(f"{archive}: {report.n_frames} frames, no difference")
    if report.differences:
        raise typer.Exit(EXIT_DIFFERENT)


def recover(
    archive: Annotated[Path, typer.Argument(help="An interrupted archive, *.nxs.part.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Close an archive whose session was cut off, as far as it was written."""
    from hrtem_stream.archive.recovery import recover as recover_archive

    ledger = recover_archive(archive, overwrite=overwrite)
    path = archive.with_suffix("")
    if as_json:
        print_json({"archive": str(path), "archived": ledger.archived, "lost": ledger.lost})
    else:
        print(f"{path} is complete as far as it was written: {ledger.archived} frames")
