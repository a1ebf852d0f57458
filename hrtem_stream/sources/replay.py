"""The replay feed: recorded frames as if they came from the microscope now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import FeedFrame, FeedGap, FeedItem, FeedPosition, SeriesStart
from hrtem_stream.series_name import series_name_from
from hrtem_stream.share import Share
from hrtem_stream.sources.calibration import NOTE
from hrtem_stream.sources.files import FrameFiles, FramePath, ReadFrame, open_frames
from hrtem_stream.sources.pacing import Rate, pace_of
from hrtem_stream.sources.playback import Playback

FEED: Final = "replay"


class ReplaySource:
    """Plays files as one series, again and again if wanted."""

    def __init__(
        self,
        paths: Sequence[FramePath],
        *,
        series: str = "",
        rate: Rate = "max",
        n_repeats: int = 1,
        memory_bytes: int = 1024**3,
        share: Share | None = None,
    ) -> None:
        """Note what to play.

        Parameters
        ----------
        paths
            Folders, images, stacks, arrays, HDF5 datasets or archives, as `open_frames` takes.
        series
            Name of the series; empty: after the first path.
        rate
            Frames per second, "max", or "real": as far apart as they were acquired.
        n_repeats
            How many times the frames are played; the sequence numbers go on.
        memory_bytes
            Decoded frames kept for repetition, so that reading does not limit the rate.
        share
            Of all these frames, repetitions included, the part that is played, as a series of its
            own that counts from 0; None: all.
        """
        self.can_wait = True
        self._share = share or Share()
        self._first = 0
        self._paths = list(paths)
        self._series = series or series_of(paths)
        self._rate = rate
        self._n_repeats = n_repeats
        self._memory = _Memory(FrameFiles([]), n_bytes=memory_bytes if n_repeats > 1 else 0)
        self._playback = self._play(None)

    def open(self, position: FeedPosition | None) -> None:
        """Find the frames.

        Raises
        ------
        FeedError
            When a path cannot be read, the rate is real and the files have no times, or
            `position` is not in this series.
        """
        self.close()
        files = open_frames(self._paths)
        if self._rate == "real" and not files.acquired_ns(0):
            raise FeedError(f"{self._paths[0]}: has no times of acquisition, rate cannot be real")
        self._memory = _Memory(files, n_bytes=self._memory.n_bytes)
        self._playback = self._play(position)

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return the next item, None when it is not due within `timeout_s`."""
        return self._playback.receive(timeout_s)

    def close(self) -> None:
        """Close the files and forget the frames."""
        self._memory.clear()

    def _play(self, position: FeedPosition | None) -> Playback:
        files = self._memory.files
        n_all = files.n_frames * self._n_repeats
        self._first, end = self._share.bounds(n_all)
        n_total = end - self._first
        metadata = {"paths": ", ".join(str(path) for path in self._paths)}
        metadata |= self._share.metadata(n_all)
        if files.calibration_notes:
            metadata[NOTE] = "; ".join(files.calibration_notes)
        start = SeriesStart(
            series=self._series,
            n_expected=n_total,
            feed=FEED,
            calibration=files.calibration,
            metadata=metadata,
        )
        return Playback(
            start,
            position=position,
            n_frames=n_total,
            frame=self._frame,
            acquired_ns=lambda sequence: files.acquired_ns(self._index(sequence)),
            pace=pace_of(self._rate),
        )

    def _frame(self, sequence: int) -> FeedFrame | FeedGap:
        files = self._memory.files
        index = self._index(sequence)
        missing = files.missing(index)
        if missing is not None:
            n_left = (
                self._share.bounds(files.n_frames * self._n_repeats)[1] - self._first - sequence
            )
            n_missing = min(missing.n_frames, n_left)
            return FeedGap(first=sequence, n_frames=n_missing, reason=missing.reason)
        frame = self._memory.read(index)
        return FeedFrame(
            sequence=sequence,
            pixels=frame.pixels,
            name=frame.name,
            acquired_ns=files.acquired_ns(index),
            fault=frame.fault,
            series=self._series,
        )

    def _index(self, sequence: int) -> int:
        """Say which of the frames in the files has a sequence number."""
        return (self._first + sequence) % self._memory.files.n_frames


def series_of(paths: Sequence[FramePath]) -> str:
    """Name a series after the first of its paths."""
    first = Path(str(paths[0]).partition("::")[0]).resolve() if paths else Path("series")
    return series_name_from(first.name if first.is_dir() else first.stem)


class _Memory:
    """Frames as read from files, kept as long as there is room."""

    def __init__(self, files: FrameFiles, *, n_bytes: int) -> None:
        self.files = files
        self.n_bytes = n_bytes
        self._room = n_bytes
        self._kept: dict[int, ReadFrame] = {}

    def read(self, index: int) -> ReadFrame:
        """Return a frame, from memory if it is there."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        frame = self.files.read(index)
        if frame.pixels.nbytes <= self._room:
            self._room -= frame.pixels.nbytes
            self._kept[index] = frame
        return frame

    def clear(self) -> None:
        """Close the files and forget the frames."""
        self._kept.clear()
        self._room = self.n_bytes
        self.files.close()
