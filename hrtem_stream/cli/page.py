"""Command page: the live page of a session, or of a finished archive."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from hrtem_stream.cli.console import parse_values, settings_of
from hrtem_stream.cli.options import Insecure, SetOption
from hrtem_stream.errors import SettingsError


def page(
    target: Annotated[
        Path, typer.Argument(help="Settings file (TOML) of a session, or an archive, *.nxs.")
    ],
    host: Annotated[
        str | None, typer.Option(help="Interface; off loopback a token is asked for.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0: any.")] = None,
    settings_values: SetOption = None,
    insecure: Insecure = False,
) -> None:
    """Serve the page of a session that runs or will, or of an archive, until Ctrl-C."""
    if find_spec("nicegui") is None:
        raise SettingsError("the page needs nicegui: pip install 'hrtem-stream[web]'")
    flags = {
        "page.host": host,
        "page.port": port,
        **({"security.insecure": "everything"} if insecure else {}),
        **parse_values(settings_values),
    }
    from hrtem_stream.web.__main__ import announce, serve_session

    if target.suffix == ".toml":
        serve_session(settings_of(target, flags))
        return
    from hrtem_stream.web.app import serve
    from hrtem_stream.web.watch import Watch

    settings = settings_of(None, flags)
    serve(settings, Watch.of_archive(settings, target.absolute()), announce=announce)
