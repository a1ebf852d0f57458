"""The strip of the five stages: how each does, and what to do where it does not.

Camera, ingest, normalise, segment and sort each have a level: ok, idle (nothing to do), amber
(degraded, nothing is lost) or red (frames are lost, or stand still). Red and amber come with the
sentence that says what to do. Everything is judged from readings: nothing here asks anybody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hrtem_stream.runtime.pause import PAUSED
from hrtem_stream.runtime.readings import Reading
from hrtem_stream.web.elsewhere import rivals

Level = Literal["ok", "idle", "amber", "red"]
NAMES = ("camera", "ingest", "normalise", "segment", "sort")

SLOW_BEAT_S = 2.0
"""A heart that stands still for longer is a stall."""
START_UP_S = 120.0
SILENT_S = 5.0
"""A camera silent for longer within a series is worth a look; frames still for so long, a stall."""
FULL_LOG = 0.8
LEAST_DISK_BYTES = 64 << 20
DISK_SOON_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """One cell of the strip."""

    name: str
    level: Level = "ok"
    rate: float | None = None
    """Frames a second; None when it is not known."""
    queue: int | None = None
    lost: int | None = None
    method: str = ""
    sentence: str = ""
    """What is the matter and what to do, empty when all is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the strip is judged from."""

    readings: Mapping[str, Sequence[Reading]]
    """By stage; one for each process, those of other hosts behind those of this one."""
    rates: Mapping[str, float | None]
    """Frames a second by stage."""
    is_supervised: bool = True
    """Whether somebody is there who starts stages again."""
    has_log: bool = True
    """Whether the frame log lies where the settings say."""
    is_open: bool = False
    """Whether a series is under way."""
    n_lost: int = 0
    lost_reason: str = ""
    wishes: str = "auto"
    """`segment.segmenter` of the settings."""
    recent_methods: Sequence[str] = ()
    feed_silent_s: float = 0.0
    """Since the last frame was received."""
    archive_silent_s: float = 0.0
    """Since the last frame was archived, while frames are on their way; else 0."""
    paused_s: float | None = None
    """Since saving was paused; None when it is not."""
    waits_when_paused: bool = False
    free_bytes: int | None = None
    """On the disk of the archive."""
    full_in_s: float = math.inf
    folder: str = ""


def judge(now: Situation) -> list[StageState]:
    """Judge the five stages, in the order of the data's way."""
    if not now.is_supervised:
        return _abandoned(now)
    return [_camera(now), _ingest(now), _normalise(now), _segment(now), _sort(now)]


def worst(states: Sequence[StageState]) -> StageState | None:
    """Give the state that needs a person most; None when none does."""
    for level in ("red", "amber"):
        for state in states:
            if state.level == level:
                return state
    return None


def _abandoned(now: Situation) -> list[StageState]:
    """Judge the stages of a session whose supervisor is dead, and they with it."""
    where = f" {now.folder}" if now.folder else ", with the folder of the archives,"
    recover = f"“hrtem-stream recover{where}”"
    sentence = "The session is dead, and nobody starts it again. "
    if now.has_log:
        sentence += (
            "What reached the frame log is safe: “hrtem-stream run” with the same settings goes on "
            f"with it, or {recover} finishes it without the feed."
        )
    else:
        sentence += (
            "Its frame log is gone, and with it what was not archived yet. What the archive holds "
            f"is safe: {recover} finishes it, and “hrtem-stream run” begins anew."
        )
    return [
        StageState(name="camera", level="idle"),
        StageState(name="ingest", level="red", sentence=sentence),
        *(StageState(name=name, level="red") for name in NAMES[2:]),
    ]


def _camera(now: Situation) -> StageState:
    rate = now.rates.get("camera")
    if not now.is_open:
        return StageState(name="camera", level="idle", rate=rate)
    if now.paused_s is not None:
        what = (
            "the recording waits"
            if now.waits_when_paused
            else "what the camera sends meanwhile is declared as not saved"
        )
        return StageState(
            name="camera", level="amber", rate=rate,
            sentence=f"Saving is paused: {what}. Press “go on saving”.",
        )  # fmt: skip
    if now.feed_silent_s > SILENT_S and now.archive_silent_s <= SILENT_S:
        return StageState(
            name="camera", level="amber", rate=rate,
            sentence=f"No frame came for {now.feed_silent_s:.0f} s although the series is open. "
            "Look at the camera and its script; end the series there if it is through.",
        )  # fmt: skip
    return StageState(name="camera", rate=rate)


def _ingest(now: Situation) -> StageState:
    reading = _first(now, "ingest")
    state = _State("ingest", now, queue=int(reading.value("queue_frames")), lost=now.n_lost)
    fill = reading.value("frame_log_fill_ratio")
    waiting = reading.value("in_progress_frames")
    if now.n_lost and now.lost_reason != PAUSED:
        state.red(f"{now.n_lost} frames are lost: {now.lost_reason}. {_remedy(now.lost_reason)}")
    elif now.n_lost:
        state.amber(
            f"{now.n_lost} frames were not saved while saving was paused; all are declared."
        )
    if fill > FULL_LOG and waiting:
        state.amber(
            f"The frame log is {fill:.0%} full. Slow the camera down, add segment.workers, or "
            "enlarge frame_log.capacity_mib before the next session."
        )
    return state.judged()


def _normalise(now: Situation) -> StageState:
    reading = _first(now, "normalise")
    return _State("normalise", now, queue=int(reading.value("queue_frames"))).judged()


