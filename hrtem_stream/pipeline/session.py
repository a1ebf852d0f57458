"""A session: all stages on this host, supervised, until the feed is through."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hrtem_stream.errors import ArchiveError, LogError, SettingsError
from hrtem_stream.pipeline.leftovers import sweep, swept_afterwards, take_up
from hrtem_stream.pipeline.names import (
    EXIT_ARCHIVE,
    EXIT_FAILURE,
    closed_archives,
    failure,
    heart_path,
    process_name,
    session_lock,
    stage_processes,
)
from hrtem_stream.pipeline.observation import Observation
from hrtem_stream.pipeline.refusals import refusal_of
from hrtem_stream.pipeline.reports import Reports
from hrtem_stream.pipeline.security import check_access
from hrtem_stream.runtime.heart import read_beat
from hrtem_stream.runtime.profile import StageProfile, read_profiles
from hrtem_stream.settings import Settings

if TYPE_CHECKING:
    from hrtem_stream.runtime.companion import Companion
    from hrtem_stream.runtime.supervisor import ProcessSpec

logger = logging.getLogger(__name__)

_MEMORY_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
"""Pages stay mapped between frames, and libraries leave threading to the stages."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session is."""

    n_received: int
    n_archived: int
    n_expected: int


@dataclass(frozen=True, slots=True)
class SessionResult:
    """What a session left behind."""

    archives: list[Path]
    in_order: bool
    """Whether everything received was archived and every file closed."""
    n_restarts: int
    message: str = ""
    exit_code: int = 0
    profiles: tuple[StageProfile, ...] = ()
    """Where the time of each process went, those left out that were killed."""
    refusal: str = ""
    """What is to be said of a feed of which nothing but refused messages came."""


