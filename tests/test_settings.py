"""Settings: precedence, unknown keys, values out of range, sockets that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrtem_stream.errors import SettingsError
from hrtem_stream.settings import Settings, known_keys, load_settings, origins, settings_from_json

CONFIG = Path(__file__).parents[1] / "config"


def _file(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_flag_goes_before_environment_before_file_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file(tmp_path, "[segment]\nworkers = 2\nbatch_frames = 3\n[ingest]\nwindow = 17\n")
    monkeypatch.setenv("HRTEM_SEGMENT__WORKERS", "4")
    monkeypatch.setenv("HRTEM_INGEST__WINDOW", "18")
    settings = load_settings(path, {"ingest.window": 19})
    assert settings.ingest.window == 19
    assert settings.segment.workers == 4
    assert settings.segment.batch_frames == 3
    assert settings.sort.flush_frames == 32


def test_each_value_tells_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file(tmp_path, "[segment]\nbatch_frames = 3\n")
    monkeypatch.setenv("HRTEM_SEGMENT__WORKERS", "4")
    found = origins(path, {"ingest.window": 19})
    assert found["ingest.window"] == "flag"
    assert found["segment.workers"] == "environment HRTEM_SEGMENT__WORKERS"
    assert found["segment.batch_frames"] == f"file {path}"
    assert found["sort.flush_s"] == "default"


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("[segment]\nworker = 2\n", "segment.workers"),
        ("[segmnt]\nworkers = 2\n", "segment"),
        ("[feed.native]\nend_point = 'x'\n", "feed.native.endpoint"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(tmp_path: Path, text: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=f"did you mean {nearest}"):
        load_settings(_file(tmp_path, text))


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRTEM_SEGMENT__WORKER", "2")
    with pytest.raises(SettingsError, match=r"HRTEM_SEGMENT__WORKER.*segment\.workers"):
        load_settings()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"segment.workers": 0}, "greater than or equal to 1, got 0"),
        ({"segment.workers": "many"}, "valid integer"),
        ({"feed.replay.rate": -3.0}, "frames per second"),
        ({"archive.codec": "gzip"}, "deflate"),
        ({"endpoints.frames": "udp://x"}, "ipc:// or tcp://"),
        ({"session.name": "../up"}, "pattern"),
    ],
)
def test_a_value_out_of_its_range_is_named_with_the_rule(
    flags: dict[str, object], words: str
) -> None:
    key = next(iter(flags))
    with pytest.raises(SettingsError) as error:
        load_settings(None, flags)
    assert key in str(error.value)
    assert words in str(error.value)


def test_an_ipc_path_too_long_for_a_socket_is_refused_with_its_length() -> None:
    with pytest.raises(SettingsError, match="at most 107 bytes"):
        load_settings(None, {"session.runtime_directory": "/tmp/" + "x" * 120})


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_settings(_file(tmp_path, "[[["))


def test_settings_survive_json_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_settings(None, {"segment.workers": 3, "feed.replay.paths": ["a", "b"]})
    monkeypatch.setenv("HRTEM_SEGMENT__WORKERS", "9")
    again = settings_from_json(settings.model_dump_json())
    assert again.model_dump() == settings.model_dump()


@pytest.mark.parametrize("name", ["laptop.toml", "live.toml"])
def test_the_shipped_settings_are_valid(name: str) -> None:
    load_settings(CONFIG / name)


def test_no_frame_waits_for_others_unless_it_is_asked_for() -> None:
    assert Settings().segment.batch_wait_s == 0.0


def test_every_setting_has_a_docstring() -> None:
    from hrtem_stream.settings import Settings

    for table in Settings.model_fields.values():
        for name, field in table.annotation.model_fields.items():  # type: ignore[union-attr]
            is_table = hasattr(field.annotation, "model_fields")
            assert is_table or field.description, name
    assert "feed.native.endpoint" in known_keys()


@pytest.mark.parametrize(
    ("line", "kind", "endpoint"),
    [
        ("dectris", "dectris", "tcp://127.0.0.1:31001"),
        ("merlin tcp://merlin:6342", "merlin", "tcp://merlin:6342"),
        ("direct_electron  tcp://de:13240 ", "direct_electron", "tcp://de:13240"),
    ],
)
def test_a_feed_may_be_one_line(tmp_path: Path, line: str, kind: str, endpoint: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'feed = "{line}"\n')
    feed = load_settings(path).feed
    assert feed.kind == kind
    assert getattr(feed, kind).endpoint == endpoint
    assert feed.is_live
    assert origins(path)["feed.kind"] == f"file {path}"


def test_a_folder_may_be_one_line() -> None:
    feed = load_settings(None, {"feed": "folder /data/camera"}).feed
    assert (feed.kind, feed.folder.path) == ("folder", "/data/camera")


@pytest.mark.parametrize(
    ("feed", "waits"),
    [("folder /data/camera", True), ("dectris tcp://a:1", False), ("merlin tcp://a:1", False)],
)
def test_only_files_wait_while_saving_is_paused(feed: str, waits: bool) -> None:
    assert load_settings(None, {"feed": feed}).feed.waits_when_paused is waits
    assert load_settings(None, {"feed.kind": "simulated"}).feed.waits_when_paused


@pytest.mark.parametrize("line", ["camera", "simulated tcp://a:1", ""])
def test_a_line_that_names_no_feed_is_refused(line: str) -> None:
    with pytest.raises(SettingsError, match="feed"):
        load_settings(None, {"feed": line})


def test_an_acquisition_that_we_start_is_no_live_feed() -> None:
    flags = {"feed.kind": "direct_electron", "feed.direct_electron.start": True}
    assert not load_settings(None, flags).feed.is_live


def test_the_control_unit_is_asked_over_the_web() -> None:
    with pytest.raises(SettingsError, match="must begin with http"):
        load_settings(None, {"feed.dectris.control": "tcp://detector"})


def test_a_flag_is_laid_over_a_feed_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('feed = "dectris tcp://detector:31001"\n')
    feed = load_settings(path, {"feed.dectris.channel": "threshold_1"}).feed
    assert (feed.kind, feed.dectris.endpoint) == ("dectris", "tcp://detector:31001")
    assert feed.dectris.channel == "threshold_1"


def test_a_flag_may_name_the_feed_and_another_one_set_it_up() -> None:
    feed = load_settings(None, {"feed": "merlin tcp://m:1", "feed.merlin.max_frame_mib": 5}).feed
    assert (feed.kind, feed.merlin.endpoint, feed.merlin.max_frame_mib) == (
        "merlin",
        "tcp://m:1",
        5,
    )


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"archive.directory": "here"}, "the archive folder"),
        ({"archive.directory": "here/deeper/runs"}, "the archive folder"),
        ({"archive.directory": "there/../here"}, "the archive folder"),
        ({"archive.file": "here/out.nxs"}, "the archive folder"),
        ({"frame_log.path": "here/frames.log"}, "the folder of frame_log.path"),
        ({"feed": "folder here/camera"}, "feed.folder.path"),
    ],
)
def test_the_runtime_directory_must_hold_nothing_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, str], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=f"{what} must not lie in it"):
        load_settings(None, {"session.runtime_directory": str(tmp_path / "here"), **flags})


def test_the_runtime_directory_may_lie_in_the_archive_folder(tmp_path: Path) -> None:
    runtime = str(tmp_path / "runtime")
    flags = {"session.runtime_directory": runtime, "archive.directory": str(tmp_path)}
    assert str(load_settings(None, flags).runtime_directory) == runtime
