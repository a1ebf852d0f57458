"""What the processes of a session agree on: exit codes, names, files in the session's folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hrtem_stream.errors import SettingsError
from hrtem_stream.runtime.process import session_lock_path
from hrtem_stream.settings import Settings

STAGES = ("ingest", "normalise", "segment", "sort")
EXIT_FAILURE, EXIT_SETTINGS, EXIT_LOST, EXIT_FEED, EXIT_DIFFERENT = 1, 2, 3, 4, 5
EXIT_ARCHIVE = 6
"""Of a stage's process only: the archive cannot be written, so a restart does not help."""


def stage_processes(settings: Settings) -> list[tuple[str, int]]:
    """List the processes of a session on this host, in the order of the data's way."""
    here = settings.segment.here or range(settings.segment.workers)
    workers = [("segment", index) for index in here]
    processes = [("ingest", 0), ("normalise", 0), *workers, ("sort", 0)]
    return [process for process in processes if process[0] in settings.session.stages]


def closed_archives(settings: Settings) -> list[Path]:
    """List the archives that the session closed, in order."""
    record = settings.runtime_directory / "closed"
    if not record.exists():
        return []
    return [Path(line) for line in record.read_text(encoding="utf-8").splitlines()]


def process_name(name: str, index: int) -> str:
    """Name a process: its stage, with the number where there may be several."""
    return f"{name}-{index}" if name == "segment" else name


def heart_path(runtime: Path, name: str, index: int) -> Path:
    """Say where the heartbeats of a process lie."""
    return runtime / f"{process_name(name, index)}.heart"


@contextlib.contextmanager
def session_lock(settings: Settings) -> Iterator[None]:
    """Hold the session's lock: one session of a name runs at a time."""
    runtime = settings.runtime_directory
    try:
        runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(f"folder {runtime} cannot be made: {error.strerror}") from None
    message = f"session {settings.session.name} runs already; give this one another session.name"
    with _lock(session_lock_path(runtime), message) as path:
        path.write_text(str(os.getpid()), encoding="ascii")
        yield
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def stage_lock(runtime: Path, name: str, index: int) -> Iterator[None]:
    """Hold the stage's lock before it binds: a second bind of an ipc path steals it silently."""
    process = process_name(name, index)
    runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(runtime / f"{process}.lock", f"{process} of this session runs already"):
        yield


@contextlib.contextmanager
def _lock(path: Path, message: str) -> Iterator[Path]:
    with path.open("a") as file:  # what its owner wrote must stay when another tries
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(message) from None
        yield path


def note_failure(runtime: Path, message: str) -> None:
    """Leave to the supervisor what a stage failed of."""
    with contextlib.suppress(OSError):
        (runtime / "failure").write_text(message, encoding="utf-8")


def failure(runtime: Path) -> str:
    """Read what a stage failed of, empty when none did."""
    with contextlib.suppress(OSError):
        return (runtime / "failure").read_text(encoding="utf-8")
    return ""
