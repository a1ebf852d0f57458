"""What an earlier session of the name left: what is gone on with, finished first, or swept away."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hrtem_stream.errors import LogError
from hrtem_stream.settings import Settings

logger = logging.getLogger(__name__)

_OF_A_COMMAND = re.compile(r"(?:replay|demo)-(\d+)(?:\.lock)?$")
"""Names of sessions that end with their command, by its process: nobody can resume them."""


def take_up(settings: Settings) -> None:
    """Say what an earlier session left in its frame log; finish what cannot be gone on with.

    After a restart of the host, or where a record is damaged, the frames in the log are archived
    and their series ended before a new log is begun. A log that is whole is left to the stages.
    """
    from hrtem_stream.transport.frame_log import FrameLog

    path = settings.frame_log_path
    folder = archive_folder(settings)
    for damaged in sorted(path.parent.glob(f"{path.stem}*.damaged")):
        logger.warning(
            "%s was set aside by an earlier session: hrtem-stream recover %s --log %s",
            damaged, folder, damaged,
        )  # fmt: skip
    if not path.exists():
        return
    try:
        log, records = FrameLog.take_over(path)
    except LogError as error:
        logger.warning("%s; what it holds is archived first", error)
        _recover(settings, folder)
        return
    n_waiting = sum(record.ordinal >= log.base for record in records)
    log.close()
    logger.warning(
        "an earlier session was cut off: %d records in %s are taken up "
        "(without the feed, hrtem-stream recover %s would finish them)",
        n_waiting, path, folder,
    )  # fmt: skip


def archive_folder(settings: Settings) -> Path:
    """Say where the archives of a session go."""
    archive = settings.archive
    return Path(archive.file).absolute().parent if archive.file else Path(archive.directory)


def sweep() -> None:
    """Remove what replays and demos left whose command was killed: they are not resumed."""
    folders = [*Path("/dev/shm").glob(f"hrtem-{os.getuid()}-*")]
    folders += Path(f"/tmp/hrtem-{os.getuid()}").glob("*")
    for folder in folders:
        found = _OF_A_COMMAND.search(folder.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
            else:
                folder.unlink(missing_ok=True)


@contextlib.contextmanager
def swept_afterwards(settings: Settings) -> Iterator[None]:
    """Remove the files of a replay or demo when this process ends, however it ends.

    A shell waits for the end of a pipe that only this process holds, and outlives a SIGKILL.
    """
    if not _OF_A_COMMAND.search(settings.session.name):
        yield
        return
    runtime = settings.runtime_directory
    paths = [str(runtime), str(runtime.with_name(f"{runtime.name}.lock"))]
    if not settings.frame_log.path:
        paths.append(str(settings.frame_log_path.parent))
    watched, held = os.pipe()
    with subprocess.Popen(
        ["/bin/sh", "-c", 'cat >/dev/null; sleep 0.2; rm -rf -- "$@"', "sweep", *paths],
        stdin=watched, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ):  # fmt: skip
        os.close(watched)
        try:
            yield
        finally:
            os.close(held)


def _recover(settings: Settings, folder: Path) -> None:
    """Recover the folder in a process of its own: this one stays small."""
    subprocess.run(
        [sys.executable, "-m", "hrtem_stream.pipeline", "recover", str(folder), str(os.getpid())],
        input=settings.model_dump_json(), text=True, check=False,
    )  # fmt: skip
