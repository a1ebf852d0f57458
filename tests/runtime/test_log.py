"""Log lines: text for people, JSON for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrtem_stream.runtime.log import MAX_LINE_BYTES, set_up_logging


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def _events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_events_are_kept_as_json_though_stderr_shows_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs" / "live.log.jsonl"
    set_up_logging("WARNING", "sort", events=path)
    logging.getLogger("hrtem_stream.stages.sort").info("series %s begins", "Å")
    logging.getLogger("hrtem_stream.stages.sort").error("the disk is full")
    logging.getLogger("elsewhere").info("chatter")
    first, second = _events(path)
    assert (first["process"], first["level"], first["text"]) == ("sort", "INFO", "series Å begins")
    assert first["room"] == "stages.sort"
    assert str(first["time"]).endswith("+00:00")
    assert second["text"] == "the disk is full"
    shown = capsys.readouterr().err
    assert "begins" not in shown
    assert "ERROR sort: the disk is full" in shown


def test_a_line_stays_short_enough_to_be_appended_whole(tmp_path: Path) -> None:
    set_up_logging("ERROR", "sort", events=tmp_path / "x.jsonl")
    logging.getLogger("hrtem_stream").info("é" * MAX_LINE_BYTES)
    (event,) = _events(tmp_path / "x.jsonl")
    assert len((tmp_path / "x.jsonl").read_bytes()) <= MAX_LINE_BYTES
    assert str(event["text"]).endswith("…")


def test_a_file_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    set_up_logging("ERROR", "sort", events=tmp_path / "file" / "x.jsonl")
    logging.getLogger("hrtem_stream").info("lost, and no harm done")
