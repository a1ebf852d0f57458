"""Watching: what is heard, what is read again, and what is kept of what people say."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hrtem_stream.archive.marks import Mark, Marks, marks_path, read_marks, write_marks
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.errors import ArchiveError
from hrtem_stream.runtime.pause import paused_since
from hrtem_stream.settings import Settings, load_settings
from hrtem_stream.transport.summaries import encode_status, encode_summary
from hrtem_stream.web.images import Images
from hrtem_stream.web.watch import Watch
from tests.archive.series import archive_of
from tests.web.summaries import status, summary


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    return load_settings(None, {"session.runtime_directory": str(runtime)})


class Nothing:
    def wait(self, timeout_s: float) -> bool:
        time.sleep(timeout_s)
        return False

    def receive(self) -> None:
        return None


@pytest.fixture
def watch(settings: Settings) -> Watch:
    return Watch(settings, hearing=Nothing())


def test_what_summaries_missed_is_read_from_the_archive(watch: Watch, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "s.nxs", 30)
    known = {"series": "island", "series_id": "id-1"}
    watch.hear(encode_status(status(archive=str(path), n_archived=30, **known)))
    with open_archive(path) as archive:
        fractions, ranking = archive.score("graphene_fraction"), archive.ranking()
    for row in (3, 29):
        watch.hear(encode_summary(summary(row, float(fractions[row]), **known)))
    watch.catch_up()
    assert watch.view is not None
    assert watch.view.is_complete
    assert watch.view.best(30) == ranking.tolist()


def test_stars_and_notes_survive_the_page(watch: Watch, settings: Settings, tmp_path: Path) -> None:
    told = encode_status(status(archive=str(tmp_path / "s.nxs")))
    watch.hear(told)
    watch.change_mark(4, star=True)
    watch.change_mark(4, note="a rotated grain")
    watch.set_threshold(0.25)
    again = Watch(settings, hearing=Nothing())
    again.hear(told)
    assert again.marks.of(4) == Mark(star=True, note="a rotated grain")
    assert again.marks.threshold == 0.25


def test_marks_of_a_series_that_was_overwritten_are_not_taken(watch: Watch, tmp_path: Path) -> None:
    write_marks(tmp_path / "s.marks.json", Marks(series_id="before", threshold=0.5))
    watch.hear(encode_status(status(archive=str(tmp_path / "s.nxs"))))
    assert watch.marks == Marks(series_id="id")


def test_what_cannot_be_kept_is_not_shown(watch: Watch) -> None:
    watch.hear(encode_status(status(archive="/nowhere/at/all/s.nxs")))
    with pytest.raises(OSError, match="nowhere"):
        watch.change_mark(1, star=True)
    assert watch.marks.of(1) == Mark()


def test_another_series_takes_the_place_of_the_one_before(watch: Watch) -> None:
    watch.hear(encode_summary(summary(0)))
    watch.hear(encode_summary(summary(0, series="t", series_id="next")))
    watch.hear(encode_summary(summary(1)))  # late
    assert watch.view is not None
    assert (watch.view.series, watch.view.n_rows) == ("t", 1)


@pytest.mark.parametrize("parts", [[], [b"frame:"], [b"frame:", b"x", b"", b"", b""], [b"series:"],
                                   [b"series:", b"\xc1"], [b"other"]])  # fmt: skip
def test_a_message_that_is_not_understood_is_dropped(watch: Watch, parts: list[bytes]) -> None:
    watch.hear(parts)
    assert watch.view is None


def test_a_session_without_processes_can_be_looked_at(watch: Watch) -> None:
    watch.look()
    assert [state.level for state in watch.gauges.states] == ["idle"] * 5
    assert not watch.gauges.can_pause


def test_a_dead_session_is_told_with_its_frame_log_and_without(tmp_path: Path) -> None:
    runtime, log = tmp_path / "runtime", tmp_path / "frames.log"
    runtime.mkdir()
    (runtime / "settings.json").touch()  # it was supervised, and nobody holds its lock
    values = {"session.runtime_directory": str(runtime), "frame_log.path": str(log)}
    watch = Watch(load_settings(None, values), hearing=Nothing())
    watch.look()
    assert "frame log is gone" in watch.gauges.states[1].sentence
    log.touch()
    watch.look()
    assert "reached the frame log is safe" in watch.gauges.states[1].sentence


def test_the_pause_is_the_switch_that_ingest_reads(watch: Watch, settings: Settings) -> None:
    watch.pause_saving()
    assert paused_since(settings.runtime_directory) is not None
    assert watch.gauges.paused_s is not None
    watch.go_on_saving()
    assert watch.gauges.paused_s is None


def test_a_finished_archive_can_be_watched_and_marked(settings: Settings, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "s.nxs", 5)
    watch = Watch.of_archive(settings, path)
    assert watch.view is not None
    assert watch.view.n_known == 5
    watch.change_mark(0, reject=True)
    kept = read_marks(marks_path(path), series_id="id-1")
    assert kept is not None
    assert kept.rejected.tolist() == [0]
    images = Images(watch)
    assert images.full(2).startswith(b"\xff\xd8")
    assert images.frame(2).startswith(b"\xff\xd8")
    assert images.mask(2).startswith(b"\x89PNG")
    with pytest.raises(ArchiveError):
        images.frame(5)


def test_frames_on_show_need_no_archive(watch: Watch) -> None:
    watch.take(summary(7))
    images = Images(watch)
    assert watch.view is not None
    assert watch.view.newest is not None
    images.pin(watch.view.newest)
    for make in (images.frame, images.mask, images.spectrum):
        assert make(7) is make(7)  # encoded once
