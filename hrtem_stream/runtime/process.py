"""What a stage's process owes its supervisor: to die with it, and to stop when told; who lives."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1


class StopRequest:
    """Turns SIGTERM into a flag; SIGINT is left to the supervisor, which passes it on."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True


def hear_of_parents_death(number: int) -> None:
    """Ask the kernel for a signal when the parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies.

    The signal follows the thread that spawned us, so the supervisor spawns from its main thread.
    """
    hear_of_parents_death(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request
        os._exit(1)


def session_lock_path(runtime: Path) -> Path:
    """Say where the lock of a session lies; its supervisor writes its process id into it."""
    return runtime.with_name(f"{runtime.name}.lock")


def is_supervised(runtime: Path) -> bool:
    """Tell whether the supervisor of the session that was begun here lives.

    It is taken to where nothing tells, as for stages that were started one by one.
    """
    if not (runtime / "settings.json").exists():
        return True
    try:
        pid = int(session_lock_path(runtime).read_text(encoding="ascii"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # killed, and not yet reaped by its parent
