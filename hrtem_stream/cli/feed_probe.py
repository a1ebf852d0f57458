"""Looks at a feed before a session: is it there, what comes, how fast, and is its clock right?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from hrtem_stream.cli.doctor import Finding
from hrtem_stream.errors import FeedError
from hrtem_stream.messages import (
    FeedFinished,
    FeedFrame,
    FeedGap,
    FeedItem,
    FeedReject,
    SeriesStart,
)
from hrtem_stream.settings import Settings

POLL_S = 0.1
CLOCK_TOLERANCE_S = 2.0


@dataclass(slots=True)
class _Heard:
    """What came, so far."""

    starts: list[SeriesStart] = field(default_factory=list)
    first: FeedFrame | None = None
    first_s: float = 0.0
    last_s: float = 0.0
    n_frames: int = 0
    n_bytes: int = 0
    n_faulty: int = 0
    n_missing: int = 0
    rejects: list[str] = field(default_factory=list)
    behind_s: float | None = None
    """How far the feed's clock lies behind ours when a frame came, the least of all frames."""
    following: int = -1

    def note(self, item: FeedItem, now_s: float) -> None:
        """Note an item."""
        match item:
            case SeriesStart():
                self.starts.append(item)
                self.following = 0
            case FeedGap():
                self.n_missing += item.n_frames
                self.following = item.first + item.n_frames
            case FeedReject():
                self.rejects.append(item.message)
            case FeedFrame():
                self._note_frame(item, now_s)

    def _note_frame(self, frame: FeedFrame, now_s: float) -> None:
        if self.first is None:
            self.first, self.first_s = frame, now_s
        elif 0 <= self.following < frame.sequence:
            self.n_missing += frame.sequence - self.following
        self.following = frame.sequence + 1
        self.last_s = now_s
        self.n_frames += 1
        self.n_bytes += frame.pixels.nbytes
        self.n_faulty += bool(frame.fault)
        if frame.acquired_ns:
            behind_s = (time.time_ns() - frame.acquired_ns) / 1e9
            self.behind_s = behind_s if self.behind_s is None else min(self.behind_s, behind_s)


def examine_feed(settings: Settings, *, wait_s: float, listen_s: float) -> list[Finding]:
    """Take frames from the feed for a while, and say what there is to say.

    Parameters
    ----------
    wait_s
        How long the first frame is waited for.
    listen_s
        How long frames are taken after it.

    Raises
    ------
    SettingsError
        The feed cannot be made of the settings, or needs what is not installed.
    """
    from hrtem_stream.pipeline.feeds import make_feed

    feed = make_feed(settings)
    began_s = time.monotonic()
    try:
        feed.open(None)
        heard = _listen(feed, wait_s=wait_s, listen_s=listen_s)
        is_connected = feed.is_connected
    except FeedError as error:
        return [Finding("feed", False, str(error))]
    finally:
        feed.close()
    where = _where(settings)
    if heard.first is None:
        state = "is there, but sent no frame" if is_connected else "does not answer"
        refused = f"; refused: {heard.rejects[-1]}" if heard.rejects else ""
        return [Finding("feed", False, f"{where} {state} within {wait_s:g} s{refused}")]
    return [
        Finding("feed", True, f"{where}, {_series(heard)}"),
        _first_frame(heard, heard.first, heard.first_s - began_s),
        _rate(heard),
        _losses(heard),
        _clock(heard),
    ]


def _listen(feed: Any, *, wait_s: float, listen_s: float) -> _Heard:
    heard = _Heard()
    deadline_s = time.monotonic() + wait_s
    while (now_s := time.monotonic()) < deadline_s:
        was_silent = heard.first is None
        item = feed.receive(POLL_S)
        if isinstance(item, FeedFinished):
            break
        if item is not None:
            heard.note(item, time.monotonic())
        if was_silent and heard.first is not None:
            deadline_s = now_s + listen_s
    return heard


def _where(settings: Settings) -> str:
    table = getattr(settings.feed, settings.feed.kind)
    place = getattr(table, "endpoint", "") or getattr(table, "path", "")
    return f"{settings.feed.kind} {place}".strip()


def _series(heard: _Heard) -> str:
    if not heard.starts:
        return "in the middle of a series"
    start = heard.starts[-1]
    length = f"{start.n_expected} frames" if start.n_expected else "without a count"
    pixel = start.calibration.pixel_size_nm
    scale = f"{pixel:.4g} nm a pixel" if pixel else "pixel size unknown (feed.calibration)"
    return f"series of {length}, {scale}"


def _first_frame(heard: _Heard, frame: FeedFrame, after_s: float) -> Finding:
    if frame.fault:
        return Finding("first frame", False, f"cannot be read: {frame.fault}")
    rows, columns = frame.pixels.shape
    least, largest = frame.pixels.min(), frame.pixels.max()
    text = (
        f"{rows} x {columns} {frame.pixels.dtype.name}, {least} to {largest}, after {after_s:.1f} s"
    )
    return Finding("first frame", True, text)


def _rate(heard: _Heard) -> Finding:
    took_s = heard.last_s - heard.first_s
    if heard.n_frames < 2 or took_s <= 0:
        return Finding("feed rate", True, "one frame only")
    per_s = (heard.n_frames - 1) / took_s
    megabytes = per_s * heard.n_bytes / heard.n_frames / 1e6
    return Finding("feed rate", True, f"{per_s:.1f} frames/s, {megabytes:.0f} MB/s")


def _losses(heard: _Heard) -> Finding:
    found = {
        "missing": heard.n_missing,
        "cannot be read": heard.n_faulty,
        "refused": len(heard.rejects),
    }
    text = ", ".join(f"{number} {word}" for word, number in found.items() if number)
    return Finding("feed losses", not text, f"{heard.n_frames} frames, {text or 'none missing'}")


def _clock(heard: _Heard) -> Finding:
    if heard.behind_s is None:
        return Finding("feed clock", True, "frames carry no time")
    way = "behind" if heard.behind_s >= 0 else "ahead of"
    text = f"{abs(heard.behind_s):.3f} s {way} this machine's, transfer included"
    return Finding("feed clock", abs(heard.behind_s) < CLOCK_TOLERANCE_S, text)
