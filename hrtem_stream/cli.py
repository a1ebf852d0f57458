"""The command `hrtem-stream`.

Exit codes: 0 ok, 1 failure, 2 usage or settings, 3 finished with frames lost, 4 feed unreachable,
5 verify found a difference. With `--json`, one object goes to stdout and all else to stderr.
Everything heavy is imported inside the command that needs it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from hrtem_stream import __version__
from hrtem_stream.errors import ArchiveError, FeedError, HrtemError, SettingsError

if TYPE_CHECKING:
    from hrtem_stream.pipeline import Progress, SessionResult
    from hrtem_stream.settings import Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Segments, ranks and archives HRTEM frames of graphene while they come.",
)  # fmt: skip
config_app = typer.Typer(no_args_is_help=True, help="The settings.")
app.add_typer(config_app, name="config")

SegmenterName = Literal["auto", "unet", "bragg"]
CodecName = Literal["deflate", "zstd", "none"]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Paths = Annotated[
    list[str],
    typer.Argument(
        help="Folder of PNG or TIFF, image, .npy, .npz, TIFF or MRC stack, HDF5 (F.h5::/dataset)."
    ),
]
SegmenterOption = Annotated[SegmenterName, typer.Option(help="How contaminant is found.")]
CodecOption = Annotated[CodecName | None, typer.Option(help="How pixels are compressed.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Workers = Annotated[int | None, typer.Option(help="Number of segment processes.", min=1, max=64)]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, repeatable.")
]
ConfigFile = Annotated[Path, typer.Argument(help="Settings file (TOML).")]


def main() -> NoReturn:
    """Run the command and exit with its code."""
    try:
        app(standalone_mode=True)
    except HrtemError as error:
        print(f"hrtem-stream: {error}", file=sys.stderr)
        sys.exit(_exit_code(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the archive and picture.")] = Path(
        "demo"
    ),
    frames: Annotated[int, typer.Option(min=1, help="Length of the series.")] = 200,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Side of a frame in pixels.")] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated camera.")] = 0,
    as_json: Json = False,
) -> None:
    """Run a simulated camera through all processes: ranked table, ledger, frames/s, a picture."""
    archive = output / "series.nxs"
    settings = _settings(
        None,
        {
            "session.name": f"demo-{os.getpid()}",
            "session.log_level": "WARNING",
            "feed.kind": "simulated",
            "feed.simulated.n_frames": frames,
            "feed.simulated.size": size,
            "feed.simulated.seed": seed,
            "archive.file": str(archive),
            "archive.overwrite": True,
        },
    )
    result = _run(settings, frames)
    _exit_on_failure(result)
    report = _report(result.archives)
    picture = output / "ranked.png"
    _draw_ranked(archive, picture)
    if as_json:
        _print_json({**report, "picture": str(picture)})
    else:
        _print_ranked(archive)
        _print_report(report)
        print(f"picture   {picture}   best frames first, amorphous regions red, vacuum blue")
    _exit_on_loss(report)


@app.command()
def run(
    config: ConfigFile,
    settings_values: SetOption = None,
    as_json: Json = False,
) -> None:
    """Attach to the feed in CONFIG and archive what comes, until Ctrl-C."""
    settings = _settings(config, _parse_values(settings_values))
    result = _run(settings, None)
    _exit_on_failure(result)
    reports = [_report([path]) for path in result.archives]
    if as_json:
        _print_json({"archives": reports})
    for report in [] if as_json else reports:
        _print_report(report)
    for report in reports:
        _exit_on_loss(report)


@app.command()
def stage(
    name: Annotated[Literal["ingest", "normalise", "segment", "sort"], typer.Argument()],
    config: ConfigFile,
    index: Annotated[int, typer.Option(min=0, help="Which segment worker.")] = 0,
    settings_values: SetOption = None,
) -> None:
    """Run one stage of the pipeline in this process, for several hosts or for debugging."""
    from hrtem_stream.pipeline import EXIT_ARCHIVE, EXIT_FAILURE, run_stage

    code = run_stage(name, index, _settings(config, _parse_values(settings_values)))
    raise typer.Exit(EXIT_FAILURE if code == EXIT_ARCHIVE else code)


@app.command()
def replay(
    paths: Paths,
    output: Annotated[Path, typer.Option(help="The archive to write, *.nxs.")],
    rate: Annotated[str, typer.Option(help="max, real, or frames per second.")] = "max",
    segmenter: SegmenterOption = "auto",
    codec: CodecOption = None,
    repeat: Annotated[int, typer.Option(min=1, help="How often the frames are sent.")] = 1,
    workers: Workers = None,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    settings_values: SetOption = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Send recorded frames through the pipeline into an archive."""
    _require_paths(paths)
    settings = _settings(
        config,
        {
            "session.name": f"replay-{os.getpid()}",
            "session.log_level": "WARNING",
            "feed.kind": "replay",
            "feed.replay.paths": [str(_absolute(path)) for path in paths],
            "feed.replay.rate": _parse_rate(rate),
            "feed.replay.repeat": repeat,
            "segment.segmenter": segmenter,
            "segment.workers": workers,
            "archive.file": str(output),
            "archive.codec": codec,
            "archive.overwrite": overwrite,
            "archive.full_disk_wait_s": 30.0,
            **_parse_values(settings_values),
        },
    )
    result = _run(settings, None)
    _exit_on_failure(result)
    report = _report(result.archives)
    if as_json:
        _print_json(report)
    else:
        _print_report(report)
    _exit_on_loss(report)


