"""Wires everything: builds the stages from the settings, and runs a session of them.

The only module that knows everybody. A stage's process starts here (`python -m
hrtem_stream.pipeline`), and imports only what its own stage needs, as `ingest` must start fast.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrtem_stream.errors import (
    ArchiveError,
    FeedError,
    HrtemError,
    LogError,
    SegmenterError,
    SettingsError,
)
from hrtem_stream.runtime.heart import Heart, read_beat
from hrtem_stream.runtime.log import set_up_logging
from hrtem_stream.runtime.process import StopRequest, die_with_parent
from hrtem_stream.settings import SegmentSettings, Settings, settings_from_json

if TYPE_CHECKING:
    from hrtem_stream.runtime.meter import Meter
    from hrtem_stream.runtime.supervisor import ProcessSpec
    from hrtem_stream.stages.fallback import Segmenter, WithFallback

logger = logging.getLogger(__name__)

STAGES = ("ingest", "normalise", "segment", "sort")
EXIT_FAILURE, EXIT_SETTINGS, EXIT_LOST, EXIT_FEED, EXIT_DIFFERENT = 1, 2, 3, 4, 5
EXIT_ARCHIVE = 6
"""Of a stage's process only: the archive cannot be written, so a restart does not help."""
METRICS_OFFSETS = {"ingest": 0, "normalise": 1, "sort": 2, "segment": 10}
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


