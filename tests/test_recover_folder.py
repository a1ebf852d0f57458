"""What `recover` of a folder takes in hand, and what it leaves to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hrtem_stream.messages import FeedFrame, SeriesStart
from hrtem_stream.pipeline.recovery import recover_folder
from hrtem_stream.settings import Settings
from hrtem_stream.stages.account import SeriesAccount
from hrtem_stream.stages.ingest import _KINDS
from hrtem_stream.transport.frame_log import FrameLog
from hrtem_stream.transport.wire import encode_record

N_FRAMES = 3


def _settings(root: Path, folder: str, **session: Any) -> Settings:
    """Give the settings of a session: always of one name, with an archive folder of its own."""
    values: dict[str, Any] = {
        "session": {"runtime_directory": str(root / "runtime"), **session},
        "archive": {"directory": str(root / folder), "codec": "none"},
        "frame_log": {"path": str(root / "frames.log")},
        "segment": {"segmenter": "bragg"},
    }
    return Settings(**values)


def _killed_session(settings: Settings) -> int:
    """Leave what a session leaves that was killed before it wrote an archive; give its log's id."""
    rng = np.random.default_rng(0)
    log = FrameLog.create(settings.frame_log_path, 4 << 20)
    account = SeriesAccount(default_series="s", feed="native", late_frames=16)
    entries = account.begin(SeriesStart(series="s", feed="native"), 1)
    for sequence in range(N_FRAMES):
        pixels = rng.poisson(200, (128, 128)).astype("<u2")
        entries += account.take(FeedFrame(sequence=sequence, pixels=pixels), 1)
    for entry in entries:
        log.append(
            _KINDS[type(entry.record)], encode_record(entry.record), entry.account, entry.pixels
        )
    log.close()
    settings.runtime_directory.mkdir()
    text = settings.model_dump_json()
    (settings.runtime_directory / "settings.json").write_text(text, encoding="utf-8")
    return log.log_id


def test_a_folder_that_is_not_a_runtime_directory_is_not_removed(tmp_path: Path) -> None:
    """The settings of an archive come from elsewhere: a folder of their name may be another's."""
    folder, home = tmp_path / "moved", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    recover_folder(folder, settings=_settings(tmp_path, "runs", runtime_directory=str(home)))
    assert (home / "thesis.tex").exists()
    recover_folder(folder, settings=_settings(tmp_path, "runs", runtime_directory=str(folder)))
    assert folder.exists()


def test_the_folder_of_a_session_goes_with_its_log(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "runs")
    settings.archive_directory.mkdir()
    _killed_session(settings)
    recovery = recover_folder(settings.archive_directory, settings=settings)
    assert [archive.archived for archive in recovery.archives] == [N_FRAMES]
    assert not settings.runtime_directory.exists()
    assert not settings.frame_log_path.exists()
