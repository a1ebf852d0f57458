"""Builds each stage from the settings, and runs it in its process.

A process imports only what its own stage needs, as `ingest` must start fast.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrtem_stream.errors import ArchiveError, FeedError, HrtemError, SettingsError
from hrtem_stream.pipeline.feeds import make_feed
from hrtem_stream.pipeline.names import (
    EXIT_ARCHIVE,
    EXIT_FAILURE,
    EXIT_FEED,
    EXIT_SETTINGS,
    heart_path,
    note_failure,
    process_name,
    stage_lock,
)
from hrtem_stream.pipeline.refusals import ListenedFeed, note_refusal
from hrtem_stream.pipeline.scaling import make_scaling
from hrtem_stream.pipeline.security import check_access, make_guard, metrics_token
from hrtem_stream.pipeline.segmenter import make_segmenter
from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.log import set_up_logging
from hrtem_stream.runtime.process import StopRequest
from hrtem_stream.runtime.profile import write_profile
from hrtem_stream.settings import Settings

if TYPE_CHECKING:
    import zmq

    from hrtem_stream.runtime.meter import Meter
    from hrtem_stream.stages.fallback import Segmenter
    from hrtem_stream.transport.guard import Guard
    from hrtem_stream.transport.sockets import Publisher, Subscriber

logger = logging.getLogger(__name__)

LINGER_S = 1.0
PATIENCE_S = 1.2
"""Longer than the time between two marks of a shard on which nothing is outstanding."""
LEAVE_WITHIN_S = 3.0
"""Less than the supervisor waits for a stage of all shards."""
METRICS_OFFSETS = {"ingest": 0, "normalise": 1, "sort": 2, "segment": 10}


def run_stage(name: str, index: int, settings: Settings) -> int:
    """Run one stage in this process until it is told to stop; give the exit code."""
    set_up_logging(
        settings.session.log_level, process_name(name, index), events=settings.event_log_path
    )
    runtime = settings.runtime_directory
    stop = StopRequest()
    try:
        check_access(settings, [name])
        _check_index(settings, name, index)
        with stage_lock(runtime, name, index):
            heart = Heart(heart_path(runtime, name, index))
            meter = _start_meter(settings, name, index, heart)
            try:
                _BUILDERS[name](settings, index, meter, heart, stop)
            finally:
                if meter.stopwatch.has_begun:
                    profile = meter.stopwatch.profile(process_name(name, index), heart.n_done)
                    write_profile(runtime, profile)
    except HrtemError as error:
        logger.error("%s", error)
        note_failure(runtime, f"{name}: {error}")
        return _exit_code(error)
    except Exception:
        logger.critical("bug in %s:\n%s", name, traceback.format_exc())
        note_failure(runtime, f"{name}: {traceback.format_exc(limit=-1).strip()}")
        return EXIT_FAILURE
    return 0


def _check_index(settings: Settings, name: str, index: int) -> None:
    """Refuse a number that no shard has: such a worker would wait for ever.

    Raises
    ------
    SettingsError
        With the rule and the number.
    """
    n_processes = settings.segment.workers if name == "segment" else 1
    if index >= n_processes:
        what = "segment.workers" if name == "segment" else f"the number of {name} processes"
        raise SettingsError(f"--index must be below {what} = {n_processes}, got {index}")


def _run_ingest(
    settings: Settings, index: int, meter: Meter, heart: Heart, stop: StopRequest
) -> None:
    from hrtem_stream.runtime.pause import PauseSwitch
    from hrtem_stream.stages.account import SeriesAccount
    from hrtem_stream.stages.ingest import Ingest, log_capacity, open_log
    from hrtem_stream.transport.delivery import Dispatcher
    from hrtem_stream.transport.sockets import (
        HEADER_HIGH_WATER,
        Publisher,
        Subscriber,
        make_context,
    )

    context, guard = make_context(), make_guard(settings)
    outbox = Publisher(
        context, settings.endpoint("frames"), bind=True, high_water=HEADER_HIGH_WATER, guard=guard
    )
    inbox = Subscriber(
        context, settings.endpoint("acknowledged"), bind=False, topics=[b""],
        high_water=HEADER_HIGH_WATER, guard=guard,
    )  # fmt: skip
    path = settings.frame_log_path
    log, logged = open_log(path, log_capacity(path, settings.frame_log.capacity_mib))
    feed = ListenedFeed(make_feed(settings))
    ingest = Ingest(
        feed=feed,
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
        # A watched folder knows itself when nothing more is to be expected.
        idle_end_s=0.0 if settings.feed.kind == "folder" else settings.ingest.idle_end_s,
        first_item_s=settings.ingest.first_item_s,
        sends_pixels=settings.frame_log.pixels_to != "nobody",
        clock_ns=_wall_clock(settings),
        finished_mark=(
            None if settings.feed.is_live else settings.runtime_directory / "feed-finished"
        ),
        is_paused=PauseSwitch(settings.runtime_directory),
        is_recording=not settings.feed.is_live,
        waits_when_paused=settings.feed.waits_when_paused,
    )
    ingest.run()
    note_refusal(settings.runtime_directory, feed.refusal)
    log.remove()  # all of it is archived
    _close_in_order(inbox, outbox, context, guard)


def _run_normalise(
    settings: Settings, index: int, meter: Meter, heart: Heart, stop: StopRequest
) -> None:
    from hrtem_stream.pipeline.camera import make_camera
    from hrtem_stream.stages.normalise import Normalise
    from hrtem_stream.transport.frame_log import FrameLogReader

    _one_thread_each()
    reader = FrameLogReader(settings.frame_log_path)
    stage = Normalise(
        reader,
        working_size=settings.normalise.working_size,
        camera=make_camera(settings),
        passes_pixels=settings.frame_log.pixels_to == "sort",
        scaling=make_scaling(settings.normalise),
        follow_log=reader.follow,
    )
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
            wrap=_fault_of_the_drill(settings),
        ),
        working_size=settings.normalise.working_size,
        agreement_share=settings.segment.agreement_share,
        note=meter.note_segmented,
        clock_ns=_wall_clock(settings),
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
    from hrtem_stream.messages import Station
    from hrtem_stream.runtime.runner import Runner
    from hrtem_stream.runtime.suspicion import Suspicions
    from hrtem_stream.transport.sockets import Publisher, Subscriber, make_context
    from hrtem_stream.transport.wire import decode, encode

    stage.warm_up()
    context, guard = make_context(), make_guard(settings)
    high_water = 4 * settings.ingest.window + 64
    outbox = Publisher(
        context, settings.endpoint(give), bind=binds, high_water=high_water, guard=guard
    )
    inbox = Subscriber(
        context, settings.endpoint(take), bind=False, topics=topics, high_water=high_water,
        guard=guard, max_part_bytes=_max_part_bytes(settings),
    )  # fmt: skip
    suspicions = Suspicions(
        settings.runtime_directory / f"{process_name(stage.name, index)}.suspects"
    )
    Runner(
        stage, inbox=inbox, outbox=outbox, decode=decode, encode=encode, suspicions=suspicions,
        meter=meter, heart=heart, stop=stop, batch_frames=batch_frames, batch_wait_s=batch_wait_s,
        clock_ns=_wall_clock(settings),
        station=Station(
            stage=stage.name, index=index, host=socket.gethostname(), pid=os.getpid(), n_done=0
        ),
        patience_s=PATIENCE_S if stage.name == "segment" else 0.0,
        leave_within_s=settings.session.drain_s if stage.name == "segment" else LEAVE_WITHIN_S,
    ).run()  # fmt: skip
    _close_in_order(inbox, outbox, context, guard)


def _close_in_order(
    inbox: Subscriber, outbox: Publisher, context: zmq.Context[Any], guard: Guard
) -> None:
    """Let what was sent last leave this process before it ends."""
    inbox.close()
    outbox.close(linger_s=LINGER_S)
    guard.close()
    context.destroy()


def _run_sort(
    settings: Settings, index: int, meter: Meter, heart: Heart, stop: StopRequest
) -> None:
    from hrtem_stream.stages.series import SortedSeries
    from hrtem_stream.stages.sort import Sort
    from hrtem_stream.transport.frame_log import FrameLogReader
    from hrtem_stream.transport.sockets import (
        HEADER_HIGH_WATER,
        SUMMARY_HIGH_WATER,
        Announcer,
        Publisher,
        Subscriber,
        make_context,
    )
    from hrtem_stream.transport.summaries import SUMMARY_TOPIC

    reader = FrameLogReader(settings.frame_log_path)
    context, guard = make_context(), make_guard(settings)
    high_water = 4 * settings.ingest.window + 64
    acknowledge = Publisher(
        context, settings.endpoint("acknowledged"), bind=True, high_water=HEADER_HIGH_WATER,
        guard=guard,
    )  # fmt: skip
    tell = Announcer(
        context, settings.endpoint("summaries"), bind=True, topics=[SUMMARY_TOPIC],
        high_water=SUMMARY_HIGH_WATER, guard=guard,
    )  # fmt: skip
    inbox = Subscriber(
        context, settings.endpoint("segmented"), bind=True, topics=[b""], high_water=high_water,
        guard=guard, max_part_bytes=_max_part_bytes(settings),
    )  # fmt: skip
    Sort(
        series=SortedSeries(
            archive=settings.archive,
            settings_json=settings.model_dump_json(),
            closed=settings.runtime_directory / "closed",
            working_size=settings.normalise.working_size,
        ),
        reader=reader,
        follow_log=reader.follow,
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
        clock_ns=_wall_clock(settings),
    ).run()


def _max_part_bytes(settings: Settings) -> int:
    """Give the largest part that a stage may be sent."""
    from hrtem_stream.transport.sockets import MAX_MESSAGE_BYTES, MAX_PIXEL_BYTES

    return MAX_MESSAGE_BYTES if settings.frame_log.pixels_to == "nobody" else MAX_PIXEL_BYTES


def _wall_clock(settings: Settings) -> Callable[[], int]:
    """Give the clock that stamps frames, in nanoseconds since 1970."""
    if not settings.drill.folder:
        return time.time_ns
    from hrtem_stream.simulators.injected import JumpingClock

    return JumpingClock(Path(settings.drill.folder))


def _fault_of_the_drill(settings: Settings) -> Callable[[Segmenter], Segmenter]:
    """Give what makes a segmenter fail on demand of the drill, and never without one."""
    if not settings.drill.folder:
        return lambda choice: choice
    from hrtem_stream.simulators.injected import FailingSegmenter

    return lambda choice: FailingSegmenter(choice, Path(settings.drill.folder))


def _one_thread_each() -> None:
    """Keep OpenCV from starting threads of its own: the stages share out the processors."""
    import cv2

    cv2.setNumThreads(1)


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
        heart.metrics_port = meter.serve(settings.metrics.host, port, token=metrics_token(settings))
    return meter


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
