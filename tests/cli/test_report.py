"""What commands print of finished archives."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrtem_stream.cli.report import print_report, report_of
from tests.archive.series import archive_of


def test_a_series_without_a_frame_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_report(report_of([archive_of(tmp_path / "a.nxs", 0)]))
    printed = capsys.readouterr().out
    assert "received 0 = archived 0 + lost 0" in printed
    assert "latency" not in printed


def test_the_latency_is_that_of_a_file_with_frames(tmp_path: Path) -> None:
    archives = [archive_of(tmp_path / "a.nxs", 0), archive_of(tmp_path / "b.nxs", 2)]
    assert report_of(archives)["latency_s"] == report_of(archives[1:])["latency_s"]
    assert report_of(archives)["latency_s"]["p50"] is not None
