"""Marks: beside the archive while it grows, in it at close."""

import json

import numpy as np
import pytest

from hrtem_stream.archive.marks import (
    Mark,
    Marks,
    is_kept,
    marks_of,
    marks_path,
    read_marks,
    write_marks,
)
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.errors import ArchiveError
from tests.archive.series import archive_of

SAID = Marks(
    series_id="id-1",
    threshold=0.4,
    frames={2: Mark(star=True, note="edge 5–7, Å"), 5: Mark(reject=True)},
)


def test_marks_come_back_as_they_were_written(tmp_path):
    write_marks(tmp_path / "m.json", SAID)
    assert read_marks(tmp_path / "m.json", series_id="id-1") == SAID
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]


def test_marks_of_another_series_are_not_taken(tmp_path):
    write_marks(tmp_path / "m.json", SAID)
    assert read_marks(tmp_path / "m.json", series_id="id-2") is None


def test_marks_are_copied_into_the_archive_at_close(tmp_path):
    path = tmp_path / "series.nxs"
    write_marks(marks_path(path), SAID)
    archive_of(path, 9)
    marks_path(path).unlink()
    with open_archive(path) as archive:
        assert marks_of(archive) == SAID


def test_each_file_of_a_series_takes_the_marks_of_its_rows_from_those_of_the_series(tmp_path):
    write_marks(tmp_path / "series.marks.json", SAID)
    archive_of(tmp_path / "series_0001.nxs", 4)
    with open_archive(tmp_path / "series_0001.nxs") as archive:
        (rows, *_), threshold = archive.marks
        assert rows.tolist() == [2]
        assert threshold == 0.4


def test_what_is_said_after_close_prevails(tmp_path):
    path = tmp_path / "series.nxs"
    write_marks(marks_path(path), SAID)
    archive_of(path, 9)
    later = SAID.with_mark(2, Mark()).with_threshold(0.7)
    write_marks(marks_path(path), later)
    with open_archive(path) as archive:
        assert marks_of(archive) == later
    assert 2 not in later.frames


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"series_id": "id-1"}', "[" * 100_000, "\udcff"],
)
def test_a_series_closes_whatever_lies_beside_it(tmp_path, text):
    path = tmp_path / "series.nxs"
    marks_path(path).write_bytes(text.encode("utf-8", "surrogateescape"))
    archive_of(path, 3)
    with open_archive(path) as archive:
        assert len(archive) == 3
        with pytest.raises(ArchiveError, match="marks cannot be read"):
            marks_of(archive)


def test_hostile_marks_are_refused(tmp_path):
    path = tmp_path / "m.json"
    for frames in ({"-1": {"star": 1, "reject": 0, "note": ""}}, {"0": 5}, {"x": {}}):
        content = {"series_id": "id-1", "threshold": 0, "frames": frames}
        path.write_text(json.dumps(content))
        with pytest.raises(ArchiveError):
            read_marks(path, series_id="id-1")


def test_an_archive_of_which_nothing_was_said_has_no_marks(tmp_path):
    with open_archive(archive_of(tmp_path / "series.nxs", 3)) as archive:
        assert marks_of(archive) == Marks(series_id="id-1")


def test_kept_frames_reach_the_threshold_and_are_not_rejected():
    fractions = np.array([0.5, 0.39, 0.4, np.nan])
    kept = is_kept(fractions, rows=np.arange(4), threshold=0.4, rejected=[0])
    assert kept.tolist() == [False, False, True, False]
    assert is_kept(fractions, rows=np.arange(4), threshold=0.0, rejected=[]).all()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        SAID.with_threshold(threshold)
