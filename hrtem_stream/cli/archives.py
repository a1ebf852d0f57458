"""Commands on archives: info, verify, recover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrtem_stream.cli.console import (
    print_json,
    say,
    settings_of,
)
from hrtem_stream.cli.options import (
    Json,
    Overwrite,
)

if TYPE_CHECKING:
    from hrtem_stream.pipeline.recovery import RecoveredLog


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
    archive: Annotated[
        Path, typer.Argument(help="A folder of archives, or one interrupted *.nxs.part.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(help="Settings of the session, where no archive in the folder has them."),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="A frame log that lies elsewhere.")] = None,
    remove_damaged: Annotated[
        bool, typer.Option(help="Remove a damaged frame log once all else of it is archived.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Finish what an interrupted session left in a folder, from its archives and its frame log.

    Of a single *.nxs.part only what was written is kept; the frame log is left as it is.
    """
    if archive.is_dir():
        _recover_folder(archive, config, log, remove_damaged, as_json)
        return
    from hrtem_stream.archive.recovery import recover as recover_archive

    ledger = recover_archive(archive, overwrite=overwrite)
    path = archive.with_suffix("")
    if as_json:
        print_json({"archive": str(path), "archived": ledger.archived, "lost": ledger.lost})
    else:
        print(f"{path} is complete as far as it was written: {ledger.archived} frames")


def _recover_folder(
    folder: Path, config: Path | None, log: Path | None, remove_damaged: bool, as_json: bool
) -> None:
    from dataclasses import asdict

    from hrtem_stream.pipeline import EXIT_FAILURE, EXIT_LOST
    from hrtem_stream.pipeline.recovery import recover_folder
    from hrtem_stream.runtime.log import set_up_logging

    set_up_logging("WARNING", "recover")
    done = recover_folder(
        folder, settings=settings_of(config, {}) if config else None, log=log,
        remove_damaged=remove_damaged,
    )  # fmt: skip
    n_lost = sum(archive.lost for archive in done.archives)
    problems = [*done.problems, *(one.problem for one in done.logs if one.problem)]
    if as_json:
        print_json({"folder": str(folder), "lost": n_lost, **asdict(done), "problems": problems})
    else:
        for one in done.logs:
            print(_sentence(one))
        for finished in done.archives:
            reasons = f" ({', '.join(finished.reasons)})" if finished.reasons else ""
            print(
                f"{finished.archive}: received {finished.received} = archived "
                f"{finished.archived} + lost {finished.lost}{reasons}"
            )
        if not (done.logs or done.archives or problems):
            print(f"nothing in {folder} is unfinished")
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(EXIT_FAILURE)
    if n_lost:
        raise typer.Exit(EXIT_LOST)


def _sentence(log: RecoveredLog) -> str:
    what = f"{log.log}: {log.frames} frames brought into the archive"
    if log.damaged:
        what += f", {log.damaged} of its records are damaged"
    if log.removed:
        return f"{what}; removed"
    return f"{what}; kept (--remove-damaged removes it)"
