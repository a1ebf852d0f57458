"""Wires everything: builds the stages from the settings, and runs a session of them.

The only room that knows everybody. A stage's process starts here (`python -m
hrtem_stream.pipeline`).
"""

from hrtem_stream.pipeline.names import (
    EXIT_ARCHIVE,
    EXIT_DIFFERENT,
    EXIT_FAILURE,
    EXIT_FEED,
    EXIT_LOST,
    EXIT_SETTINGS,
    closed_archives,
    stage_processes,
)
from hrtem_stream.pipeline.scaling import make_scaling
from hrtem_stream.pipeline.segmenter import make_segmenter
from hrtem_stream.pipeline.session import Progress, SessionResult, check_output, run_session
from hrtem_stream.pipeline.stages import run_stage

__all__ = [
    "EXIT_ARCHIVE", "EXIT_DIFFERENT", "EXIT_FAILURE", "EXIT_FEED", "EXIT_LOST", "EXIT_SETTINGS",
    "Progress", "SessionResult", "check_output", "closed_archives", "make_scaling",
    "make_segmenter", "run_session", "run_stage", "stage_processes",
]  # fmt: skip