@app.command()
def segment(
    paths: Paths,
    output: Annotated[Path, typer.Option(help="The .npz to write.")],
    segmenter: SegmenterOption = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Segment frames without the pipeline: masks, vacuum, graphene fractions, names."""
    import numpy as np

    from hrtem_stream.pipeline import make_segmenter
    from hrtem_stream.sources.files import read_frames
    from hrtem_stream.stages.offline import segment_frames

    _require_paths(paths)
    _require_writable(output, overwrite)
    working_size = _settings(None, {}).normalise.working_size
    results = list(
        segment_frames(read_frames(paths), make_segmenter(segmenter), working_size=working_size)
    )
    off_specimen = [result.vacuum | result.beam_off for result in results]
    arrays = {
        "masks": np.stack([result.amorphous for result in results]).astype(np.uint8),
        "vacuum": np.stack(off_specimen).astype(np.uint8),
        "graphene_fraction": np.array([result.graphene_fraction for result in results]),
        "names": np.array([result.header.name for result in results]),
        "method": np.array([result.method for result in results]),
        "fault": np.array([result.header.fault for result in results]),
    }
    with _output_errors(output), output.open("wb") as file:
        np.savez_compressed(file, **arrays)
    for result in results:
        if result.header.fault:
            _say(f"{result.header.name}: not segmented: {result.header.fault}")
    report = {
        "output": str(output),
        "n_frames": len(results),
        "methods": _count_methods([result.method for result in results]),
        "mean_graphene_fraction": float(arrays["graphene_fraction"].mean()),
        "n_faulty": sum(bool(result.header.fault) for result in results),
    }
    if as_json:
        _print_json(report)
    else:
        print(f"{len(results)} frames segmented into {output}")


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of NAME.png with NAME_LABEL.png.")],
    segmenter: SegmenterOption = "auto",
    as_json: Json = False,
) -> None:
    """Score the segmenter against labels drawn by hand."""
    from dataclasses import asdict

    from hrtem_stream.pipeline import make_segmenter
    from hrtem_stream.science.scores import (
        per_image_scores,
        pooled_scores,
        pooled_scores_off_edge,
    )
    from hrtem_stream.sources.files import labelled_pairs, read_frames
    from hrtem_stream.stages.offline import segment_frames

    labelled = labelled_pairs(folder)
    working_size = _settings(None, {}).normalise.working_size
    results = segment_frames(
        read_frames([pair.image_path for pair in labelled]),
        make_segmenter(segmenter),
        working_size=working_size,
    )
    methods, pairs = [], []
    for pair, result in zip(labelled, results, strict=True):
        methods.append(result.method)
        pairs.append((result.amorphous, _read_label(pair.label_path, working_size)))
    report = {
        **asdict(pooled_scores(pairs)),
        "per_image": asdict(per_image_scores(pairs)),
        "off_edge_2px": asdict(pooled_scores_off_edge(pairs, margin_px=2)),
        "n_images": len(pairs),
        "methods": _count_methods(methods),
    }
    if as_json:
        _print_json(report)
    else:
        _print_scores(report)


@app.command()
def info(
    archive: Annotated[Path, typer.Argument(help="An archive, *.nxs or *.nxs.part.")],
    as_json: Json = False,
) -> None:
    """Summarise an archive."""
    from hrtem_stream.archive.summary import summary

    content = summary(archive)
    if as_json:
        _print_json(content)
    else:
        for key, value in content.items():
            print(f"{key:<22} {value}")


@app.command()
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
        _print_json({"archive": str(archive), "ok": not report.differences, **asdict(report)})
    elif report.differences:
        for difference in report.differences:
            print(difference)
    else:
        print(f"{archive}: {report.n_frames} frames, no difference")
    if report.differences:
        raise typer.Exit(EXIT_DIFFERENT)


@app.command()
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
        _print_json({"archive": str(path), "archived": ledger.archived, "lost": ledger.lost})
    else:
        print(f"{path} is complete as far as it was written: {ledger.archived} frames")


@app.command()
def simulate(
    output: Annotated[Path, typer.Option(help="The .npz to write: images, labels.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 10,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Side of a frame in pixels.")] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write frames of the simulated camera with their true labels."""
    from hrtem_stream.simulators.camera import write_simulation

    _require_writable(output, overwrite)
    with _output_errors(output):
        write_simulation(output, n_frames=frames, size=size, seed=seed)
    if as_json:
        _print_json({"output": str(output), "n_frames": frames, "size": size, "seed": seed})
    else:
        print(f"{frames} frames written to {output}")


@config_app.command("show")
def config_show(
    config: Annotated[Path | None, typer.Argument(help="Settings file (TOML).")] = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Tell where each value is from.")
    ] = False,
    settings_values: SetOption = None,
    as_json: Json = False,
) -> None:
    """Print the settings in force."""
    from hrtem_stream.settings import flatten, origins

    flags = _parse_values(settings_values)
    values = dict(flatten(_settings(config, flags).model_dump(mode="json")))
    found = origins(config, flags) if origin else {}
    if as_json:
        both = {
            key: {"value": value, "origin": found[key]} for key, value in values.items() if found
        }
        _print_json(both or values)
        return
    for key, value in values.items():
        note = f"   # {found[key]}" if origin else ""
        print(f"{key} = {json.dumps(value)}{note}")


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="Settings file (TOML).")] = None,
    as_json: Json = False,
) -> None:
    """Check this machine and the settings before a session."""
    from hrtem_stream.doctor import examine

    findings = examine(_settings(config, {}))
    is_ok = all(finding.is_ok for finding in findings)
    if as_json:
        _print_json(
            {
                "ok": is_ok,
                "checks": {f.check: {"ok": f.is_ok, "finding": f.text} for f in findings},
            }
        )
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.is_ok else 'BAD '} {finding.check:<16} {finding.text}")
    if not is_ok:
        raise typer.Exit(1)


