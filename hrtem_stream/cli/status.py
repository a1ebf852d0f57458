"""Command status: how the sessions of this user do, for a terminal."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hrtem_stream.cli.console import print_json, settings_of
from hrtem_stream.cli.options import Json
from hrtem_stream.errors import SettingsError
from hrtem_stream.runtime.process import is_supervised

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hrtem_stream.settings import Settings

WATCH_INTERVAL_S = 1.0
LOOKS_S = 1.2
"""A rate needs two looks."""
COLOURS = {"ok": "green", "idle": "dim", "amber": "yellow", "red": "bold red"}


def status(
    config: Annotated[
        Path | None, typer.Argument(help="Settings file of one session; none: all that run here.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until Ctrl-C; with --json, an object a line.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell how sessions do: stages with rates and queues, frames archived and lost, disk left.

    Exit code 1 when a session needs a person, or when none runs. A session that died is told of
    as long as its frame log lies there, to be taken up by `run` or `recover`.

        hrtem-stream status --watch
        hrtem-stream status config/live.toml --json
    """
    with closing(_Onlookers(config)) as onlookers:
        if watch:
            (_print_on if as_json else _watch)(onlookers)
            return
        if onlookers.look():
            time.sleep(LOOKS_S)
        found = onlookers.look()
    if as_json:
        print_json({"sessions": found})
    else:
        from rich.console import Console

        for session in found:
            Console().print(_table(session))
        if not found:
            print("no session runs")
    if not found or any(session["level"] == "red" for session in found):
        raise typer.Exit(1)


class _Onlookers:
    """Look at the sessions that run at the moment, which come and go."""

    def __init__(self, config: Path | None) -> None:
        self._config = config
        self._known: dict[Path, _Onlooker] = {}

    def look(self) -> list[dict[str, Any]]:
        """Return all sessions of now as plain values for JSON."""
        present = {settings.runtime_directory: settings for settings in _sessions(self._config)}
        for place, onlooker in list(self._known.items()):
            if present.get(place) != onlooker.settings:
                self._known.pop(place).close()
        for place, settings in present.items():
            if place not in self._known:
                self._known[place] = _Onlooker(settings)
        return [self._known[place].look() for place in present]

    def close(self) -> None:
        """Let go of all."""
        for onlooker in self._known.values():
            onlooker.close()


class _Onlooker:
    """Looks at one session from outside."""

    def __init__(self, settings: Settings) -> None:
        from hrtem_stream.pipeline.security import metrics_token
        from hrtem_stream.transport.guard import Guard
        from hrtem_stream.transport.sockets import Subscriber, make_context
        from hrtem_stream.transport.summaries import STATIONS_TOPIC, STATUS_TOPIC
        from hrtem_stream.web.watch import Watch

        is_open = settings.security.insecure == "everything"
        self.settings = settings
        self._context = make_context()
        self._hearing = Subscriber(
            self._context, settings.endpoint("summaries"), bind=False,
            topics=[STATUS_TOPIC, STATIONS_TOPIC], high_water=16,
            guard=Guard(settings.security_directory, is_open=is_open),
        )  # fmt: skip
        self._token = metrics_token(settings)
        self._watch = Watch(settings, hearing=self._hearing, metrics_token=self._token)

    def look(self) -> dict[str, Any]:
        """Return the session as plain values for JSON."""
        while (parts := self._hearing.receive()) is not None:
            self._watch.hear(parts)
        self._watch.look()
        gauges, view = self._watch.gauges, self._watch.view
        said = view.status if view is not None else None
        levels = [state.level for state in gauges.states]
        worst = next((level for level in ("red", "amber", "ok") if level in levels), "idle")
        return {
            "session": self.settings.session.name,
            "is_running": is_supervised(self.settings.runtime_directory),
            "level": worst,
            "series": said.series if said else None,
            "archive": said.archive if said else None,
            "n_expected": gauges.n_expected,
            "archived": said.n_archived if said else None,
            "lost": said.n_lost if said else None,
            "frames_per_s": _rounded(gauges.rate),
            "frame_log_fill": _rounded(gauges.log_fill),
            "disk_free_bytes": gauges.free_bytes,
            "disk_full_in_s": _rounded(gauges.full_in_s),
            "paused_s": _rounded(gauges.paused_s),
            "stages": [
                asdict(state) | ({"method": self._method()} if state.name == "segment" else {})
                for state in gauges.states
            ],
            "elsewhere": [asdict(station) for station in gauges.elsewhere],
        }

    def _method(self) -> str:
        """Return what most frames were segmented by, from the metrics."""
        from hrtem_stream.runtime.readings import read_process

        settings, counts = self.settings, Counter[str]()
        for index in range(settings.segment.workers):
            heart = settings.runtime_directory / f"segment-{index}.heart"
            reading = read_process(heart, host=settings.metrics.host, token=self._token)
            counts.update(
                {k: int(n) for k, n in reading.labelled.get("frames_segmented", {}).items()}
            )
        return counts.most_common(1)[0][0] if counts else ""

    def close(self) -> None:
        """Let go."""
        self._hearing.close()
        self._context.term()


