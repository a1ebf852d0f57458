"""What a session shows to those who watch machines: ports for Prometheus, states for systemd."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from hrtem_stream.pipeline.names import heart_path, process_name, stage_processes
from hrtem_stream.pipeline.security import metrics_token
from hrtem_stream.runtime.heart import read_beat
from hrtem_stream.runtime.notify import notify
from hrtem_stream.runtime.targets import TargetFile
from hrtem_stream.settings import Settings

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
SUPERVISOR = "supervisor"
SUPERVISOR_OFFSET = 3


class Observation:
    """Keeps Prometheus and systemd informed of a session, as a context.

    Parameters
    ----------
    settings
        Of the session.
    restarts
        Gives the restarts of each process so far.
    """

    def __init__(self, settings: Settings, *, restarts: Callable[[], Mapping[str, int]]) -> None:
        self._settings = settings
        self._restarts = restarts
        self._targets = TargetFile(settings.targets_path, session=settings.session.name)
        self._hearts = {
            process_name(name, index): heart_path(settings.runtime_directory, name, index)
            for name, index in stage_processes(settings)
        }
        self._addresses: dict[str, str] = {}
        self._next_s = 0.0
        self._is_ready = False
        self._watchdog = "WATCHDOG_USEC" in os.environ

    def __enter__(self) -> Observation:
        metrics = self._settings.metrics
        if metrics.enabled:
            from hrtem_stream.runtime.host_meter import host_registry
            from hrtem_stream.runtime.meter import serve_metrics

            registry = host_registry(_existing(self._settings.archive_directory), self._restarts)
            wanted = metrics.port and metrics.port + SUPERVISOR_OFFSET
            token = metrics_token(self._settings)
            port = serve_metrics(registry, metrics.host, wanted, token=token)
            self._addresses[SUPERVISOR] = f"{metrics.host}:{port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        notify("STOPPING=1")
        self._targets.remove()

    def look(self) -> None:
        """Tell what has changed; call it often, it does something once a second."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + INTERVAL_S
        beats = {process: read_beat(path) for process, path in self._hearts.items()}
        host = self._settings.metrics.host
        for process, beat in beats.items():
            if beat.metrics_port:
                self._addresses[process] = f"{host}:{beat.metrics_port}"
        try:
            self._targets.write(self._addresses)
        except OSError as error:
            logger.warning("Prometheus does not find the session: %s", error)
            self._next_s = now_s + 60 * INTERVAL_S
        if not self._is_ready and all(beat.beat_ns for beat in beats.values()):
            self._is_ready = True
            notify("READY=1")
        last = list(beats)[-1]  # `sort`, unless it runs on another host
        done = "archived" if last == "sort" else "done"
        watchdog = "\nWATCHDOG=1" if self._watchdog else ""
        notify(f"STATUS={beats[last].n_done} frames {done} since {last} began{watchdog}")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
