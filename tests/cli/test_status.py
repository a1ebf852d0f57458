"""status: what it tells of sessions that run, that died, and that came to their end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hrtem_stream.cli import app
from hrtem_stream.cli.status import _Onlookers
from hrtem_stream.pipeline.names import session_lock
from hrtem_stream.runtime.process import is_supervised, session_lock_path
from hrtem_stream.settings import Settings, load_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "session.toml"
    path.write_text(f"""
        [session]
        name = "one"
        runtime_directory = "{tmp_path / "runtime"}"
        [frame_log]
        path = "{tmp_path / "frames.log"}"
        [archive]
        directory = "{tmp_path}"
        """)
    return path


def _began(config: Path) -> Settings:
    settings = load_settings(config, {})
    settings.runtime_directory.mkdir()
    content = settings.model_dump_json()
    (settings.runtime_directory / "settings.json").write_text(content)
    settings.frame_log_path.write_bytes(b"")
    return settings


def _status(config: Path) -> Result:
    return CliRunner().invoke(app, ["status", str(config), "--json"], catch_exceptions=False)


def _dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_running_session_is_told_of(config: Path) -> None:
    settings = _began(config)
    with session_lock(settings):
        assert session_lock_path(settings.runtime_directory).read_text() == str(os.getpid())
        result = _status(config)
    (session,) = json.loads(result.stdout)["sessions"]
    assert (session["session"], session["is_running"], session["level"]) == ("one", True, "idle")
    assert result.exit_code == 0


def test_a_dead_session_is_red_and_says_how_to_take_it_up(config: Path) -> None:
    settings = _began(config)
    session_lock_path(settings.runtime_directory).write_text(str(_dead_pid()))
    result = _status(config)
    (session,) = json.loads(result.stdout)["sessions"]
    assert (session["is_running"], session["level"]) == (False, "red")
    assert "recover" in session["stages"][1]["sentence"]
    assert result.exit_code == 1


def test_a_session_that_left_nothing_to_take_up_is_not_told_of(config: Path) -> None:
    settings = _began(config)
    settings.frame_log_path.unlink()
    assert not is_supervised(settings.runtime_directory)
    result = _status(config)
    assert json.loads(result.stdout) == {"sessions": []}
    assert result.exit_code == 1


def test_a_second_session_does_not_wipe_out_who_holds_the_lock(config: Path) -> None:
    settings = _began(config)
    with session_lock(settings):
        with pytest.raises(Exception, match="runs already"), session_lock(settings):
            pass
        assert is_supervised(settings.runtime_directory)
        assert session_lock_path(settings.runtime_directory).read_text() == str(os.getpid())


def test_stages_started_one_by_one_are_supervised_by_others(tmp_path: Path) -> None:
    assert is_supervised(tmp_path / "runtime")


def test_a_watch_takes_up_sessions_that_begin_and_lets_go_of_those_that_end(config: Path) -> None:
    onlookers = _Onlookers(config)
    assert onlookers.look() == []
    settings = _began(config)
    with session_lock(settings):
        assert [session["session"] for session in onlookers.look()] == ["one"]
    (settings.runtime_directory / "settings.json").unlink()
    assert onlookers.look() == []
    onlookers.close()
