"""The switch that pauses saving: a file in the session's folder, there while saving is paused.

A file is a state, not an event: it survives the page and any stage, and nobody has to listen.
`ingest` looks at it at the door, so a frame is either taken into the log, and then reaches the
archive, or it is not. What becomes of the others depends on the feed: a recording waits until
saving goes on; a camera does not, so each of its frames is declared lost with `PAUSED` as the
reason. A new session begins with the switch off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PAUSED = "saving paused by the user"
LOOK_INTERVAL_S = 0.05


def pause_path(runtime: Path) -> Path:
    """Say where the switch of a session lies."""
    return runtime / "saving-paused"


def pause(runtime: Path) -> None:
    """Pause saving."""
    pause_path(runtime).touch(mode=0o600)


def go_on(runtime: Path) -> None:
    """Go on saving."""
    pause_path(runtime).unlink(missing_ok=True)


def paused_since(runtime: Path) -> float | None:
    """Tell when saving was paused, in seconds since 1970; None when it is not."""
    try:
        return pause_path(runtime).stat().st_mtime
    except OSError:
        return None


class PauseSwitch:
    """The switch as `ingest` reads it, at most twenty times a second.

    Parameters
    ----------
    runtime
        Folder of the session.
    """

    def __init__(self, runtime: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = pause_path(runtime)
        self._clock = clock
        self._looked_s = -LOOK_INTERVAL_S
        self._is_on = False

    def __call__(self) -> bool:
        """Tell whether saving is paused."""
        now_s = self._clock()
        if now_s - self._looked_s >= LOOK_INTERVAL_S:
            self._looked_s = now_s
            self._is_on = self._path.exists()
        return self._is_on