def _settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    from hrtem_stream.settings import load_settings

    return load_settings(config, flags)


def _run(settings: Settings, n_frames: int | None) -> SessionResult:
    """Run a session, with a progress bar on a terminal."""
    from hrtem_stream.pipeline import run_session

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


def _report(archives: list[Path]) -> dict[str, Any]:
    """Sum up the archives of one series, under the names of the contract."""
    from hrtem_stream.archive.summary import summary

    parts = [summary(path) for path in archives]
    if not parts:
        raise ArchiveError("no archive was written")
    first = parts[0]
    ledgers = [part["ledger"] for part in parts]
    duration_s = _duration_s(archives)
    archived = sum(ledger["archived"] for ledger in ledgers)
    raw_bytes = sum(part["raw_bytes"] for part in parts)
    methods = {
        method: sum(part["methods"].get(method, 0) for part in parts)
        for method in ("unet", "bragg", "none")
    }
    return {
        "received": sum(ledger["received"] for ledger in ledgers),
        "archived": archived,
        "lost": sum(ledger["lost"] for ledger in ledgers),
        "duplicates": sum(ledger["duplicates"] for ledger in ledgers),
        "republished": sum(ledger["republished"] for ledger in ledgers),
        "repeated": sum(ledger["repeated"] for ledger in ledgers),
        "frames_per_s": archived / duration_s if duration_s else 0.0,
        "gigabytes_per_s": raw_bytes / duration_s / 1e9 if duration_s else 0.0,
        "latency_s": first["latency_s"],
        "methods": methods,
        "raw_bytes": raw_bytes,
        "stored_bytes": sum(part["stored_bytes"] for part in parts),
        "archive": str(archives[0]),
        "archives": [str(path) for path in archives],
        "end_reason": ledgers[-1]["end_reason"],
    }


def _duration_s(archives: list[Path]) -> float:
    """Give the time from the first frame received to the last one archived, in seconds."""
    from hrtem_stream import open_archive

    received, archived = [], []
    for path in archives:
        with open_archive(path) as opened:
            received += opened.score("received_ns")[:1].tolist()
            archived += opened.score("archived_ns")[-1:].tolist()
    return (archived[-1] - received[0]) / 1e9 if received else 0.0


def _draw_ranked(archive: Path, picture: Path) -> None:
    from PIL import Image

    from hrtem_stream import open_archive
    from hrtem_stream.science.picture import contact_sheet, overlay

    with open_archive(archive) as opened:
        order = opened.ranking()
        shown = [*order[:12], *order[-4:]] if len(order) > 16 else list(order)
        fractions = opened.scores["graphene_fraction"]
        pictures = [
            overlay(
                opened.thumbnail(row), amorphous=_small_mask(opened, row), vacuum=opened.vacuum(row)
            )
            for row in shown
        ]
        captions = [
            f"{place + 1 if place < 12 else len(order) - len(shown) + place + 1}: "
            f"frame {row}, graphene {fractions[row]:.1%}"
            for place, row in enumerate(shown)
        ]
    if pictures:
        Image.fromarray(contact_sheet(pictures, captions, n_columns=4)).save(picture)


