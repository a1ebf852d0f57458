"""The command `hrtem-stream`.

Exit codes: 0 ok, 1 failure, 2 usage or settings, 3 finished with frames lost, 4 feed unreachable
or not understood, 5 verify found a difference. With `--json`, one object goes to stdout and all
else to stderr. Everything heavy is imported inside the command that needs it.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from hrtem_stream.cli.archives import info, recover, verify
from hrtem_stream.cli.console import print_failure
from hrtem_stream.cli.drill import drill
from hrtem_stream.cli.export import export
from hrtem_stream.cli.export import report as report_series
from hrtem_stream.cli.frames import evaluate, segment
from hrtem_stream.cli.keys import keys_app
from hrtem_stream.cli.machine import config_copy, config_show, doctor
from hrtem_stream.cli.page import page
from hrtem_stream.cli.reprocess import join, reprocess
from hrtem_stream.cli.sessions import demo, replay, run, stage
from hrtem_stream.cli.simulate import simulate
from hrtem_stream.cli.status import status
from hrtem_stream.cli.structure import analyse, rank
from hrtem_stream.cli.training import crossvalidate, gridsearch, train
from hrtem_stream.cli.tune import tune
from hrtem_stream.errors import FeedError, HrtemError, SettingsError
from hrtem_stream.version import __version__

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Segments, ranks and archives HRTEM frames of graphene while they come.",
)  # fmt: skip
COMMANDS = (
    demo, run, replay, segment, evaluate, info, verify, recover, simulate, stage, doctor,
    tune, drill, train, crossvalidate, gridsearch, page, status, report_series, export, analyse,
    rank, reprocess, join,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
config_app = typer.Typer(no_args_is_help=True, help="The settings.")
config_app.command("show")(config_show)
config_app.command("copy")(config_copy)
app.add_typer(config_app, name="config")
app.add_typer(keys_app, name="keys")


def main() -> NoReturn:
    """Run the command and exit with its code."""
    try:
        app(standalone_mode=True)
    except HrtemError as error:
        print(f"hrtem-stream: {error}", file=sys.stderr)
        code = _exit_code(error)
        if "--json" in sys.argv:
            print_failure(str(error), code)
        sys.exit(code)
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


def _exit_code(error: HrtemError) -> int:
    if isinstance(error, SettingsError):
        return 2
    return 4 if isinstance(error, FeedError) else 1
