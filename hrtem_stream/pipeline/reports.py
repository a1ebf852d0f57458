"""Reports of the series of a session: one is written when its series is closed.

A process of its own does it, which yields the processor to the stages. A report that fails is a
warning: the archive has everything, and `hrtem-stream report` writes it again.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
LAST_S = 120.0
"""How long the last report may take at the end of a session."""
NICENESS = 10


class Reports:
    """Writes reports while a session runs.

    Parameters
    ----------
    closed
        Lists the archives that the session has closed.
    """

    def __init__(
        self,
        closed: Callable[[], Sequence[Path]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._closed, self._clock = closed, clock
        self._looked_s = clock()
        self._n_done = 0
        self._process: subprocess.Popen[bytes] | None = None

    def tend(self) -> None:
        """Begin a report where a series was closed; call it now and then."""
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_INTERVAL_S:
            return
        self._looked_s = now_s
        if self._process is not None and self._process.poll() is None:
            return
        self._begin()

    def finish(self) -> None:
        """Write what is still to be written."""
        deadline_s = self._clock() + LAST_S
        while self._wait(deadline_s) and self._begin():
            pass

    def _begin(self) -> bool:
        """Begin a report on what was closed since the last; tell if there is something."""
        self._note_end()
        paths = self._closed()[self._n_done :]
        if not paths:
            return False
        self._n_done += len(paths)
        command = [sys.executable, "-m", "hrtem_stream.web.report", *map(str, paths)]
        self._process = subprocess.Popen(
            ["nice", "-n", str(NICENESS), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,  # the terminal's Ctrl-C is for the supervisor alone
        )
        return True

    def _wait(self, deadline_s: float) -> bool:
        """Wait for the report that is being written; tell whether it came to its end."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.1, deadline_s - self._clock()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            logger.warning("a report took longer than %g s: write it with the command", LAST_S)
            return False
        return True

    def _note_end(self) -> None:
        if self._process is not None and self._process.returncode:
            logger.warning("a report could not be written; see above")
        self._process = None
