"""Commands on settings and machine: config show, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hrtem_stream.cli.console import (
    parse_values,
    print_json,
    settings_of,
)
from hrtem_stream.cli.options import (
    Json,
    SetOption,
)


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

    flags = parse_values(settings_values)
    values = dict(flatten(settings_of(config, flags).model_dump(mode="json")))
    found = origins(config, flags) if origin else {}
    if as_json:
        both = {
            key: {"value": value, "origin": found[key]} for key, value in values.items() if found
        }
        print_json(both or values)
        return
    for key, value in values.items():
        note = f"   # {found[key]}" if origin else ""
        print(f"{key} = {json.dumps(value)}{note}")


def config_copy(
    folder: Annotated[Path, typer.Argument(help="Where to; files there are not replaced.")],
) -> None:
    """Copy the examples: settings, Prometheus, Grafana, systemd, Slurm.

    Example: hrtem-stream config copy my-settings
    """
    import shutil

    from hrtem_stream.errors import SettingsError

    package = Path(__file__).parents[1]
    source = next((p for p in (package / "config", package.parent / "config") if p.is_dir()), None)
    if source is None:
        raise SettingsError(f"the examples are missing in {package}; install the package again")
    for example in sorted(path for path in source.rglob("*") if path.is_file()):
        target = folder / example.relative_to(source)
        if target.exists():
            print(f"{target} exists and is left as it is")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(example, target)
        print(target)


def doctor(
    config: Annotated[Path | None, typer.Argument(help="Settings file (TOML).")] = None,
    feed: Annotated[
        bool, typer.Option("--feed", help="Look at the feed instead; what it sends is taken.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0.1, help="For the first frame, in s.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="To measure the rate for.")] = 3.0,
    settings_values: SetOption = None,
    as_json: Json = False,
) -> None:
    """Check this machine and the settings before a session, or with --feed the detector.

    Frames that --feed takes are gone: not while a session or another receiver is attached. Exit
    code 4: no frame came.
    """
    from hrtem_stream.cli.doctor import examine
    from hrtem_stream.cli.feed_probe import examine_feed
    from hrtem_stream.pipeline import EXIT_FAILURE, EXIT_FEED

    settings = settings_of(config, parse_values(settings_values))
    findings = examine_feed(settings, wait_s=wait, listen_s=seconds) if feed else examine(settings)
    is_ok = all(finding.is_ok for finding in findings)
    if as_json:
        print_json(
            {
                "ok": is_ok,
                "checks": {f.check: {"ok": f.is_ok, "finding": f.text} for f in findings},
            }
        )
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.is_ok else 'BAD '} {finding.check:<16} {finding.text}")
    if not is_ok:
        is_unreachable = feed and not findings[0].is_ok
        raise typer.Exit(EXIT_FEED if is_unreachable else EXIT_FAILURE)
