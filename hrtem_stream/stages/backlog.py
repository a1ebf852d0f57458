"""Says when a feed that cannot wait is faster than the stages, while there is time to mend it."""

from __future__ import annotations

BEHIND_S = 2.0
"""Frames that wait for their turn without a break for so long show that the stages are behind."""
AGAIN_S = 30.0


class Backlog:
    """Watches the frames that are logged and not yet published."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._said_s: float | None = None

    def note(self, *, n_waiting: int, fill: float, now_s: float) -> str:
        """Take in how many frames wait; give what is to be said, nothing most of the time."""
        if not n_waiting:
            was_behind, self._since_s, self._said_s = self._said_s is not None, None, None
            return "the stages keep up with the feed again" if was_behind else ""
        if self._since_s is None:
            self._since_s = now_s
        is_early = self._said_s is not None and now_s - self._said_s < AGAIN_S
        if now_s - self._since_s < BEHIND_S or is_early:
            return ""
        self._said_s = now_s
        return (
            f"the stages do not keep up with the feed: {n_waiting} frames wait, the frame log is "
            f"{fill:.0%} full; hrtem_loop_seconds shows which stage it is, and hrtem-stream tune "
            "finds codec, threads and workers for this machine"
        )