def _segment(now: Situation) -> StageState:
    readings = now.readings.get("segment", ())
    queue = sum(int(reading.value("queue_frames")) for reading in readings)
    latest = now.recent_methods[-1] if now.recent_methods else ""
    state = _State("segment", now, queue=queue, method=latest)
    n_bragg = sum(method == "bragg" for method in now.recent_methods)
    n_none = sum(method == "none" for method in now.recent_methods)
    if n_bragg and now.wishes != "bragg":
        reasons: dict[str, float] = {}
        for reading in readings:
            for reason, count in reading.labelled.get("segmenter_fallbacks", {}).items():
                reasons[reason] = reasons.get(reason, 0) + count
        why = max(reasons, key=lambda reason: reasons[reason]) if reasons else "see the log"
        state.amber(
            f"The Bragg filter stands in for the U-Net on {n_bragg} of the last "
            f"{len(now.recent_methods)} frames ({why.replace('_', ' ')}). Masks are coarser, "
            "nothing is lost; “hrtem-stream doctor” says what the U-Net needs."
        )
    if n_none:
        state.amber(
            f"{n_none} of the last {len(now.recent_methods)} frames cannot be analysed; they are "
            "archived raw, with the reason in scores/fault. Look at beam and detector."
        )
    return state.judged()


def _sort(now: Situation) -> StageState:
    reading = _first(now, "sort")
    state = _State("sort", now, queue=int(reading.value("queue_frames")))
    if now.free_bytes is not None and now.free_bytes < LEAST_DISK_BYTES:
        state.red(
            f"The disk of {now.folder} is full. Make room there: frames wait in the frame log, "
            "and saving goes on by itself."
        )
    elif now.full_in_s < DISK_SOON_S:
        state.amber(
            f"The disk of {now.folder} is full in {now.full_in_s / 60:.0f} minutes. "
            "Make room there."
        )
    elif now.archive_silent_s > SILENT_S:
        state.red(
            f"No frame was archived for {now.archive_silent_s:.0f} s although frames are on their "
            "way. Nothing is lost while the frame log has room; see the log of the session."
        )
    if reading.value("ledger_imbalance"):
        state.red("The ledger does not balance. Keep the files, and report this as a bug.")
    return state.judged()


class _State:
    """A cell while it is judged: the first red sentence stays, then the first amber one."""

    def __init__(
        self, name: str, now: Situation, *, queue: int, lost: int | None = None, method: str = ""
    ) -> None:
        self._name, self._now = name, now
        self._queue, self._lost, self._method = queue, lost, method
        self._level: Level = "ok"
        self._sentence = ""
        self._look_at_hearts()

    def red(self, sentence: str) -> None:
        """Say what is lost or stands still."""
        if self._level != "red":
            self._level, self._sentence = "red", sentence

    def amber(self, sentence: str) -> None:
        """Say what is degraded."""
        if self._level in ("ok", "idle"):
            self._level, self._sentence = "amber", sentence

    def judged(self) -> StageState:
        """Give the cell."""
        rate = self._now.rates.get(self._name)
        if self._level == "ok" and not self._now.is_open:
            self._level = "idle"
        return StageState(
            name=self._name, level=self._level, rate=rate, queue=self._queue, lost=self._lost,
            method=self._method, sentence=self._sentence,
        )  # fmt: skip

    def _look_at_hearts(self) -> None:
        everywhere = [r for r in self._now.readings.get(self._name, ()) if r.pid]
        readings = [r for r in everywhere if not r.host]
        dead = [r for r in readings if not r.is_alive]
        still = [
            r for r in readings
            if r.is_alive and r.n_done and SLOW_BEAT_S < r.beat_age_s < math.inf
        ]  # fmt: skip
        if dead:
            self.red(
                f"{self._name} ended and is started again by itself; its frames are sent again. "
                "If this comes back, see the log of the session."
            )
        elif still:
            self.red(
                f"{self._name} has not moved for {max(r.beat_age_s for r in still):.0f} s; it is "
                "restarted by itself if that goes on. Nothing is lost while the frame log has room."
            )
        self._look_elsewhere([r for r in everywhere if r.host])

    def _look_elsewhere(self, readings: Sequence[Reading]) -> None:
        silent = [r for r in readings if not r.is_alive]
        if silent:
            who = ", ".join(f"{self._name} {r.index} on {r.host}" for r in silent)
            others = any(r.is_alive for r in self._now.readings.get(self._name, ()))
            self.amber(
                f"{who} was not heard for {max(r.beat_age_s for r in silent):.0f} s. Nothing is "
                + ("lost: the others do its work. " if others else "lost while frames can wait. ")
                + "Look at that host and its connection; one that was taken away on purpose is "
                "forgotten after five minutes."
            )
        rival = rivals(readings)
        if rival:
            one, other = rival
            self.amber(
                f"{self._name} {one.index} runs twice, on {one.host} and {other.host}, and the "
                "same frames are worked on twice. Give one of them another number in segment.here."
            )


def _first(now: Situation, name: str) -> Reading:
    readings = now.readings.get(name) or [Reading()]
    return readings[0]


def _remedy(reason: str) -> str:
    if reason.startswith("frame log full"):
        return (
            "Slow the camera down, add segment.workers, or enlarge frame_log.capacity_mib; a feed "
            "with pattern = push waits instead."
        )
    if reason.startswith("larger than the frame log"):
        return "Enlarge frame_log.capacity_mib."
    if reason.startswith("message not understood"):
        return "The camera's script sends what is no frame: compare it with the README."
    return (
        "They never came: look at the camera, its script and the network. The archive says which."
    )
