"""The command that torments a session and audits what it archived: drill."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hrtem_stream.cli.console import parse_values, print_json, say, settings_of
from hrtem_stream.cli.options import Json, SetOption
from hrtem_stream.errors import SettingsError


def drill(
    config: Annotated[
        Path | None, typer.Argument(help="Settings file (TOML); its feed is replaced.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="About a minute, as in CI.")] = False,
    minutes: Annotated[float | None, typer.Option(min=1, help="Length of the drill.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the faults.")] = 0,
    settings_values: SetOption = None,
    as_json: Json = False,
) -> None:
    """Kill, stop, slow and starve a session while it works, and account for every frame.

    Exit 0 only if nothing is unaccounted for, duplicated or changed, and nothing lost but what a
    feed that cannot wait loses, or what lay in the socket of an `ingest` that was killed.
    Example: hrtem-stream drill --minutes 30 --json
    """
    from hrtem_stream.simulators.drill import Drill, long_plan, quick_plan

    if quick and minutes is not None:
        raise SettingsError("--quick and --minutes exclude each other")
    defaults = {} if config else {"segment.segmenter": "bragg", "segment.workers": 2}
    settings = settings_of(config, {**defaults, **parse_values(settings_values)})
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # leaves nothing behind
    plan = long_plan(minutes, seed) if minutes is not None else quick_plan(seed)
    report = Drill(settings, plan, say=say).run()
    if as_json:
        print_json(report)
    else:
        print_drill(report)
    if not report["ok"]:
        raise typer.Exit(1)


def print_drill(report: dict[str, Any]) -> None:
    """Print the report for people."""
    for kind, number in report["faults"].items():
        print(f"{kind:<28} {number:6d}")
    print(f"frames sent {report['sent']} = archived {report['archived']} + lost {report['lost']}")
    for reason, number in report["lost_by_reason"].items():
        print(f"  lost: {reason:<50} {number:6d}")
    for key in ("unaccounted", "duplicated", "mismatched", "lost_without_cause", "broken_archives"):
        print(f"{key:<28} {report[key]:6d}")
    print(f"recovery    {_seconds(report['recovery_s'])}")
    for name, rate in report["frames_per_s"].items():
        latency = _seconds(report["latency_s"][name])
        print(f"{name.replace('_', ' '):<16} {rate:.1f} frames/s, latency {latency}")
    for text in (*report["findings"], *report["failures"]):
        print(f"FOUND {text}")
    for kind, reason in report["left_out"].items():
        print(f"left out: {kind}: {reason}")
    for folder in report["evidence"]:
        print(f"kept for a look: {folder}")


def _seconds(times: dict[str, float | None]) -> str:
    if times["p50"] is None or times["p99"] is None:
        return "not measured"
    return f"p50 {times['p50']:.2f} s, p99 {times['p99']:.2f} s"
