"""What a simulated feed sends: how many series and frames, how fast, and what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Programme:
    """Series that are sent one after the other, all alike."""

    n_frames: int
    """Frames announced for each series."""
    n_series: int = 1
    rate: float = 0.0
    """Frames per second; 0: as fast as they are taken."""
    gaps: frozenset[int] = frozenset()
    """Numbers of frames that are never sent, as a detector drops them."""
    damaged: frozenset[int] = frozenset()
    """Numbers of frames of which half of the bytes are sent."""
    abort_after: int = 0
    """Each series is aborted after so many frames; 0: never."""
    is_counted: bool = True
    """Whether a series announces its length."""


class FeedSender(Protocol):
    """What a simulator of a feed can say."""

    def begin(self, number: int, *, n_frames: int | None) -> None:
        """Begin series `number`, from 1."""

    def send(self, sequence: int, image: NDArray[Any], *, is_damaged: bool) -> None:
        """Send frame `sequence` of the series, from 0."""

    def end(self, *, n_frames: int, is_aborted: bool) -> None:
        """End the series after `n_frames`, as far as the detector says so."""


def play(
    programme: Programme,
    sender: FeedSender,
    images: Sequence[NDArray[Any]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Send a programme, its frames taken from `images` over and over, and count the frames sent.

    Raises
    ------
    ValueError
        When there are no images.
    """
    if not images:
        raise ValueError("there must be at least one image to send")
    n_taken = programme.abort_after or programme.n_frames
    n_sent = 0
    for number in range(1, programme.n_series + 1):
        sender.begin(number, n_frames=programme.n_frames if programme.is_counted else None)
        began_s = clock()
        for sequence in range(min(n_taken, programme.n_frames)):
            if programme.rate:
                sleep(max(0.0, began_s + sequence / programme.rate - clock()))
            if sequence in programme.gaps:
                continue
            image = images[sequence % len(images)]
            sender.send(sequence, image, is_damaged=sequence in programme.damaged)
            n_sent += 1
        aborted = n_taken < programme.n_frames
        sender.end(n_frames=min(n_taken, programme.n_frames), is_aborted=aborted)
    return n_sent
