"""The report: one file, with everything in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hrtem_stream.archive.marks import Mark, Marks, marks_path, write_marks
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.cli import app
from hrtem_stream.errors import ArchiveError
from hrtem_stream.pipeline.reports import Reports
from hrtem_stream.web.report import write_report, write_reports
from tests.archive.series import archive_of, calibrated, start
from tests.web.commands import run


class Balance(HTMLParser):
    """Counts what is opened and not closed."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return archive_of(tmp_path / "island.nxs", 15, start=calibrated())


def test_a_report_stands_alone_and_tells_the_ledger_and_the_best(path: Path) -> None:
    write_marks(
        marks_path(path),
        Marks(series_id="id-1", threshold=0.3, frames={3: Mark(star=True, note="<b>edge</b>")}),
    )
    (made,) = write_reports([path])
    assert made == path.with_suffix(".html")
    text = made.read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert parser.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in parser.sources)
    assert "&lt;b&gt;edge&lt;/b&gt;" in text
    assert "<b>edge" not in text
    with open_archive(path) as archive:
        best = archive.ranking()[0]
        kept = int((archive.score("graphene_fraction") >= 0.3).sum())
    assert f"1: frame {best}, " in text
    assert f"Threshold 30%: {kept} frames kept, {15 - kept} rejected" in text
    assert re.search(r"<th>received</th><td>15</td>", text)
    assert "0.02 nm, field 0.8 × 0.96 nm" in text


def test_several_files_of_a_series_make_one_report_and_others_their_own(tmp_path: Path) -> None:
    first = archive_of(tmp_path / "a_0001.nxs", 4)
    second = archive_of(tmp_path / "a_0002.nxs", 4, first_row=0)
    other = archive_of(tmp_path / "b.nxs", 2, start=start(series_id="id-2"))
    made = write_reports([first, second, other])
    assert [path.name for path in made] == ["a_0001.html", "b.html"]
    with pytest.raises(ArchiveError, match="several"):
        write_report([first, other], tmp_path / "c.html")


@pytest.mark.parametrize("n_frames", [0, 1])
def test_a_series_of_almost_nothing_has_a_report(tmp_path: Path, n_frames: int) -> None:
    path = archive_of(tmp_path / "s.nxs", n_frames)
    (made,) = write_reports([path])
    assert f"{n_frames} frames" in made.read_text(encoding="utf-8")


def test_the_commands_write_a_report_and_the_kept_frames(path: Path, tmp_path: Path) -> None:
    assert run(app, "report", path).exit_code == 0
    assert run(app, "report", path).exit_code != 0  # it is there
    assert run(app, "report", path, "--overwrite").exit_code == 0
    done = run(app, "export", path, "--top", 3, "--format", "png")
    assert "3 of 15 kept frames" in done.output
    assert len(list((tmp_path / "island-export").glob("*.png"))) == 3
    assert run(app, "export", path).exit_code != 0  # the folder is not empty
    done = run(app, "export", path, "--threshold", 1.0, "--output", tmp_path / "none", "--json")
    assert '"n_kept": 0' in done.output
    assert run(app, "export", path, "--threshold", 2.0, "--output", tmp_path / "x").exit_code != 0


def test_a_report_is_written_for_each_series_that_is_closed(path: Path, tmp_path: Path) -> None:
    closed: list[Path] = []
    reports = Reports(lambda: closed)
    reports.finish()
    closed.append(path)
    reports.finish()
    assert path.with_suffix(".html").exists()
    before = path.with_suffix(".html").stat().st_mtime_ns
    closed.append(tmp_path / "missing.nxs")  # a warning, no more
    reports.finish()
    assert path.with_suffix(".html").stat().st_mtime_ns == before
