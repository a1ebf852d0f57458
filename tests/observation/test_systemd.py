"""The unit for systemd: what it starts exists, and it waits long enough."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hrtem_stream.cli import app
from hrtem_stream.settings import Settings

UNIT = Path(__file__).parents[2] / "config" / "systemd" / "hrtem-stream@.service"


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def test_the_unit_stops_by_interrupt_and_waits_for_the_drain(
    unit: configparser.ConfigParser,
) -> None:
    service = unit["Service"]
    assert (service["Type"], service["KillSignal"], service["KillMode"]) == (
        "notify", "SIGINT", "mixed",
    )  # fmt: skip
    assert int(service["TimeoutStopSec"]) > Settings().session.drain_s
    assert int(service["TimeoutStartSec"]) > Settings().session.start_up_s


def test_the_unit_starts_a_command_that_there_is(unit: configparser.ConfigParser) -> None:
    _, command, *options = unit["Service"]["ExecStart"].split()
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    for option in options:
        if option.startswith("--"):
            assert option in shown


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "hrtem-stream"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text().replace("/opt/hrtem-stream/.venv/bin/hrtem-stream", str(program))
    unit = tmp_path / "hrtem-stream@x.service"
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "hrtem" in line and "Unknown" in line]
    assert ours == []
