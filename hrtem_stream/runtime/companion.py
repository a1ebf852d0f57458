"""A process beside the stages: it is kept alive, but never matters to a session.

It is started with the session and stopped at its end. If it keeps dying, the session goes on
without it.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from types import TracebackType

logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 5
FIRST_BACK_OFF_S = 0.5
OLD_S = 60.0
"""A process that lived so long may die anew as often as a fresh one."""
STOP_S = 3.0


class Companion:
    """Keeps one process, as a context.

    Parameters
    ----------
    command
        Empty for none.
    name
        For the log.
    stop_s
        How long it may take to end.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        stop_s: float = STOP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command, self._name, self._clock = command, name, clock
        self._stop_s = stop_s
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._restart_at_s: float | None = None
        self._n_deaths = 0

    def __enter__(self) -> Companion:
        if self._command:
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restart_at_s = None
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(self._stop_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tend(self) -> None:
        """Restart the process if it died; call it now and then."""
        now_s = self._clock()
        if self._restart_at_s is not None:
            if now_s >= self._restart_at_s:
                self._restart_at_s = None
                self._start()
            return
        if self._process is None or self._process.poll() is None:
            return
        code, self._process = self._process.returncode, None
        self._n_deaths = 1 if now_s - self._started_s > OLD_S else self._n_deaths + 1
        if self._n_deaths >= GIVE_UP_AFTER:
            logger.warning(
                "%s ended again (exit %d): the session goes on without", self._name, code
            )
            return
        logger.warning("%s ended (exit %d) and is started again", self._name, code)
        self._restart_at_s = now_s + FIRST_BACK_OFF_S * 2 ** (self._n_deaths - 1)

    def _start(self) -> None:
        self._started_s = self._clock()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,  # the terminal's Ctrl-C is for the supervisor alone
        )