def run_session(
    settings: Settings, *, watch: Callable[[Progress], None] = lambda progress: None
) -> SessionResult:
    """Run all stages on this host until the feed is through or the user stops.

    Raises
    ------
    SettingsError
        The session runs already, or its output cannot be written.
    """
    from hrtem_stream.runtime.supervisor import GaveUpError, Supervisor

    check_output(settings)
    _sweep()
    with _session_lock(settings):
        runtime = settings.runtime_directory
        _clear(runtime)
        (runtime / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
        supervisor = Supervisor(
            [_process_spec(settings, name, index) for name, index in stage_processes(settings)],
            hang_s=settings.session.hang_s,
            start_up_s=settings.session.start_up_s,
            drain_s=settings.session.drain_s,
            watch=lambda: watch(_progress(settings)),
        )
        in_order, message, code = False, "", 0
        try:
            in_order = supervisor.run()
        except GaveUpError as error:
            message = _failure(runtime) or str(error)
            code = EXIT_FAILURE if error.exit_code == EXIT_ARCHIVE else error.exit_code
        if not in_order and not code:
            message, code = "stopped before everything was archived", EXIT_FAILURE
        archives = closed_archives(settings)
        if in_order or settings.feed.kind != "native" or _is_settled(settings.frame_log_path):
            _remove_log(settings)
        if in_order:
            shutil.rmtree(runtime, ignore_errors=True)
        return SessionResult(archives, in_order, supervisor.n_restarts, message, code)


def run_stage(name: str, index: int, settings: Settings) -> int:
    """Run one stage in this process until it is told to stop; give the exit code."""
    set_up_logging(settings.session.log_level, _process_name(name, index))
    runtime = settings.runtime_directory
    stop = StopRequest()
    try:
        with _stage_lock(runtime, name, index):
            heart = Heart(_heart_path(runtime, name, index))
            meter = _start_meter(settings, name, index, heart)
            _BUILDERS[name](settings, index, meter, heart, stop)
    except HrtemError as error:
        logger.error("%s", error)
        _note_failure(runtime, f"{name}: {error}")
        return _exit_code(error)
    except Exception:
        logger.critical("bug in %s:\n%s", name, traceback.format_exc())
        _note_failure(runtime, f"{name}: {traceback.format_exc(limit=-1).strip()}")
        return EXIT_FAILURE
    return 0


def stage_processes(settings: Settings) -> list[tuple[str, int]]:
    """List the processes of a session in the order of the data's way."""
    workers = [("segment", index) for index in range(settings.segment.workers)]
    return [("ingest", 0), ("normalise", 0), *workers, ("sort", 0)]


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


def closed_archives(settings: Settings) -> list[Path]:
    """List the archives that the session closed, in order."""
    record = settings.runtime_directory / "closed"
    if not record.exists():
        return []
    return [Path(line) for line in record.read_text(encoding="utf-8").splitlines()]


def make_segmenter(
    settings: SegmentSettings,
    *,
    working_size: int,
    note_switch: Callable[[str], None] = lambda reason: None,
) -> WithFallback:
    """Give the segmenter that the settings ask for, with the Bragg filter behind it.

    `auto` takes the U-Net where torch and its weights are to be had and, on a processor, an image
    does not take it longer than `slowest_s`; else the Bragg filter.

    Raises
    ------
    SettingsError
        The U-Net is asked for by name and is not to be had.
    """
    from hrtem_stream.stages.fallback import BraggSegmenter, WithFallback

    bragg = BraggSegmenter()
    choice: Segmenter = bragg
    if settings.segmenter != "bragg":
        try:
            choice = _load_unet(settings, working_size)
        except SegmenterError as error:
            if settings.segmenter == "unet":
                raise SettingsError(f"segment.segmenter = unet: {error}") from None
            logger.warning("the Bragg filter segments, not the U-Net: %s", error)
            note_switch(error.reason)
    return WithFallback(choice, fallback=bragg, oldest_s=settings.oldest_s, note_switch=note_switch)


def _load_unet(settings: SegmentSettings, working_size: int) -> Segmenter:
    """Load and warm the U-Net.

    Raises
    ------
    SegmenterError
        It cannot be had, or is too slow for `auto`.
    """
    try:
        from hrtem_stream.unet.door import load_unet
    except ImportError as error:
        message = f"torch is not installed ({error}); pip install 'hrtem-stream[unet]'"
        raise SegmenterError(message, "not_installed") from None
    return load_unet(
        Path(settings.weights) if settings.weights else None,
        working_size=working_size,
        max_batch=settings.batch_frames,
        four_flips=settings.four_flips,
        slowest_s=settings.slowest_s if settings.segmenter == "auto" else math.inf,
    )


def _run_ingest(
    settings: Settings, index: int, meter: Meter, heart: Heart, stop: StopRequest
) -> None:
    from hrtem_stream.stages.account import SeriesAccount
    from hrtem_stream.stages.ingest import Ingest, log_capacity, open_log
    from hrtem_stream.transport.delivery import Dispatcher
    from hrtem_stream.transport.sockets import (
        HEADER_HIGH_WATER,
        Publisher,
        Subscriber,
        make_context,
    )

    context = make_context()
    outbox = Publisher(
        context, settings.endpoint("frames"), bind=True, high_water=HEADER_HIGH_WATER
    )
    inbox = Subscriber(
        context, settings.endpoint("acknowledged"), bind=False, topics=[b""],
        high_water=HEADER_HIGH_WATER,
    )  # fmt: skip
    path = settings.frame_log_path
    log, logged = open_log(path, log_capacity(path, settings.frame_log.capacity_mib))
    ingest = Ingest(
        feed=_make_feed(settings),
        log=log,
        logged=logged,
        dispatcher=Dispatcher(
            log_id=log.log_id,
            generation=log.generation,
            base=log.base,
            n_shards=settings.segment.workers,
            window=settings.ingest.window,
            stall_s=settings.ingest.stall_s,
        ),
        account=SeriesAccount(
            default_series=settings.feed.series,
            feed=settings.feed.kind,
            late_frames=settings.ingest.late_frames,
            count_republished=lambda: log.republished,
        ),
        outbox=outbox,
        inbox=inbox,
        meter=meter,
        heart=heart,
        stop=stop,
        mark_interval_s=settings.ingest.mark_interval_s,
        idle_end_s=settings.ingest.idle_end_s,
        first_item_s=settings.ingest.first_item_s,
        finished_mark=(
            None if settings.feed.kind == "native" else settings.runtime_directory / "feed-finished"
        ),
    )
    ingest.run()
    log.remove()  # all of it is archived


def _run_normalise(
    settings: Settings, index: int, meter: Meter, heart: Heart, stop: StopRequest
) -> None:
    from hrtem_stream.stages.normalise import Normalise
    from hrtem_stream.transport.frame_log import FrameLogReader

    _one_thread_each()
    reader = FrameLogReader(settings.frame_log_path)
    stage = Normalise(reader, working_size=settings.normalise.working_size)
    _run_between(
        settings, stage, index, meter, heart, stop, take="frames", give="normalised",
        topics=[b""], binds=True, batch_frames=settings.normalise.batch_frames, batch_wait_s=0.0,
    )  # fmt: skip


def _run_segment(
    settings: Settings, index: int, meter: Meter, heart: Heart, stop: StopRequest
) -> None:
    from hrtem_stream.stages.segment import Segment
    from hrtem_stream.transport.wire import topic

    _one_thread_each()
    stage = Segment(
        make_segmenter(
            settings.segment,
            working_size=settings.normalise.working_size,
            note_switch=meter.count_switch,
        ),
        working_size=settings.normalise.working_size,
        agreement_share=settings.segment.agreement_share,
        note=meter.note_segmented,
    )
    _run_between(
        settings, stage, index, meter, heart, stop, take="normalised", give="segmented",
        topics=[topic(index)], binds=False, batch_frames=settings.segment.batch_frames,
        batch_wait_s=settings.segment.batch_wait_s,
    )  # fmt: skip


def _run_between(
    settings: Settings,
    stage: Any,
    index: int,
    meter: Meter,
    heart: Heart,
    stop: StopRequest,
    *,
    take: str,
    give: str,
    topics: list[bytes],
    binds: bool,
    batch_frames: int,
    batch_wait_s: float,
) -> None:
    """Run a stage between two topics; it subscribes last, when it is ready to work."""
    from hrtem_stream.runtime.runner import Runner
    from hrtem_stream.runtime.suspicion import Suspicions
    from hrtem_stream.transport.sockets import Publisher, Subscriber, make_context
    from hrtem_stream.transport.wire import decode, encode

    stage.warm_up()
    context = make_context()
    high_water = 4 * settings.ingest.window + 64
    outbox = Publisher(context, settings.endpoint(give), bind=binds, high_water=high_water)
    inbox = Subscriber(
        context, settings.endpoint(take), bind=False, topics=topics, high_water=high_water
    )
    suspicions = Suspicions(
        settings.runtime_directory / f"{_process_name(stage.name, index)}.suspects"
    )
    Runner(
        stage, inbox=inbox, outbox=outbox, decode=decode, encode=encode, suspicions=suspicions,
        meter=meter, heart=heart, stop=stop, batch_frames=batch_frames, batch_wait_s=batch_wait_s,
    ).run()  # fmt: skip


def _run_sort(
    settings: Settings, index: int, meter: Meter, heart: Heart, stop: StopRequest
) -> None:
    from hrtem_stream.stages.series import SortedSeries
    from hrtem_stream.stages.sort import Sort
    from hrtem_stream.transport.frame_log import FrameLogReader
    from hrtem_stream.transport.sockets import (
        HEADER_HIGH_WATER,
        SUMMARY_HIGH_WATER,
        Publisher,
        Subscriber,
        make_context,
    )

    context = make_context()
    high_water = 4 * settings.ingest.window + 64
    acknowledge = Publisher(
        context, settings.endpoint("acknowledged"), bind=True, high_water=HEADER_HIGH_WATER
    )
    tell = Publisher(
        context, settings.endpoint("summaries"), bind=True, high_water=SUMMARY_HIGH_WATER
    )
    inbox = Subscriber(
        context, settings.endpoint("segmented"), bind=True, topics=[b""], high_water=high_water
    )
    Sort(
        series=SortedSeries(
            archive=settings.archive,
            settings_json=settings.model_dump_json(),
            closed=settings.runtime_directory / "closed",
            working_size=settings.normalise.working_size,
        ),
        reader=FrameLogReader(settings.frame_log_path),
        inbox=inbox,
        acknowledge=acknowledge,
        tell=tell,
        meter=meter,
        heart=heart,
        stop=stop,
        window=settings.ingest.window,
        flush_frames=settings.sort.flush_frames,
        flush_s=settings.sort.flush_s,
        n_threads=settings.sort.threads,
        full_disk_wait_s=settings.archive.full_disk_wait_s,
    ).run()


def _one_thread_each() -> None:
    """Keep OpenCV from starting threads of its own: the stages share out the processors."""
    import cv2

    cv2.setNumThreads(1)


def _make_feed(settings: Settings) -> Any:
    feed = settings.feed
    if feed.kind == "native":
        from hrtem_stream.sources.native import FeedLimits, NativeSource

        return NativeSource(
            feed.native.endpoint,
            pattern=feed.native.pattern,
            bind=feed.native.bind,
            limits=FeedLimits(max_frame_bytes=int(feed.native.max_frame_mib * 2**20)),
        )
    if feed.kind == "replay":
        from hrtem_stream.sources.replay import ReplaySource

        return ReplaySource(
            feed.replay.paths,
            rate=feed.replay.rate,
            n_repeats=feed.replay.repeat,
            memory_bytes=int(feed.replay.memory_mib * 2**20),
        )
    from hrtem_stream.sources.simulated import SimulatedSource

    return SimulatedSource(
        n_frames=feed.simulated.n_frames,
        size=feed.simulated.size,
        seed=feed.simulated.seed,
        rate=feed.simulated.rate,
        series=feed.series,
    )


_BUILDERS: dict[str, Callable[[Settings, int, Any, Heart, StopRequest], None]] = {
    "ingest": _run_ingest,
    "normalise": _run_normalise,
    "segment": _run_segment,
    "sort": _run_sort,
}


def _start_meter(settings: Settings, name: str, index: int, heart: Heart) -> Meter:
    from hrtem_stream.runtime.meter import Meter

    meter = Meter(name)
    if settings.metrics.enabled:
        first = settings.metrics.port
        port = first and first + METRICS_OFFSETS[name] + index
        heart.metrics_port = meter.serve(settings.metrics.host, port)
    return meter


def _process_name(name: str, index: int) -> str:
    return f"{name}-{index}" if name == "segment" else name


def _heart_path(runtime: Path, name: str, index: int) -> Path:
    return runtime / f"{_process_name(name, index)}.heart"


def _process_spec(settings: Settings, name: str, index: int) -> ProcessSpec:
    from hrtem_stream.runtime.supervisor import ProcessSpec

    runtime = settings.runtime_directory
    command = [sys.executable, "-m", "hrtem_stream.pipeline", name, str(index), str(runtime)]
    return ProcessSpec(
        _process_name(name, index),
        [*command, str(os.getpid())],
        _MEMORY_ENVIRONMENT,
        _heart_path(runtime, name, index),
    )


def _progress(settings: Settings) -> Progress:
    runtime = settings.runtime_directory
    ingest = read_beat(_heart_path(runtime, "ingest", 0))
    sort = read_beat(_heart_path(runtime, "sort", 0))
    return Progress(ingest.n_done, sort.n_done, ingest.n_expected)


@contextlib.contextmanager
def _session_lock(settings: Settings) -> Iterator[None]:
    runtime = settings.runtime_directory
    try:
        runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(f"folder {runtime} cannot be made: {error.strerror}") from None
    message = f"session {settings.session.name} runs already; give this one another session.name"
    with _lock(runtime.with_name(f"{runtime.name}.lock"), message) as path:
        yield
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _stage_lock(runtime: Path, name: str, index: int) -> Iterator[None]:
    """Hold the stage's lock before it binds: a second bind of an ipc path steals it silently."""
    process = _process_name(name, index)
    runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(runtime / f"{process}.lock", f"{process} of this session runs already"):
        yield


@contextlib.contextmanager
def _lock(path: Path, message: str) -> Iterator[Path]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(message) from None
        yield path


def _clear(runtime: Path) -> None:
    """Remove what an earlier session of the name left, but for the lists of suspects."""
    for path in runtime.iterdir():
        if path.suffix != ".suspects":
            path.unlink()


def _sweep() -> None:
    """Remove what replays and demos left whose command was killed: they are not resumed."""
    folders = [*Path("/dev/shm").glob(f"hrtem-{os.getuid()}-*")]
    folders += Path(f"/tmp/hrtem-{os.getuid()}").glob("*")
    for folder in folders:
        found = re.search(r"(?:replay|demo)-(\d+)(?:\.lock)?$", folder.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
            else:
                folder.unlink(missing_ok=True)


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


def _note_failure(runtime: Path, message: str) -> None:
    with contextlib.suppress(OSError):
        (runtime / "failure").write_text(message, encoding="utf-8")


def _failure(runtime: Path) -> str:
    with contextlib.suppress(OSError):
        return (runtime / "failure").read_text(encoding="utf-8")
    return ""


def _exit_code(error: HrtemError) -> int:
    match error:
        case SettingsError():
            return EXIT_SETTINGS
        case FeedError():
            return EXIT_FEED
        case ArchiveError():
            return EXIT_ARCHIVE
        case _:
            return EXIT_FAILURE


def _main(arguments: list[str]) -> int:
    name, index, runtime, parent = arguments
    die_with_parent(int(parent))
    text = (Path(runtime) / "settings.json").read_text(encoding="utf-8")
    return run_stage(name, int(index), settings_from_json(text))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
