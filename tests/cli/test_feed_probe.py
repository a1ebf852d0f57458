"""doctor --feed: what cannot even be tried."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hrtem_stream.cli import app
from hrtem_stream.errors import SettingsError


def test_a_missing_extra_is_a_matter_of_settings_and_not_of_the_feed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dectris.compression", None)
    config = tmp_path / "feed.toml"
    config.write_text('feed = "dectris tcp://127.0.0.1:31001"\n')
    done = CliRunner().invoke(app, ["doctor", "--feed", str(config)])
    assert isinstance(done.exception, SettingsError)  # for which `main` exits with 2
    assert "pip install 'hrtem-stream[dectris]'" in str(done.exception)
