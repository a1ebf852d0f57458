"""Finishes what an interrupted session left in a folder: its frame logs and unfinished archives."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hrtem_stream.archive.journal import remove_stillborn
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.recovery import recover
from hrtem_stream.archive.structure import is_structure_file
from hrtem_stream.errors import ArchiveError, LogError, SettingsError
from hrtem_stream.pipeline.leftovers import archive_folder
from hrtem_stream.pipeline.names import session_lock
from hrtem_stream.settings import Settings, holds, settings_from_json
from hrtem_stream.transport.log_format import log_id_at
from hrtem_stream.transport.salvage import SalvagedLog, is_log

logger = logging.getLogger(__name__)

PART = ".part"
RUNTIMES = Path(f"/tmp/hrtem-{os.getuid()}")
"""Where sessions keep their files, unless told otherwise."""


@dataclass(slots=True)
class RecoveredLog:
    """What became of a frame log."""

    log: str
    records: int = 0
    frames: int = 0
    """Brought from it into the archive."""
    damaged: int = 0
    """Records that could not be read."""
    removed: bool = False
    problem: str = ""


@dataclass(slots=True)
class RecoveredArchive:
    """An archive that was finished."""

    archive: str
    series: str
    received: int
    archived: int
    lost: int
    reasons: list[str]
    """Of the losses."""
    end_reason: str


@dataclass(slots=True)
class Recovery:
    """What `recover_folder` did."""

    archives: list[RecoveredArchive] = field(default_factory=list)
    logs: list[RecoveredLog] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def recover_folder(
    folder: Path,
    *,
    settings: Settings | None = None,
    log: Path | None = None,
    remove_damaged: bool = False,
) -> Recovery:
    """Finish all series that an interrupted session left in a folder.

    The frames that are in a frame log and not yet in an archive are analysed and archived; then
    every archive that is still unfinished is closed. A second time there is nothing to do.

    Parameters
    ----------
    settings
        Of the session; by default those in the unfinished archives, which say where its log lies.
    log
        A frame log beside those that the settings name and that lie in the folder.
    remove_damaged
        Whether a log with damaged records is removed too, once all else of it is archived.

    Raises
    ------
    SettingsError
        There is nothing that says how to analyse the frames of a log.
    ArchiveError
        An archive cannot be written; what is there stays, and the call may be repeated.
    """
    recovery = Recovery()
    known = [(settings, _named_logs(settings))] if settings else list(_sessions_about(folder))
    before = _finished(folder)
    done: set[Path] = set()
    running: set[Path] = set()
    for one, named in known:
        try:
            with session_lock(one):
                for path in [*named, *_logs_in(folder, log)]:
                    if path not in done and path.exists():
                        done.add(path)
                        recovery.logs.append(_empty(path, folder, one, remove_damaged))
                if not [
                    *_named_logs(one),
                    *_logs_in(folder, log),
                ]:  # nothing of the session is needed any more
                    _remove_runtime(one.runtime_directory, folder)
        except SettingsError as error:
            running.add(one.frame_log_path)
            recovery.problems.append(f"left alone: {error}")
    left = [path for path in _logs_in(folder, log) if path not in done]
    if left and not known and not running:
        raise SettingsError(
            f"{left[0]} is a frame log, but nothing in {folder} says how its frames are to be "
            "analysed; name the settings of the session with --config"
        )
    for part in sorted(folder.glob(f"*{PART}")):
        try:
            if remove_stillborn(part):
                continue
            written_with, log_id = _origin_of(part)
            if written_with is not None and written_with.frame_log_path in running:
                continue
            waiting = [path for path in _logs_with(written_with, log_id) if path not in done]
            if waiting:
                recovery.problems.append(
                    f"left alone: {part}, more of it is in {waiting[0]}, of another session"
                )
            else:
                recover(part)
        except ArchiveError as error:
            recovery.problems.append(str(error))
    recovery.archives = [
        _account_of(path)
        for path, state in sorted(_finished(folder).items())
        if before.get(path) != state
    ]
    return recovery


def logs_left(settings: Settings) -> list[Path]:
    """List the logs of earlier sessions that were set aside, as `ingest` names them."""
    path = settings.frame_log_path
    return sorted(path.parent.glob(f"{path.stem}*.damaged"))


def _empty(path: Path, folder: Path, settings: Settings, remove_damaged: bool) -> RecoveredLog:
    """Bring what a log holds into the archives; remove it when nothing in it is needed."""
    from hrtem_stream.pipeline.analysis import make_analysis
    from hrtem_stream.stages.rescue import RECOVERED, Rescue
    from hrtem_stream.stages.series import SortedSeries

    report = RecoveredLog(str(path))
    try:
        log = SalvagedLog.open(path)
    except LogError as error:
        report.problem = str(error)
        return report
    working_size = settings.normalise.working_size
    file = settings.archive.file and str(folder / Path(settings.archive.file).name)
    archive = settings.archive.model_copy(update={"directory": str(folder), "file": file})
    with contextlib.closing(log), tempfile.TemporaryDirectory() as scratch:
        series = SortedSeries(
            archive=archive, settings_json=settings.model_dump_json(),
            closed=Path(scratch) / "closed", working_size=working_size,
        )  # fmt: skip
        try:
            rescued = Rescue(
                log, series, analyse=make_analysis(settings),
                wanted_from=0 if _has_damaged_part(folder) else log.base, folder=Path(scratch),
                n_threads=settings.sort.threads,
            ).run()  # fmt: skip
            series.seal(RECOVERED)
        finally:
            series.abandon()
        report.records, report.frames = rescued.n_records, rescued.n_frames
        report.damaged = rescued.n_damaged
        if not rescued.n_damaged or remove_damaged:
            log.remove()
            report.removed = True
            if not settings.frame_log.path:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
    return report


def _remove_runtime(runtime: Path, folder: Path) -> None:
    """Remove the folder of a session, never another: its name may be that of an old archive."""
    if holds(runtime, folder):
        return
    if (runtime / "settings.json").exists():
        shutil.rmtree(runtime, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # there was none: the lock has made it
            runtime.rmdir()


def _sessions_about(folder: Path) -> Iterator[tuple[Settings, list[Path]]]:
    """Give the settings of each session that left frame logs and archives in the folder, and those.

    They are in its archives, the unfinished ones first, and, until the host goes down, among what
    the session itself left, which may have died before it wrote an archive. Another session of the
    name may have begun its own log at the same path, for another folder: the log of an archive is
    known by its identity.
    """
    taken: set[Path] = set()
    named: set[Path] = set()
    paths = sorted(folder.glob(f"*{PART}")) + sorted(folder.glob("*.nxs"))
    origins = [_origin_of(path) for path in paths]
    left = [
        settings
        for settings in map(_settings_left, sorted(RUNTIMES.glob("*/settings.json")))
        if settings is not None and archive_folder(settings).resolve() == folder.resolve()
    ]
    sessions = itertools.chain(
        ((settings, _logs_with(settings, log_id)) for settings, log_id in origins),
        ((settings, _named_logs(settings)) for settings in left),
    )
    lying = _logs_in(folder, None)
    for settings, logs in sessions:
        new = [path for path in logs if path not in taken]
        if settings is not None and (new or (lying and settings.frame_log_path not in named)):
            taken.update(new)
            named.add(settings.frame_log_path)
            yield settings, new


def _has_damaged_part(folder: Path) -> bool:
    """Tell whether an unfinished archive cannot be read, so that the log may have to replace it."""
    for part in folder.glob(f"*{PART}"):
        try:
            if not remove_stillborn(part):
                open_archive(part).close()
        except ArchiveError:
            return True
    return False


def _settings_left(path: Path) -> Settings | None:
    """Read the settings that a session left, None where they are of another version."""
    try:
        return settings_from_json(path.read_text(encoding="utf-8"))
    except (OSError, SettingsError):
        return None


def _origin_of(path: Path) -> tuple[Settings | None, int]:
    """Read the settings of an archive's session, None if not told, and the identity of its log."""
    log_id = 0
    try:
        with open_archive(path) as archive:
            log_id = archive.header.log_id
            return settings_from_json(archive.header.provenance.get("settings", "")), log_id
    except (ArchiveError, SettingsError) as error:
        logger.debug("%s does not say how it was written: %s", path, error)
        return None, log_id


