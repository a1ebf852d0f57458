"""The faults that act inside a stage."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from hrtem_stream.errors import SegmenterError
from hrtem_stream.simulators.injected import (
    FailingSegmenter,
    JumpingClock,
    segmenter_path,
    set_clock,
)
from hrtem_stream.stages.fallback import BraggSegmenter, WithFallback


def test_a_clock_jumps_when_the_drill_says_so_and_comes_back(tmp_path: Path) -> None:
    clock = JumpingClock(tmp_path)
    assert abs(clock() - time.time_ns()) < 1e9
    set_clock(tmp_path, -3_600_000_000_000)
    assert abs(clock() + 3.6e12 - time.time_ns()) < 1e9
    assert abs(JumpingClock(tmp_path)() - clock()) < 1e9, "another process sees the same"
    set_clock(tmp_path, 0)
    assert abs(clock() - time.time_ns()) < 1e9


def test_a_segmenter_fails_while_the_file_is_there_and_the_bragg_filter_takes_over(
    tmp_path: Path,
) -> None:
    reasons: list[str] = []
    failing = FailingSegmenter(BraggSegmenter(), tmp_path)
    both = WithFallback(failing, fallback=BraggSegmenter(), note_switch=reasons.append)
    images = np.random.default_rng(0).standard_normal((1, 256, 256)).astype(np.float32)
    before = both.segment(images)
    assert reasons == []
    segmenter_path(tmp_path).touch()
    with pytest.raises(SegmenterError, match="CUDA"):
        failing.segment(images)
    during = both.segment(images)
    assert reasons == ["failed"]
    assert np.array_equal(before.amorphous, during.amorphous)
