"""Log lines: one line an event, to stderr, and as JSON into the folder of the series."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from pathlib import Path

MAX_LINE_BYTES = 4000
"""Lines that short are appended whole, though several processes write into one file."""


def set_up_logging(level: str, process: str, *, events: Path | None = None) -> None:
    """Send log lines to stderr as `time level process: text`, and as JSON lines into a file.

    Parameters
    ----------
    level
        Least severe line on stderr. The file gets all from INFO on.
    process
        Name of the process.
    events
        The file; None for none. One that cannot be written is done without.
    """
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setLevel(level)
    form = f"%(asctime)s %(levelname)s {process}: %(message)s"
    to_stderr.setFormatter(logging.Formatter(form))
    handlers: list[logging.Handler] = [to_stderr]
    if events is not None:
        handlers.append(_JsonLines(events, process=process))
    lowest = min(to_stderr.level, logging.INFO) if events is not None else to_stderr.level
    logging.basicConfig(level=lowest, handlers=handlers, force=True)


class _JsonLines(logging.Handler):
    """Appends each event as one JSON object to a file that several processes share."""

    def __init__(self, path: Path, *, process: str) -> None:
        super().__init__(logging.INFO)
        self._path = path
        self._process = process

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line; where the disk is full or the folder gone, do without."""
        if record.levelno < logging.WARNING and not record.name.startswith("hrtem_stream"):
            return
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        event = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "pid": record.process,
            "room": record.name.removeprefix("hrtem_stream."),
            "text": record.getMessage(),
        }
        line = json.dumps(event, ensure_ascii=False).encode()
        if len(line) >= MAX_LINE_BYTES:
            event["text"] = str(event["text"])[: MAX_LINE_BYTES // 8] + "…"
            line = json.dumps(event).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o644)
            try:
                os.write(descriptor, line + b"\n")
            finally:
                os.close(descriptor)
        except OSError:
            return
