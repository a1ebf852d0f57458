"""reprocess and join: recorded series again, on several processes or hosts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrtem_stream.cli.console import parse_values, print_json, say, settings_of
from hrtem_stream.cli.options import (
    CodecOption,
    Json,
    Overwrite,
    SegmenterOption,
    SetOption,
)

if TYPE_CHECKING:
    from hrtem_stream.reprocess.run import Do, Estimate, Progress, Result

SLOWEST_S = 60.0
"""`auto` takes the U-Net wherever it is installed: blocks must not be segmented each its way."""


def reprocess(
    series: Annotated[
        list[str], typer.Argument(help="Archives, or what replay takes; a series each.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the new archives.")],
    scheduler: Annotated[
        str, typer.Option(help="Address of a dask scheduler, tcp://HOST:8786.")
    ] = "",
    workers: Annotated[
        int, typer.Option(help="Processes on this host; 0: this one.", min=0, max=1024)
    ] = 0,
    segmenter: SegmenterOption = "auto",
    codec: CodecOption = None,
    block: Annotated[int, typer.Option(help="Frames of a task.", min=1, max=100_000)] = 128,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    settings_values: SetOption = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what it would take.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Analyse recorded series again, with new weights or settings, into new archives.

    What was done stays done: the same command goes on where a dead worker, scheduler or command
    left off. Exit code 1 if a series could not be finished, 3 if frames are lost.

    Example: hrtem-stream reprocess runs/*.nxs --output again --workers 8 --segmenter unet
    """
    from hrtem_stream.errors import SettingsError
    from hrtem_stream.reprocess.plan import plan
    from hrtem_stream.reprocess.run import estimate, in_this_process, on_workers
    from hrtem_stream.reprocess.run import reprocess as run
    from hrtem_stream.runtime.log import set_up_logging

    if scheduler and workers:
        raise SettingsError("either --scheduler or --workers, not both")
    settings = settings_of(
        config,
        {
            "session.name": "reprocess", "page.enabled": False, "segment.segmenter": segmenter,
            "segment.slowest_s": SLOWEST_S, "archive.codec": codec,
            "session.log_level": "WARNING", **parse_values(settings_values),
        },
    )  # fmt: skip
    set_up_logging(settings.session.log_level, "reprocess")
    jobs = plan(series, output.absolute(), settings, block_frames=block)
    if dry_run:
        _print_estimate(estimate(jobs, settings, output.absolute()), as_json)
        return
    command = " ".join(["hrtem-stream", *sys.argv[1:]])
    with contextlib.ExitStack() as stack:
        do: Do = in_this_process
        if scheduler or workers:
            do = stack.enter_context(on_workers(scheduler=scheduler, n_workers=workers))
        bar = stack.enter_context(_bar(sum(job.n_frames for job in jobs)))
        results = run(jobs, do, command=command, overwrite=overwrite, progress=bar)
    _report(results, as_json)


def join(
    parts: Annotated[list[Path], typer.Argument(help="The archives of all shares, or files.")],
    output: Annotated[Path, typer.Option(help="The archive to write.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Join the archives of `replay --shard`, or the files of a rotated series, into one.

    Example: hrtem-stream join shares/*.nxs --output series.nxs
    """
    from dataclasses import asdict

    from hrtem_stream.archive.joining import join as join_archives

    ledger = join_archives(parts, output, overwrite=overwrite)
    if as_json:
        print_json({"archive": str(output), **asdict(ledger)})
    else:
        account = f"archived {ledger.archived} + lost {ledger.lost}"
        say(f"{output}: received {ledger.received} = {account}")


def _report(results: list[Result], as_json: bool) -> None:
    from hrtem_stream.pipeline.names import EXIT_FAILURE, EXIT_LOST

    if as_json:
        print_json({"series": [result.as_dict() for result in results]})
    for result in results:
        if not as_json and not result.problems:
            there = " (was there)" if result.was_there else ""
            print(f"{result.output}: archived {result.archived}, lost {result.lost}{there}")
        for problem in result.problems:
            say(f"{result.source}: {problem}")
    if any(result.problems for result in results):
        raise typer.Exit(EXIT_FAILURE)
    if any(result.lost for result in results):
        raise typer.Exit(EXIT_LOST)


def _print_estimate(found: Estimate, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(found))
        return
    print(f"series        {found.n_series}")
    print(f"frames        {found.n_frames} in {found.n_blocks} blocks")
    print(f"core hours    {found.core_hours:.3g}")
    print(f"output        {found.output_bytes / 2**30:.3g} GiB")
    print(f"free there    {found.free_bytes / 2**30:.3g} GiB")


@contextlib.contextmanager
def _bar(n_frames: int) -> Iterator[Progress]:
    """Show the progress on a terminal."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task("frames", total=n_frames)
        yield lambda n: bar.advance(task, n)
