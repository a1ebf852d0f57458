"""What a process says of itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.meter import Meter
from hrtem_stream.runtime.readings import parse_metrics, read_process


@pytest.mark.parametrize("token", [None, "a token of some length"])
def test_a_process_is_read_by_its_heart_and_its_metrics(tmp_path: Path, token: str | None) -> None:
    heart, meter = Heart(tmp_path / "heart"), Meter("segment")
    heart.n_done = 7
    heart.metrics_port = meter.serve("127.0.0.1", 0, token=token)
    heart.beat()
    meter.queue_frames.set(4)
    meter.count_switch("too_slow")
    meter.frame_age_seconds.observe(2.0)
    reading = read_process(tmp_path / "heart", token=token)
    assert (reading.pid, reading.is_alive, reading.n_done) == (os.getpid(), True, 7)
    assert reading.beat_age_s < 5
    assert reading.value("queue_frames") == 4
    assert reading.value("frame_age_seconds_sum") == 2.0
    assert reading.labelled["segmenter_fallbacks"] == {"too_slow": 1.0}


def test_a_process_that_never_was_has_no_pid(tmp_path: Path) -> None:
    assert read_process(tmp_path / "heart").pid == 0


def test_what_is_no_metric_is_left_out() -> None:
    assert parse_metrics("hrtem_a 1\n{{{ nonsense") == ({"a": 1.0}, {})
    assert parse_metrics("other 3") == ({}, {})
