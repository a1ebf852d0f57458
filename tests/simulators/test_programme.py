from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hrtem_stream.simulators.programme import Programme, play

IMAGES = [np.full((2, 2), number, np.uint16) for number in range(3)]


class Recorder:
    """Notes what it is told to send."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def begin(self, number: int, *, n_frames: int | None) -> None:
        self.said.append(("begin", number, n_frames))

    def send(self, sequence: int, image: Any, *, is_damaged: bool) -> None:
        self.said.append((sequence, int(image[0, 0]), is_damaged))

    def end(self, *, n_frames: int, is_aborted: bool) -> None:
        self.said.append(("end", n_frames, is_aborted))


def test_a_programme_is_played_in_order_with_its_gaps_and_damage() -> None:
    sender = Recorder()
    programme = Programme(n_frames=4, gaps=frozenset({1}), damaged=frozenset({2}))
    assert play(programme, sender, IMAGES) == 3
    assert sender.said == [
        ("begin", 1, 4), (0, 0, False), (2, 2, True), (3, 0, False), ("end", 4, False),
    ]  # fmt: skip


def test_an_aborted_programme_ends_early_and_every_series_alike() -> None:
    sender = Recorder()
    play(Programme(n_frames=5, n_series=2, abort_after=1, is_counted=False), sender, IMAGES)
    assert sender.said == [
        ("begin", 1, None), (0, 0, False), ("end", 1, True),
        ("begin", 2, None), (0, 0, False), ("end", 1, True),
    ]  # fmt: skip


def test_frames_leave_at_the_rate_that_is_asked() -> None:
    times = [0.0]
    programme = Programme(n_frames=3, rate=10.0)

    def sleep(seconds: float) -> None:
        times.append(times[-1] + seconds)

    play(programme, Recorder(), IMAGES, clock=lambda: times[-1], sleep=sleep)
    assert times[-1] == pytest.approx(0.2)


def test_without_images_nothing_can_be_played() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        play(Programme(n_frames=1), Recorder(), [])