def _small_mask(opened: Any, row: int) -> Any:
    """Give the mask at the size of the thumbnail."""
    import cv2

    rows, columns = opened.thumbnail(row).shape
    mask = opened.mask(row).astype("uint8")
    return cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_NEAREST).astype(bool)


def _print_ranked(archive: Path) -> None:
    from hrtem_stream import open_archive

    with open_archive(archive) as opened:
        scores = opened.scores
        print(" rank  frame  graphene  amorphous  vacuum  method")
        for place, row in enumerate(opened.ranking()[:10], 1):
            print(
                f"{place:5d} {row:6d} {scores['graphene_fraction'][row]:9.1%}"
                f" {scores['amorphous_fraction'][row]:10.1%}"
                f" {scores['vacuum_fraction'][row]:7.1%}  {scores['method'][row]}"
            )


def _print_report(report: dict[str, Any]) -> None:
    latency = report["latency_s"]
    print(
        f"ledger    received {report['received']} = archived {report['archived']} "
        f"+ lost {report['lost']}"
        + (f"   ({report['end_reason']})" if report["end_reason"] else "")
    )
    print(
        f"rate      {report['frames_per_s']:.1f} frames/s, {report['gigabytes_per_s']:.2f} GB/s, "
        f"latency p50 {latency['p50'] * 1e3:.0f} ms, p99 {latency['p99'] * 1e3:.0f} ms"
    )
    shares = ", ".join(f"{name} {count}" for name, count in report["methods"].items() if count)
    print(f"method    {shares or 'none'}")
    if report["raw_bytes"]:
        share = report["stored_bytes"] / report["raw_bytes"]
        print(
            f"stored    {report['stored_bytes'] / 1e6:.1f} MB of {report['raw_bytes'] / 1e6:.1f} MB"
            f" ({share:.0%})"
        )
    print(f"archive   {', '.join(report['archives'])}")


def _print_scores(report: dict[str, Any]) -> None:
    names = ("accuracy", "balanced_accuracy", "jaccard", "f1", "precision", "recall")
    print(f"{'':<20}{'pooled':>8}{'per image':>11}{'off edge':>10}")
    for name in names:
        print(
            f"{name:<20}{report[name]:8.3f}{report['per_image'][name]:11.3f}"
            f"{report['off_edge_2px'][name]:10.3f}"
        )
    print(f"{report['n_images']} images, {report['methods']}")


def _read_label(path: Path, size: int) -> Any:
    """Read a label as a mask at the size of the working image."""
    import cv2
    import numpy as np

    label = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if label is None:
        raise FeedError(f"label {path} cannot be read")
    if label.shape != (size, size):
        label = cv2.resize(label, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(label > 127)


def _count_methods(methods: list[str]) -> dict[str, int]:
    return {name: methods.count(name) for name in ("unet", "bragg", "none")}


def _parse_values(assignments: list[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE, the value as JSON where it is, else as text."""
    values: dict[str, Any] = {}
    for assignment in assignments or []:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise SettingsError(f"--set needs KEY=VALUE, got {assignment!r}")
        try:
            values[key.strip()] = json.loads(text)
        except ValueError:
            values[key.strip()] = text
    return values


def _parse_rate(rate: str) -> float | str:
    if rate in ("max", "real"):
        return rate
    try:
        return float(rate)
    except ValueError:
        raise SettingsError(
            f"--rate must be max, real or frames per second, got {rate!r}"
        ) from None


def _require_paths(paths: list[str]) -> None:
    for path in paths:
        if not _absolute(path.partition("::")[0]).exists():
            raise SettingsError(f"{path} does not exist")


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


def _require_writable(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise SettingsError(f"output {output} exists; --overwrite replaces it")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise SettingsError(f"output folder {output.parent} is missing or not writable")


class _output_errors:  # noqa: N801 (used like a function)
    """Turn a failing write into an `ArchiveError`, leaving no half file."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            self._output.unlink(missing_ok=True)
            raise ArchiveError(f"{self._output} cannot be written: {error.strerror}") from error


def _exit_on_failure(result: SessionResult) -> None:
    if result.exit_code:
        _say(result.message)
        raise typer.Exit(result.exit_code)


def _exit_on_loss(report: dict[str, Any]) -> None:
    from hrtem_stream.pipeline import EXIT_LOST

    if report["lost"]:
        raise typer.Exit(EXIT_LOST)


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, default=str))


def _say(text: str) -> None:
    print(f"hrtem-stream: {text}", file=sys.stderr)


def _exit_code(error: HrtemError) -> int:
    if isinstance(error, SettingsError):
        return 2
    return 4 if isinstance(error, FeedError) else 1
