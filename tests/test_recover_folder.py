"""What `recover` of a folder takes in hand, and what it leaves to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.messages import FeedFrame, SeriesEnd, SeriesStart
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


def _archive(settings: Settings, name: str, log_id: int) -> ArchiveWriter:
    settings.archive_directory.mkdir(exist_ok=True)
    return ArchiveWriter.create(
        settings.archive_directory / f"{name}.nxs",
        start=SeriesStart(series=name, series_id=name), shape=(128, 128), dtype="<u2",
        provenance={"settings": settings.model_dump_json()}, codec="none", log_id=log_id,
    )  # fmt: skip


def test_the_log_of_a_later_session_of_the_name_is_left_to_it(tmp_path: Path) -> None:
    yesterday, today = _settings(tmp_path, "yesterday"), _settings(tmp_path, "today")
    _archive(yesterday, "old", log_id=7).close(SeriesEnd())
    _archive(yesterday, "cut-off", log_id=7).abandon()
    _killed_session(today)
    recovery = recover_folder(yesterday.archive_directory)
    assert [Path(archive.archive).name for archive in recovery.archives] == ["cut-off.nxs"]
    assert recovery.logs == []
    assert today.frame_log_path.exists()
    assert (today.runtime_directory / "settings.json").exists()


def test_a_log_is_known_by_the_identity_in_an_archive(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "runs")
    _archive(settings, "other", log_id=7).close(SeriesEnd())
    _archive(settings, "own", log_id=_killed_session(settings)).close(SeriesEnd())
    recovery = recover_folder(settings.archive_directory)
    assert [log.frames for log in recovery.logs] == [N_FRAMES]
    assert not settings.frame_log_path.exists()


def test_an_archive_whose_log_is_not_emptied_stays_unfinished(tmp_path: Path) -> None:
    """More of it is in the log of its own session, which is not the one that is recovered."""
    own = _settings(tmp_path, "runs")
    _archive(own, "own", log_id=_killed_session(own)).abandon()
    other = own.model_copy(
        update={
            "frame_log": own.frame_log.model_copy(update={"path": str(tmp_path / "other.log")}),
            "session": own.session.model_copy(update={"runtime_directory": str(tmp_path / "o")}),
        }
    )
    recovery = recover_folder(own.archive_directory, settings=other)
    assert (own.archive_directory / "own.nxs.part").exists()
    assert "frames.log" in recovery.problems[0]
    assert own.frame_log_path.exists()


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