def run_session(
    settings: Settings, *, watch: Callable[[Progress], None] = lambda progress: None
) -> SessionResult:
    """Run all stages on this host until the feed is through or the user stops.

    Raises
    ------
    SettingsError
        The session runs already, would leave this host unprotected, or its output cannot be
        written.
    """
    from hrtem_stream.runtime.supervisor import GaveUpError, Supervisor

    check_access(settings, {name for name, _ in stage_processes(settings)})
    if "sort" in settings.session.stages:
        check_output(settings)
    check_camera(settings)
    page, structures = _page(settings), _structures(settings)
    sweep()
    with session_lock(settings):
        pass  # it does not run
    if {"ingest", "sort"} <= set(settings.session.stages):
        take_up(settings)
        _replace_unfinished(settings)
    with swept_afterwards(settings), session_lock(settings):
        runtime = settings.runtime_directory
        _clear(runtime)
        (runtime / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")

        reports = Reports(lambda: closed_archives(settings) if settings.archive.report else [])

        def look() -> None:
            page.tend()
            structures.tend()
            observation.look()
            reports.tend()
            watch(_progress(settings))

        supervisor = Supervisor(
            [_process_spec(settings, name, index) for name, index in stage_processes(settings)],
            leader="ingest" if "ingest" in settings.session.stages else None,
            hang_s=settings.session.hang_s,
            start_up_s=settings.session.start_up_s,
            drain_s=settings.session.drain_s,
            watch=look,
        )
        observation = Observation(settings, restarts=lambda: supervisor.restarts)
        in_order, message, code = False, "", 0
        try:
            with page, structures, observation:
                in_order = supervisor.run()
        except GaveUpError as error:
            message = failure(runtime) or str(error)
            code = EXIT_FAILURE if error.exit_code == EXIT_ARCHIVE else error.exit_code
        if not in_order and not code:
            message, code = "stopped before everything was archived", EXIT_FAILURE
        archives = closed_archives(settings)
        reports.finish()
        is_over = in_order or not settings.feed.is_live or _is_settled(settings.frame_log_path)
        if is_over and "ingest" in settings.session.stages:
            _remove_log(settings)
        profiles, refusal = tuple(read_profiles(runtime)), refusal_of(runtime)
        if in_order:
            shutil.rmtree(runtime, ignore_errors=True)
        return SessionResult(
            archives, in_order, supervisor.n_restarts, message, code, profiles, refusal
        )


def check_camera(settings: Settings) -> None:
    """Refuse references of the camera that cannot be used, before anything starts.

    Raises
    ------
    SettingsError
        With file, rule and value.
    """
    wanted = settings.normalise
    if wanted.dark or wanted.gain or wanted.bad_pixels:
        from hrtem_stream.pipeline.camera import make_camera

        make_camera(settings)


def check_output(settings: Settings) -> None:
    """Refuse an output that exists or cannot be written, before anything starts.

    Raises
    ------
    SettingsError
        With the rule and the path.
    """
    archive = settings.archive
    folder = Path(archive.file).parent if archive.file else Path(archive.directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output folder {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise SettingsError(f"output folder {folder} is not writable")
    if not archive.file:
        return
    if Path(archive.file).is_dir():
        raise SettingsError(f"output {archive.file} is a folder")
    for path in (Path(archive.file), Path(f"{archive.file}.part")):
        if path.exists() and not archive.overwrite:
            raise SettingsError(f"output {path} exists; --overwrite replaces it")


def _replace_unfinished(settings: Settings) -> None:
    """Remove the unfinished output that the user asked to replace.

    It stays where a frame log is left: the stages go on with both. `sort` itself never replaces
    an unfinished archive.

    Raises
    ------
    SettingsError
        Another process writes it.
    """
    from hrtem_stream.archive.journal import remove_unfinished
    from hrtem_stream.archive.rotation import unfinished

    archive = settings.archive
    if not archive.file or not archive.overwrite or settings.frame_log_path.exists():
        return
    for part in unfinished(Path(archive.file), frames_per_file=archive.frames_per_file or None):
        try:
            remove_unfinished(part)
        except ArchiveError as error:
            raise SettingsError(f"output {part} cannot be replaced: {error}") from None
        logger.warning("%s is replaced", part)


def _process_spec(settings: Settings, name: str, index: int) -> ProcessSpec:
    from hrtem_stream.runtime.supervisor import ProcessSpec

    runtime = settings.runtime_directory
    command = [sys.executable, "-m", "hrtem_stream.pipeline", name, str(index), str(runtime)]
    return ProcessSpec(
        process_name(name, index),
        [*command, str(os.getpid())],
        _MEMORY_ENVIRONMENT,
        heart_path(runtime, name, index),
        takes_up=name == "sort",
    )


def _page(settings: Settings) -> Companion:
    """Give the process that serves the page; one of nothing where there is none to serve."""
    from importlib.util import find_spec

    from hrtem_stream.runtime.access import token_for
    from hrtem_stream.runtime.companion import Companion

    wanted = settings.page.enabled and {"ingest", "sort"} <= set(settings.session.stages)
    if wanted and find_spec("nicegui") is None:
        logger.warning("there is no page: pip install 'hrtem-stream[web]'")
        wanted = False
    if wanted and settings.security.insecure != "everything":
        token_for(settings.page.host, settings.token_path, what="page.host")
    command = [sys.executable, "-m", "hrtem_stream.web", str(settings.runtime_directory)]
    return Companion([*command, str(os.getpid())] if wanted else [], name="the page")


def _structures(settings: Settings) -> Companion:
    """Give the process that finds structures; one of nothing where none are wanted."""
    from hrtem_stream.pipeline.structures import STOP_S
    from hrtem_stream.runtime.companion import Companion

    wanted = settings.structure.every and "sort" in settings.session.stages
    command = [sys.executable, "-m", "hrtem_stream.pipeline", "structures", "0"]
    command += [str(settings.runtime_directory), str(os.getpid())]
    return Companion(command if wanted else [], name="the search for structures", stop_s=STOP_S)


def _progress(settings: Settings) -> Progress:
    runtime = settings.runtime_directory
    ingest = read_beat(heart_path(runtime, "ingest", 0))
    sort = read_beat(heart_path(runtime, "sort", 0))
    return Progress(ingest.n_done, sort.n_done, ingest.n_expected)


def _clear(runtime: Path) -> None:
    """Remove what an earlier session of the name left, but for the lists of suspects."""
    for path in runtime.iterdir():
        if path.suffix != ".suspects":
            path.unlink()


def _is_settled(log: Path) -> bool:
    """Tell whether everything in a frame log is in the archive."""
    from hrtem_stream.transport.frame_log import read_log

    try:
        _, base, records = read_log(log)
    except LogError:
        return False
    return all(record.ordinal < base for record in records)


def _remove_log(settings: Settings) -> None:
    path = settings.frame_log_path
    path.unlink(missing_ok=True)
    if not settings.frame_log.path:
        with contextlib.suppress(OSError):
            path.parent.rmdir()
