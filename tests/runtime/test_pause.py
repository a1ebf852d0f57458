"""The switch that pauses saving."""

from __future__ import annotations

import time
from pathlib import Path

from hrtem_stream.runtime.pause import PauseSwitch, go_on, pause, paused_since


def test_a_switch_is_seen_within_a_twentieth_of_a_second(tmp_path: Path) -> None:
    now_s = 0.0
    switch = PauseSwitch(tmp_path, clock=lambda: now_s)
    assert not switch()
    pause(tmp_path)
    assert not switch()
    now_s = 0.05
    assert switch()
    go_on(tmp_path)
    now_s = 0.1
    assert not switch()


def test_the_moment_of_the_pause_is_known(tmp_path: Path) -> None:
    assert paused_since(tmp_path) is None
    pause(tmp_path)
    since = paused_since(tmp_path)
    assert since is not None
    assert abs(time.time() - since) < 5
