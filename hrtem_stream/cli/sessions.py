"""Commands that run the pipeline: demo, run, stage, replay."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hrtem_stream.cli.console import (
    absolute,
    parse_values,
    print_failure,
    print_json,
    require_paths,
    say,
    settings_of,
)
from hrtem_stream.cli.options import (
    CodecOption,
    ConfigFile,
    Insecure,
    Json,
    Overwrite,
    PageOption,
    Paths,
    SegmenterOption,
    SetOption,
    Workers,
)
from hrtem_stream.cli.report import (
    draw_ranked,
    print_profile,
    print_ranked,
    print_report,
    profile_of,
    report_of,
)
from hrtem_stream.errors import SettingsError

if TYPE_CHECKING:
    from hrtem_stream.pipeline import Progress, SessionResult
    from hrtem_stream.settings import Settings


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the archive and picture.")] = Path(
        "demo"
    ),
    frames: Annotated[int, typer.Option(min=1, help="Length of the series.")] = 200,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Side of a frame in pixels.")] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated camera.")] = 0,
    page: PageOption = None,
    as_json: Json = False,
) -> None:
    """Run a simulated camera through all processes: ranked table, ledger, frames/s, a picture."""
    archive = output / "series.nxs"
    settings = settings_of(
        None,
        {
            "session.name": f"demo-{os.getpid()}",
            "session.log_level": "WARNING",
            "page.enabled": page,
            "feed.kind": "simulated",
            "feed.simulated.n_frames": frames,
            "feed.simulated.size": size,
            "feed.simulated.seed": seed,
            "archive.file": str(archive),
            "archive.overwrite": True,
        },
    )
    result = _run(settings, frames)
    _exit_on_failure(result, as_json)
    report = report_of(result.archives)
    picture = output / "ranked.png"
    draw_ranked(archive, picture)
    if as_json:
        print_json({**report, "picture": str(picture)})
    else:
        print_ranked(archive)
        print_report(report)
        print(f"picture   {picture}   best frames first, amorphous regions red, vacuum blue")
    _exit_on_loss(report)


def run(
    config: ConfigFile,
    settings_values: SetOption = None,
    page: PageOption = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Attach to the feed in CONFIG and archive what comes, until Ctrl-C."""
    settings = settings_of(
        config, {"page.enabled": page, **_security(insecure), **parse_values(settings_values)}
    )
    result = _run(settings, None)
    _exit_on_failure(result, as_json)
    there = [path for path in result.archives if path.exists()]
    for path in result.archives:
        if path not in there:
            say(f"{path} was closed in order, and has been taken away since")
    reports = [report_of([path]) for path in there]
    # Frames that an earlier `ingest` of the session took are in the archives alone.
    is_empty = not any(report["received"] for report in reports) and there == result.archives
    refusal = result.refusal if is_empty else ""
    if as_json and not refusal:
        print_json({"archives": reports})
    for report in [] if as_json else reports:
        print_report(report)
    for report in reports:
        _exit_on_loss(report)
    if refusal:
        _exit_on_refusal(refusal, reports, as_json)


def stage(
    name: Annotated[Literal["ingest", "normalise", "segment", "sort"], typer.Argument()],
    config: ConfigFile,
    index: Annotated[int, typer.Option(min=0, help="Which segment worker.")] = 0,
    settings_values: SetOption = None,
    insecure: Insecure = False,
) -> None:
    """Run one stage of the pipeline in this process, for several hosts or for debugging."""
    from hrtem_stream.pipeline import EXIT_ARCHIVE, EXIT_FAILURE, run_stage

    settings = settings_of(config, {**_security(insecure), **parse_values(settings_values)})
    code = run_stage(name, index, settings)
    raise typer.Exit(EXIT_FAILURE if code == EXIT_ARCHIVE else code)


def replay(
    paths: Paths,
    output: Annotated[Path, typer.Option(help="The archive to write, *.nxs.")],
    rate: Annotated[str, typer.Option(help="max, real, or frames per second.")] = "max",
    segmenter: SegmenterOption = "auto",
    codec: CodecOption = None,
    repeat: Annotated[int, typer.Option(min=1, help="How often the frames are sent.")] = 1,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only share I of N of the frames; see join.")
    ] = None,
    workers: Workers = None,
    page: PageOption = False,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    settings_values: SetOption = None,
    overwrite: Overwrite = False,
    profile: Annotated[bool, typer.Option(help="Tell where each stage's time went.")] = False,
    as_json: Json = False,
) -> None:
    """Send recorded frames through the pipeline into an archive."""
    require_paths(paths)
    settings = settings_of(
        config,
        {
            "session.name": f"replay-{os.getpid()}",
            "session.log_level": "WARNING",
            "page.enabled": page,
            "feed.kind": "replay",
            "feed.replay.paths": [str(absolute(path)) for path in paths],
            "feed.replay.rate": _parse_rate(rate),
            "feed.replay.repeat": repeat,
            "feed.replay.shard": shard,
            "segment.segmenter": segmenter,
            "segment.workers": workers,
            "archive.file": str(output),
            "archive.codec": codec,
            "archive.overwrite": overwrite,
            "archive.full_disk_wait_s": 30.0,
            **parse_values(settings_values),
        },
    )
    result = _run(settings, None)
    _exit_on_failure(result, as_json)
    report = report_of(result.archives)
    split = profile_of(result.profiles) if profile else {}
    if as_json:
        print_json({**report, **split})
    else:
        print_report(report)
        print_profile(split)
    _exit_on_loss(report)


def _run(settings: Settings, n_frames: int | None) -> SessionResult:
    """Run a session, with a progress bar on a terminal."""
    from hrtem_stream.pipeline import run_session
    from hrtem_stream.runtime.log import set_up_logging

    set_up_logging(settings.session.log_level, "supervisor", events=settings.event_log_path)
    if not sys.stderr.isatty():
        return run_session(settings)
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as Bar,
    )

    columns = (
        TextColumn("archived"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} frames/s"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("archived", total=n_frames, rate="-")

        def watch(progress: Progress) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task, completed=progress.n_archived, total=progress.n_expected or n_frames,
                rate=f"{speed:.0f}" if speed else "-",
            )  # fmt: skip

        return run_session(settings, watch=watch)


def _security(insecure: bool) -> dict[str, str]:
    return {"security.insecure": "everything"} if insecure else {}


def _parse_rate(rate: str) -> float | str:
    if rate in ("max", "real"):
        return rate
    try:
        return float(rate)
    except ValueError:
        raise SettingsError(
            f"--rate must be max, real or frames per second, got {rate!r}"
        ) from None


def _exit_on_failure(result: SessionResult, as_json: bool) -> None:
    if result.exit_code:
        say(result.message)
        if as_json:
            archives = [str(path) for path in result.archives]
            print_failure(result.message, result.exit_code, archives=archives)
        raise typer.Exit(result.exit_code)


def _exit_on_refusal(refusal: str, reports: list[dict[str, Any]], as_json: bool) -> None:
    from hrtem_stream.pipeline import EXIT_FEED

    say(refusal)
    if as_json:
        print_failure(refusal, EXIT_FEED, archives=reports)
    raise typer.Exit(EXIT_FEED)


def _exit_on_loss(report: dict[str, Any]) -> None:
    from hrtem_stream.pipeline import EXIT_LOST

    if report["lost"]:
        raise typer.Exit(EXIT_LOST)