def _named_logs(settings: Settings) -> list[Path]:
    """List the logs that lie where a session has its log, whoever began them."""
    path = settings.frame_log_path
    return [*([path] if path.exists() else []), *logs_left(settings)]


def _logs_with(settings: Settings | None, log_id: int) -> list[Path]:
    """List those of the named logs that have an identity, or none that can be read."""
    named = _named_logs(settings) if settings is not None else []
    return [path for path in named if log_id_at(path) in (log_id, None)]


def _logs_in(folder: Path, log: Path | None) -> list[Path]:
    lying = sorted(path for path in folder.iterdir() if path.is_file() and is_log(path))
    return [*([log] if log else []), *lying]


def _finished(folder: Path) -> dict[Path, tuple[int, int]]:
    archives = (path for path in folder.glob("*.nxs") if not is_structure_file(path))
    states = {path: path.stat() for path in archives}
    return {path: (state.st_mtime_ns, state.st_ino) for path, state in states.items()}


def _account_of(path: Path) -> RecoveredArchive:
    with open_archive(path) as archive:
        ledger = archive.ledger
    return RecoveredArchive(
        str(path), ledger.series, ledger.received, ledger.archived, ledger.lost,
        sorted({loss.reason for loss in ledger.losses}), ledger.end_reason,
    )  # fmt: skip
