"""Follows a session from outside: summaries, heartbeats, metrics, and what it missed from the file.

Two threads do so, one that listens and one that looks once a second. The page reads what they
found; nothing here is heard by any stage, but for the pause of saving, which is a file.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from hrtem_stream.archive.marks import Marks, marks_of, marks_path, read_marks, write_marks
from hrtem_stream.archive.reader import Archive, open_archive
from hrtem_stream.archive.rotation import present_files
from hrtem_stream.errors import ArchiveError, WireError
from hrtem_stream.messages import FrameSummary, SeriesStatus, Station
from hrtem_stream.runtime.pause import go_on, pause, paused_since
from hrtem_stream.runtime.process import is_supervised
from hrtem_stream.runtime.readings import Reading, read_process
from hrtem_stream.settings import Settings
from hrtem_stream.transport.summaries import (
    STATIONS_TOPIC,
    STATUS_TOPIC,
    SUMMARY_TOPIC,
    decode_stations,
    decode_status,
    decode_summary,
)
from hrtem_stream.web.elsewhere import elsewhere, with_elsewhere
from hrtem_stream.web.rates import RateOf, SilenceOf
from hrtem_stream.web.series_view import SeriesView
from hrtem_stream.web.strip import Situation, StageState, judge

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
CATCH_UP_INTERVAL_S = 2.0
CATCH_UP_SHARE = 0.05
"""Share of the time that reading the archive may take."""
STAGES = ("ingest", "normalise", "segment", "sort")


class Hearing(Protocol):
    """Where summaries come from."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for one."""

    def receive(self) -> Sequence[Any] | None:
        """Give the next message's parts, None when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Numbers of the session at one moment."""

    states: Sequence[StageState] = ()
    rate: float | None = None
    """Frames archived a second."""
    log_fill: float | None = None
    free_bytes: int | None = None
    full_in_s: float = math.inf
    n_expected: int | None = None
    paused_s: float | None = None
    can_pause: bool = False
    elsewhere: Sequence[Station] = ()
    """Processes of the session on other hosts."""


