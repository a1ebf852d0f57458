"""Log lines: one line an event, to stderr, with the stage's name."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str, process: str) -> None:
    """Send log lines to stderr as `time level process: text`."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format=f"%(asctime)s %(levelname)s {process}: %(message)s",
        force=True,
    )
