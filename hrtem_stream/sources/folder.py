"""The watched folder: files that appear while a session runs, each taken once.

Files of one kind follow each other in one series: same folder, calibration, size and dtype. Where
one of these changes, or no file comes for long, the series ends and the next file begins another.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal, NamedTuple

import xxhash

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import (
    Calibration,
    FeedFrame,
    FeedGap,
    FeedItem,
    FeedPosition,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.series_name import series_name_from
from hrtem_stream.sources.array_files import growing_mrc_stack
from hrtem_stream.sources.calibration import NOTE
from hrtem_stream.sources.files import describe
from hrtem_stream.sources.folder_state import UNKNOWN, FolderState, Given, Identity
from hrtem_stream.sources.folder_watch import ChangeReports, Complete, FolderWatch, GivenUp
from hrtem_stream.sources.stack import (
    DECODE_ERRORS,
    FramePixels,
    Read,
    damaged_file,
    damaged_stack,
)

logger = logging.getLogger(__name__)

FEED: Final = "folder"
ANY_KEY: Final = ""
"""Key of a series that no good frame has come for: the first one decides."""


class FolderRules(NamedTuple):
    """Which files count, and when; times in seconds, see the settings of the same names."""

    patterns: tuple[str, ...] = ()
    recursive: bool = False
    existing: bool = True
    settle_s: float = 1.0
    give_up_s: float = 30.0
    end_after_s: float = 600.0
    poll_s: float = 1.0
    polling: Literal["auto", "always"] = "auto"


class FolderSource:
    """Gives the frames of files as they become complete.

    Parameters
    ----------
    folder
        The folder; it must be there.
    rules
        Which files count, and when.
    state
        File that remembers what was given; it lies beside the archives.
    seen_mark
        File that tells a restarted process that the session has looked at the folder before.
    archived
        Gives the sequence number after the last frame of a series in its archives, 0 for none;
        asked after a session that ended without order and whose frame log is gone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rules: FolderRules,
        state: Path,
        seen_mark: Path,
        archived: Callable[[str], int] = lambda series: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.can_wait = True
        self._folder = folder
        self._rules = rules
        self._state_path = state
        self._seen_mark = seen_mark
        self._archived = archived
        self._clock = clock
        self._state = FolderState(state)
        self._watch = self._new_watch()
        self._reports = ChangeReports(folder, polling=rules.polling, poll_s=rules.poll_s)
        self._items: deque[FeedItem] = deque()
        self._resumed: deque[tuple[Given, int]] = deque()
        self._file: _OpenFile | None = None
        self._series = ""
        self._key = ANY_KEY
        self._sequence = 0
        self._given_s = clock()

    def open(self, position: FeedPosition | None) -> None:
        """Begin to watch, where an earlier process left off.

        Raises
        ------
        FeedError
            When there is no such folder, or `position` is in a series that is not known here.
        """
        if not self._folder.is_dir():
            raise FeedError(f"{self._folder}: is no folder to watch")
        self._state = FolderState(self._state_path)
        self._watch = self._new_watch()
        if position is not None:
            self._go_on_at(position)
        else:
            self._go_on_after_disorder()
        if not self._rules.existing and not self._seen_mark.exists():
            for identity in self._watch.identities():
                if self._state.given(identity) is None:
                    self._state.note_file(Given(identity, "", 0, 0, reason="was there before"))
        self._seen_mark.parent.mkdir(parents=True, exist_ok=True)
        self._seen_mark.touch()
        self._reports.start()

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return what comes next, None when nothing came within `timeout_s` seconds."""
        if not self._items and self._file is None:
            self._take_next()
        if not self._items and self._file is not None:
            self._take_frame(self._file)
        if self._items:
            self._given_s = self._clock()
            return self._items.popleft()
        if self._reports.heard(timeout_s):
            self._watch.soon()
        self._end_if_silent()
        return self._items.popleft() if self._items else None

    def close(self) -> None:
        """Stop watching. Called when all that was given has been taken."""
        self._reports.close()
        if self._file is not None:
            self._file.close()
            self._file = None
        elif not self._items and not self._resumed:
            self._state.settle()

    def _new_watch(self) -> FolderWatch:
        rules = self._rules
        return FolderWatch(
            self._folder, patterns=rules.patterns, is_recursive=rules.recursive,
            settle_s=rules.settle_s, give_up_s=rules.give_up_s, poll_s=rules.poll_s,
            state=self._state, clock=self._clock,
        )  # fmt: skip

    # ------------------------------------------------------------- taking up

    def _go_on_at(self, position: FeedPosition) -> None:
        known = self._state.of_series(position.series)
        if not known:
            raise FeedError(f"no file of series {position.series!r} is known here")
        self._series = position.series
        self._sequence = position.next_sequence
        self._resumed.extend(_left(known, position.next_sequence))
        if self._state.open_series == position.series:
            self._key = self._state.open_key
            return
        # Its end was given and not taken, nor what followed.
        self._resumed.append((_END, 0))
        self._resumed.extend(_left(self._state.of_series(self._state.open_series), 0))

    def _go_on_after_disorder(self) -> None:
        """Give anew what the last session gave and nobody archived."""
        series = self._state.open_series
        if not series:
            return
        if not self._state.is_settled:
            n_archived = self._archived(series)
            left = _left(self._state.of_series(series), n_archived)
            logger.warning(
                "series %s was cut off: %d frames are archived, %d files are given anew",
                series, n_archived, len(left),
            )  # fmt: skip
            self._resumed.extend(left)
        self._state.end_series()

    # ------------------------------------------------------------- files

    def _take_next(self) -> None:
        if self._resumed:
            self._resume(*self._resumed.popleft())
            return
        found = self._watch.next()
        if isinstance(found, GivenUp):
            self._lose(found.identity, found.reason)
        elif isinstance(found, Complete):
            self._begin(found)

    def _resume(self, given: Given, n_taken: int) -> None:
        """Go on with a file that was noted before: where it was, or in a series of its own."""
        if given is _END:
            self._items.append(SeriesEnd(series=self._series, n_frames=self._sequence))
            self._series = ""
            return
        self._watch.forget(given.file.name)
        if given.reason:
            self._lose(given.file, given.reason)
            return
        if self._watch.refresh(given.file) is None:
            n_left = 1 if given.n_frames == UNKNOWN else given.n_frames - n_taken
            self._lose(given.file, "vanished", n_frames=n_left)
            return
        path = self._watch.path_of(given.file)
        is_growing = given.n_frames == UNKNOWN
        try:
            stack = growing_mrc_stack(path) if is_growing else describe(path)
        except (*DECODE_ERRORS, FeedError) as error:
            stack = damaged_stack(path, fault=str(error))
        self._begin(
            Complete(given.file, stack, is_growing),
            n_taken=given.skip + n_taken,
            is_noted=given.series == self._series,
        )

    def _begin(self, found: Complete, *, n_taken: int = 0, is_noted: bool = False) -> None:
        """Open a file, begin a series if it does not fit the present one, and note it."""
        file = _OpenFile(found, path=self._watch.path_of(found.identity))
        n_skipped = n_taken or self._n_given_before(found, file)
        file.skip(n_skipped)
        key = file.key(_group(found.identity))
        if self._series and key and self._key and key != self._key:
            self._end_series("files of another kind came")
        if not self._series:
            self._begin_series(found.identity, found.stack.calibration, found.stack.notes, key=key)
            is_noted = False
        self._key = self._key or key
        self._file = file
        if not is_noted:
            n_frames = UNKNOWN if found.is_growing else file.n_left + file.n_missing
            self._note(found.identity, n_frames, file)

    def _note(self, identity: Identity, n_frames: int, file: _OpenFile) -> None:
        first = self._sequence - file.n_taken
        given = Given(identity, self._series, first, n_frames, file.n_skipped, file.digest)
        self._state.note_file(given)

    def _n_given_before(self, found: Complete, file: _OpenFile) -> int:
        """Return how many frames of a stack were given before it went on growing."""
        last = self._state.last_given(found.identity.name)
        if last is None or not last.digest or last.digest != file.digest:
            return 0
        if last.n_frames == UNKNOWN or found.identity.n_bytes <= last.file.n_bytes:
            return 0
        return last.skip + last.n_frames

    def _begin_series(
        self, identity: Identity, calibration: Calibration, notes: tuple[str, ...], *, key: str
    ) -> None:
        group = _group(identity)
        name = self._folder.resolve().name + (f"_{group.replace('/', '_')}" if group else "")
        self._series = self._state.begin_series(series_name_from(name), key=key)
        self._key = key
        self._sequence = 0
        metadata = {"folder": str(self._folder), "first_file": identity.name}
        if notes:
            metadata[NOTE] = "; ".join(notes)
        self._items.append(
            SeriesStart(series=self._series, feed=FEED, calibration=calibration, metadata=metadata)
        )

    def _lose(self, identity: Identity, reason: str, *, n_frames: int = 1) -> None:
        """Declare a file lost that could not be read."""
        if not self._series:
            self._begin_series(identity, Calibration(), (), key=ANY_KEY)
        logger.warning("file %s is lost: %s", identity.name, reason)
        self._state.note_file(
            Given(identity, self._series, self._sequence, n_frames, reason=reason)
        )
        self._give_gap(n_frames, f"file could not be read ({identity.name}: {reason})")

    def _give_gap(self, n_frames: int, reason: str) -> None:
        self._items.append(FeedGap(first=self._sequence, n_frames=n_frames, reason=reason))
        self._sequence += n_frames

    # ------------------------------------------------------------- frames

    def _take_frame(self, file: _OpenFile) -> None:
        if file.n_left == 0 and file.is_growing:
            self._grow(file)
        if file.n_left == 0:
            if not file.is_growing:
                self._complete(file)
            return
        frame = file.read()
        self._items.append(
            FeedFrame(
                sequence=self._sequence,
                pixels=frame.pixels,
                name=file.name,
                acquired_ns=file.acquired_ns,
                fault=frame.fault,
                series=self._series,
            )
        )
        file.advance()
        self._sequence += 1

    def _grow(self, file: _OpenFile) -> None:
        """Look whether a stack that is being written has more frames, or is done."""
        now = self._watch.refresh(file.identity)
        if now is None:
            file.stop_growing()
            return
        if now != file.identity:
            file.grow(now, now_s=self._clock())
        elif self._clock() - file.changed_s > self._rules.settle_s:
            file.stop_growing()

    def _complete(self, file: _OpenFile) -> None:
        if file.was_growing:
            self._note(file.identity, file.n_taken, file)
        if file.n_missing:
            n_claimed = file.n_missing + file.n_skipped + file.n_taken
            reason = f"file is truncated ({file.identity.name} announces {n_claimed} frames)"
            self._give_gap(file.n_missing, reason)
        file.close()
        self._file = None

    # ------------------------------------------------------------- end

    def _end_if_silent(self) -> None:
        end_after_s = self._rules.end_after_s
        if not end_after_s or not self._series or self._file is not None:
            return
        if self._watch.n_waiting or self._clock() - self._given_s < end_after_s:
            return
        self._end_series(f"no file came for {end_after_s:g} s")

    def _end_series(self, reason: str) -> None:
        logger.info("series %s ends: %s", self._series, reason)
        self._items.append(SeriesEnd(series=self._series, n_frames=self._sequence))
        self._state.end_series()
        self._series, self._key = "", ANY_KEY


class _OpenFile:
    """A file whose frames are being given."""

    def __init__(self, found: Complete, *, path: Path) -> None:
        self.identity = found.identity
        self.is_growing = found.is_growing
        self.was_growing = found.is_growing
        self.changed_s = time.monotonic()
        self.n_skipped = 0
        self._path = path
        self._stack = found.stack
        self._opened = ExitStack()
        self._index = 0
        self._read = self._open()
        self._first = self._safely(0) if found.stack.n_frames else None

    @property
    def n_left(self) -> int:
        """Number of frames that are there and have not been given."""
        return self._stack.n_frames - self._index

    @property
    def n_missing(self) -> int:
        """Number of frames that the file announces and does not hold."""
        return self._stack.n_missing

    @property
    def n_taken(self) -> int:
        """Number of frames given now, without those given before."""
        return self._index - self.n_skipped

    @property
    def name(self) -> str:
        """Name of the frame to be read."""
        return self._stack.name(self._index)

    @property
    def acquired_ns(self) -> int:
        """When the frame to be read was acquired, 0 when not known."""
        return self._stack.acquired_ns(self._index)

    @property
    def digest(self) -> int:
        """Digest of the first frame, 0 when it cannot be read."""
        if self._first is None or self._first.fault:
            return 0
        return int(xxhash.xxh3_64_intdigest(self._first.pixels.tobytes()))

    def key(self, group: str) -> str:
        """Return what the files of a series have in common; empty for a file without a frame."""
        if self._first is None or self._first.fault:
            return ANY_KEY
        known = self._stack.calibration
        rounded = [
            "-" if value is None else f"{value:.3g}"
            for value in (known.pixel_size_nm, known.exposure_s, known.dose_e_per_nm2,
                          known.voltage_kv)
        ]  # fmt: skip
        pixels = self._first.pixels
        return " ".join([*rounded, str(pixels.shape), pixels.dtype.str, group])

    def skip(self, n_frames: int) -> None:
        """Pass over the first frames: they were given before."""
        self._index = self.n_skipped = min(n_frames, self._stack.n_frames)

    def read(self) -> FramePixels:
        """Read the frame that is next."""
        if self._index == 0 and self._first is not None:
            return self._first
        return self._safely(self._index)

    def advance(self) -> None:
        """Go on to the next frame."""
        self._index += 1

    def grow(self, identity: Identity, *, now_s: float) -> None:
        """Look at a file again that has changed."""
        self.identity = identity
        self.changed_s = now_s
        self._opened.close()
        try:
            self._stack = growing_mrc_stack(self._path)
        except (*DECODE_ERRORS, FeedError) as error:
            logger.warning("%s cannot be read on: %s", identity.name, error)
            self.is_growing = False
        self._read = self._open()

    def stop_growing(self) -> None:
        """Take the file for complete as it is."""
        self.is_growing = False

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def _open(self) -> Read:
        try:
            return self._opened.enter_context(self._stack.reader())
        except (*DECODE_ERRORS, FeedError) as error:
            fault = f"cannot read {self._path.name}: {error}"
            return lambda index: damaged_file(self._path, fault=fault)

    def _safely(self, index: int) -> FramePixels:
        try:
            return self._read(index)
        except DECODE_ERRORS as error:
            return damaged_file(self._path, fault=f"cannot read {self.identity.name}: {error}")


_END: Final = Given(Identity("", 0, 0), "", 0, 0)
"""Stands for the end of a series among files to be given anew."""


def _left(given: list[Given], next_sequence: int) -> list[tuple[Given, int]]:
    """Return the files with frames from a sequence number on, and how many were taken of each."""
    left = []
    for file in given:
        is_done = file.n_frames != UNKNOWN and file.first + file.n_frames <= next_sequence
        if not is_done and file.n_frames != 0:
            left.append((file, max(0, next_sequence - file.first)))
    return left


def _group(identity: Identity) -> str:
    """Return the folder of a file under the watched one; each folder is a series of its own."""
    return identity.name.rpartition("/")[0]