class Watch:
    """What is known of a session, kept up to date.

    Parameters
    ----------
    settings
        Of the session.
    hearing
        Where summaries come from; None to look at a finished archive.
    metrics_token
        What the stages' metrics ask for off loopback.
    """

    def __init__(
        self, settings: Settings, *, hearing: Hearing | None, metrics_token: str | None = None
    ) -> None:
        self.settings = settings
        self.gauges = Gauges()
        self.stations: tuple[Station, ...] = ()
        """Processes on whatever host, as `sort` last heard of them."""
        self.has_ended = False
        self.lock = threading.RLock()
        self._hearing = hearing
        self._metrics_token = metrics_token
        self._view: SeriesView | None = None
        self._marks = Marks(series_id="")
        self._past: set[str] = set()
        self._stop = threading.Event()
        self._rates = {name: RateOf() for name in ("camera", "stored", *STAGES)}
        self._feed, self._archive = SilenceOf(), SilenceOf()
        self._next_catch_up_s = 0.0
        self._threads = [
            threading.Thread(target=self._look_on, name="look", daemon=True),
            *(
                [threading.Thread(target=self._listen, name="listen", daemon=True)]
                if hearing
                else []
            ),
        ]

    @classmethod
    def of_archive(cls, settings: Settings, path: Path) -> Watch:
        """Watch a finished archive: nothing moves, everything can be looked at and marked.

        Raises
        ------
        ArchiveError
            It cannot be read.
        """
        watch = cls(settings, hearing=None)
        with open_archive(path) as archive:
            start, ledger = archive.header.start, archive.ledger
            status = SeriesStatus(
                series=start.series, series_id=start.series_id, n_expected=start.n_expected,
                pixel_size_nm=start.calibration.pixel_size_nm, n_archived=len(archive),
                n_lost=ledger.lost,
                lost_reason=ledger.losses[-1].reason if ledger.losses else "",
                archive=str(path), is_closed=archive.is_complete,
            )  # fmt: skip
            watch._note_status(status)
            watch._marks = marks_of(archive)
            _fill(watch._present(), archive)
        watch.has_ended = True
        return watch

    def start(self) -> None:
        """Begin to follow the session."""
        for thread in self._threads if self._hearing else []:
            thread.start()

    def stop(self) -> None:
        """Stop, within a second."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2.0)

    @property
    def view(self) -> SeriesView | None:
        """The present series; None before the first."""
        return self._view

    @property
    def hears_nothing(self) -> bool:
        """Whether a finished archive is looked at, and no session."""
        return self._hearing is None

    @property
    def marks(self) -> Marks:
        """What was said of the present series."""
        return self._marks

    def change_mark(self, row: int, **changes: Any) -> None:
        """Change what is said of a frame, such as `star=True`, and keep it.

        Two changes at once, of whomever, both count.

        Raises
        ------
        ValueError
            As `Marks.with_mark`.
        OSError
            It cannot be kept; it is not shown either.
        """
        with self.lock:
            mark = replace(self._marks.of(row), **changes)
            self._keep(self._marks.with_mark(row, mark))

    def set_threshold(self, threshold: float) -> None:
        """Set the least graphene fraction of a frame that is kept; as `change_mark`."""
        with self.lock:
            self._keep(self._marks.with_threshold(threshold))

    def pause_saving(self) -> None:
        """Pause saving."""
        pause(self.settings.runtime_directory)
        self.look()

    def go_on_saving(self) -> None:
        """Go on saving."""
        go_on(self.settings.runtime_directory)
        self.look()

    @contextlib.contextmanager
    def open_row(self, row: int) -> Any:
        """Open the file in which a row of the present series lies; give it and its index there.

        Raises
        ------
        ArchiveError
            It is not to be had.
        """
        for path in reversed(self._files()):
            with open_archive(path) as archive:
                index = row - archive.header.first_row
                if 0 <= index < len(archive):
                    yield archive, index
                    return
        raise ArchiveError(f"frame {row} is not in the archive")

    def take(self, summary: FrameSummary) -> None:
        """Note a summary."""
        with self.lock:
            if summary.series_id in self._past:
                return
            self._turn_to(summary.series, summary.series_id)
            self._present().take(summary)

    def look(self) -> None:
        """Read hearts, metrics and disk, and judge the stages."""
        settings, runtime = self.settings, self.settings.runtime_directory
        n_workers = settings.segment.workers
        hearts = {name: [runtime / f"{name}.heart"] for name in STAGES}
        hearts["segment"] = [runtime / f"segment-{index}.heart" for index in range(n_workers)]
        host, token = settings.metrics.host, self._metrics_token
        readings = {
            name: [read_process(path, host=host, token=token) for path in paths]
            for name, paths in hearts.items()
        }
        here, stations = socket.gethostname(), self.stations
        others = elsewhere(readings, stations, host=here)
        readings = with_elsewhere(readings, stations, host=here)
        now_s = time.monotonic()
        done = {name: sum(r.n_done for r in group) for name, group in readings.items()}
        ingest, sort = readings["ingest"][0], readings["sort"][0]
        n_received = int(ingest.value("frames_received")) or done["ingest"]
        rates = {name: self._rates[name].note(now_s, done[name]) for name in STAGES}
        rates["camera"] = self._rates["camera"].note(now_s, n_received)
        stored = self._rates["stored"].note(now_s, sort.value("stored_bytes"))
        folder = self._folder()
        free = shutil.disk_usage(folder).free if folder else None
        full_in_s = free / stored if free is not None and stored else math.inf
        paused = paused_since(runtime)
        paused_s = None if paused is None else max(0.0, time.time() - paused)
        with self.lock:
            situation = Situation(
                readings=readings, rates=rates, is_supervised=is_supervised(runtime),
                has_log=settings.frame_log_path.exists(), wishes=settings.segment.segmenter,
                feed_silent_s=self._feed.note(now_s, n_received),
                archive_silent_s=self._archive_silence(now_s, ingest, sort),
                paused_s=paused_s, waits_when_paused=settings.feed.waits_when_paused,
                free_bytes=free, full_in_s=full_in_s, folder=str(folder or ""),
                **self._of_series(),
            )  # fmt: skip
            self.gauges = Gauges(
                states=judge(situation), rate=rates["sort"],
                log_fill=ingest.values.get("frame_log_fill_ratio"), free_bytes=free,
                full_in_s=full_in_s, n_expected=self._n_expected(ingest), paused_s=paused_s,
                can_pause=bool(ingest.pid), elsewhere=others,
            )  # fmt: skip

    def catch_up(self) -> None:
        """Read from the archive what was missed, if anything was."""
        with self.lock:
            view = self._view
            if view is None or view.is_complete:
                return
            missing = view.missing()
        for path in self._files():
            try:
                with open_archive(path) as archive:
                    if archive.header.start.series_id != view.series_id:
                        continue
                    rows = archive.rows
                    if missing.size and rows.size and rows[-1] >= missing[0]:
                        self._fill_view(view, archive)
            except ArchiveError as error:  # it is renamed just now, or the disk is in trouble
                logger.debug("%s", error)

    def _fill_view(self, view: SeriesView, archive: Archive) -> None:
        columns = _columns(archive)
        with self.lock:
            view.fill(columns["rows"], **{k: v for k, v in columns.items() if k != "rows"})

    def _listen(self) -> None:
        hearing = self._hearing
        while hearing is not None and not self._stop.is_set():
            hearing.wait(0.2)
            while not self._stop.is_set() and (parts := hearing.receive()) is not None:
                self.hear(parts)

    def hear(self, parts: Sequence[Any]) -> None:
        """Take one message; what is not understood is dropped."""
        try:
            topic = bytes(parts[0][:16]) if parts else b""
            if topic == SUMMARY_TOPIC:
                self.take(decode_summary(parts))
            elif topic == STATUS_TOPIC:
                self._note_status(decode_status(parts))
            elif topic == STATIONS_TOPIC:
                self.stations = decode_stations(parts)
        except WireError as error:
            logger.debug("a message was dropped: %s", error)

    def _note_status(self, status: SeriesStatus) -> None:
        with self.lock:
            if status.series_id in self._past:
                return
            self._turn_to(status.series, status.series_id)
            is_first = self._present().status is None
            self._present().note_status(status)
            if is_first:
                self._read_marks(status)

    def _read_marks(self, status: SeriesStatus) -> None:
        try:
            found = read_marks(marks_path(Path(status.archive)), series_id=status.series_id)
        except ArchiveError as error:
            logger.warning("%s", error)
            return
        if found is not None:
            self._marks = found

    def _look_on(self) -> None:
        while not self._stop.wait(LOOK_INTERVAL_S):
            try:
                self.look()
                began_s = time.monotonic()
                if began_s >= self._next_catch_up_s:
                    self.catch_up()
                    took_s = time.monotonic() - began_s
                    pause_s = max(CATCH_UP_INTERVAL_S, took_s / CATCH_UP_SHARE)
                    self._next_catch_up_s = began_s + pause_s
            except OSError as error:
                logger.warning("the session cannot be looked at: %s", error)

    def _turn_to(self, series: str, series_id: str) -> None:
        """Begin a view where another series is spoken of."""
        if self._view is not None and self._view.series_id == series_id:
            return
        if self._view is not None:
            self._past.add(self._view.series_id)
        self._view = SeriesView(series, series_id)
        self._marks = Marks(series_id=series_id)

    def _present(self) -> SeriesView:
        if self._view is None:
            raise RuntimeError("no series is known")
        return self._view

    def _keep(self, marks: Marks) -> None:
        status = self._view.status if self._view else None
        if status is None:
            raise OSError("the series is not known well enough yet; try again in a second")
        write_marks(marks_path(Path(status.archive)), marks)
        self._marks = marks

    def _of_series(self) -> dict[str, Any]:
        view = self._view
        status = view.status if view else None
        return {
            "is_open": view is not None and not (status and status.is_closed),
            "n_lost": status.n_lost if status else 0,
            "lost_reason": status.lost_reason if status else "",
            "recent_methods": view.recent_methods if view else (),
        }

    def _archive_silence(self, now_s: float, ingest: Reading, sort: Reading) -> float:
        """Tell for how long nothing was archived although frames are on their way."""
        silent_s = self._archive.note(now_s, sort.n_done)
        is_waiting = ingest.value("in_progress_frames") > 0
        if not is_waiting:
            self._archive.wake(now_s)
            return 0.0
        # The first frame may find something to compile, so starting up is no stall.
        return silent_s if sort.n_done or silent_s > self.settings.session.start_up_s else 0.0

    def _n_expected(self, ingest: Reading) -> int | None:
        status = self._view.status if self._view else None
        return (status.n_expected if status else None) or ingest.n_expected or None

    def _folder(self) -> Path | None:
        """Give the folder of the archive, where it is on this host."""
        status = self._view.status if self._view else None
        archive = self.settings.archive
        path = Path(status.archive if status else archive.file or Path(archive.directory) / "x")
        return path.parent if path.parent.is_dir() else None

    def _files(self) -> list[Path]:
        """List the files of the present series on this host."""
        status = self._view.status if self._view else None
        if status is None:
            return []
        per_file = self.settings.archive.frames_per_file or None
        return present_files(Path(status.archive), frames_per_file=per_file)


def _columns(archive: Archive) -> dict[str, Any]:
    """Read the scores; of a file that grows meanwhile, as far as all of them reach."""
    columns = {
        "rows": archive.rows,
        "fractions": archive.score("graphene_fraction"),
        "methods": archive.score("method").tolist(),
        "sequences": archive.score("sequence"),
    }
    n = min(map(len, columns.values()))
    return {name: values[:n] for name, values in columns.items()}


def _fill(view: SeriesView, archive: Archive) -> None:
    columns = _columns(archive)
    view.fill(columns.pop("rows"), **columns)