def _sessions(config: Path | None) -> list[Settings]:
    """Return the settings of one session, or of all whose folders lie where they do by default."""
    from hrtem_stream.settings import settings_from_json

    if config is not None:
        settings = settings_of(config, {})
        is_there = (settings.runtime_directory / "settings.json").exists()
        return [settings] if is_there and _is_of_interest(settings) else []
    found = []
    for path in sorted(Path(f"/tmp/hrtem-{os.getuid()}").glob("*/settings.json")):
        try:
            found.append(settings_from_json(path.read_text(encoding="utf-8")))
        except (OSError, SettingsError):
            continue
    return [settings for settings in found if _is_of_interest(settings)]


def _is_of_interest(settings: Settings) -> bool:
    """Tell whether a session runs, or left something to be taken up."""
    return is_supervised(settings.runtime_directory) or settings.frame_log_path.exists()


def _print_on(onlookers: _Onlookers) -> None:
    with suppress(KeyboardInterrupt):
        while True:
            print_json({"sessions": onlookers.look()})
            sys.stdout.flush()
            time.sleep(WATCH_INTERVAL_S)


def _watch(onlookers: _Onlookers) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(refresh_per_second=2) as live, suppress(KeyboardInterrupt):
        while True:
            tables = [_table(session) for session in onlookers.look()] or [Text("no session runs")]
            live.update(Group(*tables, Text("Ctrl-C ends the watch, not the session")))
            time.sleep(WATCH_INTERVAL_S)


def _table(session: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    of_n = f" of {session['n_expected']}" if session["n_expected"] else ""
    title = (
        f"{session['session']}: series {session['series'] or '-'}, "
        f"{_said(session['archived'])}{of_n} archived, {_said(session['lost'])} lost, "
        f"{_said(session['frames_per_s'])} frames/s, "
        f"log {_percent(session['frame_log_fill'])} full, "
        f"{_gigabytes(session['disk_free_bytes'])} of disk left"
    )
    table = Table(title=title, title_justify="left")
    for column in ("stage", "state", "frames/s", "queue", "lost", "method"):
        table.add_column(column, justify="left" if column in ("stage", "state") else "right")
    sentences = []
    for state in session["stages"]:
        colour = COLOURS[state["level"]]
        table.add_row(
            state["name"], Text(state["level"], colour), _said(_rounded(state["rate"])),
            _said(state["queue"]), _said(state["lost"]), state["method"],
        )  # fmt: skip
        if state["sentence"]:
            sentences.append(Text(f"{state['name']}: {state['sentence']}", colour))
    return Group(table, *_elsewhere(session["elsewhere"]), *sentences)


def _elsewhere(processes: list[dict[str, Any]]) -> list[str]:
    """Tell of the processes that run on other hosts."""
    return [
        f"{process['stage']} {process['index']} on {process['host']}: {process['n_done']} frames, "
        + ("leaving" if process["is_leaving"] else f"heard {process['age_s']:.1f} s ago")
        for process in processes
    ]


def _said(value: object) -> str:
    return "-" if value is None else str(value)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _gigabytes(n_bytes: int | None) -> str:
    return "-" if n_bytes is None else f"{n_bytes / 1e9:.0f} GB"


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 3)
