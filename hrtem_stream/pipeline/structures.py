"""Finds structures in a sample of the frames while a session runs: a process beside the stages.

It hears how the series stands, reads frames from the archive that grows, and takes what is left of
the processor. It cannot slow or lose a frame, and a session goes on without it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hrtem_stream.errors import WireError
from hrtem_stream.runtime.log import set_up_logging
from hrtem_stream.runtime.process import StopRequest
from hrtem_stream.settings import Settings

if TYPE_CHECKING:
    from hrtem_stream.messages import SeriesStatus
    from hrtem_stream.transport.sockets import Subscriber

logger = logging.getLogger(__name__)

STATUSES_KEPT = 16
WAIT_S = 0.5
STOP_S = 15.0
"""A large frame takes seconds; what is under way when the session ends is still written."""


def run_structures(settings: Settings) -> int:
    """Work until told to stop; give the exit code."""
    from hrtem_stream.archive.live_structures import LiveStructures
    from hrtem_stream.archive.rotation import present_files
    from hrtem_stream.transport.guard import Guard
    from hrtem_stream.transport.sockets import Subscriber, make_context
    from hrtem_stream.transport.summaries import STATUS_TOPIC

    set_up_logging(settings.session.log_level, "structures")
    _yield_the_processor()
    stop = StopRequest()
    is_open = settings.security.insecure == "everything"
    hearing = Subscriber(
        make_context(), settings.endpoint("summaries"), bind=False, topics=[STATUS_TOPIC],
        high_water=STATUSES_KEPT, guard=Guard(settings.security_directory, is_open=is_open),
    )  # fmt: skip
    found = LiveStructures(every=settings.structure.every)
    per_file = settings.archive.frames_per_file or None
    archive, is_busy = "", False
    while not stop.is_set:
        hearing.wait(0.0 if is_busy else WAIT_S)
        archive = _newest(hearing, archive)
        files = present_files(Path(archive), frames_per_file=per_file)[-2:] if archive else []
        if archive:
            found.finish(files)
        is_busy = found.step(files)
    found.finish()
    return 0


def _newest(hearing: Subscriber, archive: str) -> str:
    """Give the archive of the series under way, as far as was heard."""
    from hrtem_stream.transport.summaries import decode_status

    status: SeriesStatus | None = None
    while (parts := hearing.receive()) is not None:
        try:
            status = decode_status(parts)
        except WireError as error:
            logger.debug("a message was dropped: %s", error)
    return status.archive if status else archive


def _yield_the_processor() -> None:
    """Run when nobody else wants to."""
    import cv2

    cv2.setNumThreads(1)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
