"""Which files of a folder are complete, in the order in which they became so.

The folder itself is the truth: it is looked through again and again. What the file system reports
of changes only makes the next look come sooner, and on a network drive, where it reports nothing,
nothing else changes.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from hrtem_stream.errors import FeedError
from hrtem_stream.sources.array_files import growing_mrc_stack
from hrtem_stream.sources.dectris_files import master_of
from hrtem_stream.sources.files import FRAME_SUFFIXES, describe, is_label
from hrtem_stream.sources.folder_state import FolderState, Identity
from hrtem_stream.sources.stack import DECODE_ERRORS, FrameStack, damaged_stack

logger = logging.getLogger(__name__)

GROWING_SUFFIXES: Final = (".mrc", ".mrcs")
"""Stacks whose frames are taken while more are being written."""
_OURS: Final = (".nxs", ".part")
_NETWORK: Final = ("nfs", "cifs", "smb", "fuse", "9p", "afs", "ncp", "davfs", "glusterfs", "lustre")
_REST: Final = 10
"""Looking takes at most one part in so many of the time, however many files there are."""


class Complete(NamedTuple):
    """A file whose frames can be taken."""

    identity: Identity
    stack: FrameStack
    is_growing: bool = False


class GivenUp(NamedTuple):
    """A file that could not be taken."""

    identity: Identity
    reason: str


@dataclass(slots=True)
class _Candidate:
    path: Path
    identity: Identity
    inode: int
    seen_s: float
    """When it was first seen as it is now."""
    is_old: bool
    """Whether it had been left alone for long enough when it was first seen."""
    tried_s: float = -1e9
    reason: str = ""
    is_gone: bool = False


class FolderWatch:
    """Looks through a folder for files that have become complete.

    Parameters
    ----------
    folder
        The folder.
    patterns
        Names that count; empty: all that can hold frames.
    is_recursive
        Whether folders in it count, too.
    settle_s, give_up_s
        How long a file must not change before it counts, and how long one is tried that cannot be
        read.
    poll_s
        Time between two looks when nothing is reported.
    state
        What was given already.
    """

    def __init__(
        self,
        folder: Path,
        *,
        patterns: Sequence[str],
        is_recursive: bool,
        settle_s: float,
        give_up_s: float,
        poll_s: float,
        state: FolderState,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._patterns = tuple(patterns)
        self._is_recursive = is_recursive
        self._settle_s = settle_s
        self._give_up_s = give_up_s
        self._poll_s = poll_s
        self._state = state
        self._clock = clock
        self._candidates: dict[str, _Candidate] = {}
        self._given_up: dict[str, Identity] = {}
        self._next_look_s = -1e9
        self._is_reachable = True

    @property
    def n_waiting(self) -> int:
        """Number of files that have been seen and not taken."""
        return len(self._candidates)

    def identities(self) -> list[Identity]:
        """Return the files that are there now and could count."""
        return [identity for _, identity, _ in self._found()]

    def soon(self) -> None:
        """Look again at the next opportunity: something has changed."""
        self._next_look_s = min(self._next_look_s, self._clock() + self._settle_s / 4)

    def next(self) -> Complete | GivenUp | None:
        """Return the next file that is complete or given up, None when there is none now."""
        now_s = self._clock()
        if now_s >= self._next_look_s:
            self._look(now_s)
            spent_s = self._clock() - now_s
            pause_s = min(self._poll_s, self._settle_s / 2) if self._candidates else self._poll_s
            self._next_look_s = now_s + max(pause_s, _REST * spent_s)
        for candidate in list(self._candidates.values()):
            outcome = self._outcome(candidate, now_s)
            if outcome is not None:
                del self._candidates[candidate.identity.name]
                return outcome
        return None

    def refresh(self, identity: Identity) -> Identity | None:
        """Return a file as it is now, None when it is gone."""
        try:
            status = (self._folder / identity.name).stat()
        except OSError:
            return None
        return Identity(identity.name, status.st_size, status.st_mtime_ns)

    def path_of(self, identity: Identity) -> Path:
        """Return where a file lies."""
        return self._folder / identity.name

    def forget(self, name: str) -> None:
        """Take a file off the list: it is being given."""
        self._candidates.pop(name, None)

    def _look(self, now_s: float) -> None:
        found = {identity.name: (path, identity, inode) for path, identity, inode in self._found()}
        inodes = {inode for _, _, inode in found.values()}
        for name, candidate in list(self._candidates.items()):
            if name not in found:
                if candidate.inode in inodes:  # renamed: it counts under its new name
                    del self._candidates[name]
                elif not candidate.is_gone:
                    candidate.is_gone, candidate.seen_s = True, now_s
        for name in sorted(found, key=_natural):
            path, identity, inode = found[name]
            self._note(path, identity, inode, now_s)

    def _note(self, path: Path, identity: Identity, inode: int, now_s: float) -> None:
        name = identity.name
        known = self._candidates.get(name)
        if known is not None and known.identity == identity and not known.is_gone:
            return
        if self._state.given(identity) or self._given_up.get(name) == identity:
            return
        age_s = (time.time_ns() - identity.changed_ns) * 1e-9
        candidate = _Candidate(path, identity, inode, now_s, is_old=age_s > self._settle_s)
        if (
            known is not None
        ):  # it changes while we look: its age by the clock of a server says less
            candidate.is_old = False
        self._candidates[name] = candidate

    def _outcome(self, candidate: _Candidate, now_s: float) -> Complete | GivenUp | None:
        unchanged_s = now_s - candidate.seen_s
        if candidate.is_gone:
            return self._gave_up(candidate, "vanished") if unchanged_s > self._give_up_s else None
        is_settled = unchanged_s >= self._settle_s or candidate.is_old
        if not is_settled:
            return self._growing(candidate)
        if now_s - candidate.tried_s < self._settle_s:
            return None
        candidate.tried_s = now_s
        stack, candidate.reason = _described(candidate.path)
        if stack is not None and not candidate.reason:
            return Complete(candidate.identity, stack)
        if unchanged_s <= self._give_up_s:
            return None
        if stack is not None:
            logger.warning("%s is taken as it is: %s", candidate.identity.name, candidate.reason)
            return Complete(candidate.identity, stack)
        return self._gave_up(candidate, candidate.reason)

    def _growing(self, candidate: _Candidate) -> Complete | None:
        """Take a stack that is being written as soon as it has more than one frame."""
        if candidate.path.suffix.lower() not in GROWING_SUFFIXES or candidate.tried_s > 0:
            return None
        candidate.tried_s = 1.0
        try:
            stack = growing_mrc_stack(candidate.path)
        except (*DECODE_ERRORS, FeedError):
            return None
        return Complete(candidate.identity, stack, is_growing=True) if stack.n_frames > 1 else None

    def _gave_up(self, candidate: _Candidate, reason: str) -> GivenUp:
        self._given_up[candidate.identity.name] = candidate.identity
        return GivenUp(candidate.identity, reason)

    def _found(self) -> Iterator[tuple[Path, Identity, int]]:
        try:
            yield from self._walk(self._folder, prefix="")
        except OSError as error:
            if self._is_reachable:
                logger.warning("folder %s cannot be read, it is tried on: %s", self._folder, error)
            self._is_reachable = False
            return
        self._is_reachable = True

    def _walk(self, folder: Path, *, prefix: str) -> Iterator[tuple[Path, Identity, int]]:
        with os.scandir(folder) as entries:
            listed = list(entries)
        names = {entry.name for entry in listed}
        for entry in listed:
            try:
                if entry.is_dir(follow_symlinks=False):
                    if self._is_recursive and not entry.name.startswith("."):
                        yield from self._walk(Path(entry.path), prefix=f"{prefix}{entry.name}/")
                elif self._counts(Path(entry.path), names=names) and entry.is_file():
                    status = entry.stat()
                    name = f"{prefix}{entry.name}"
                    identity = Identity(name, status.st_size, status.st_mtime_ns)
                    yield Path(entry.path), identity, status.st_ino
            except FileNotFoundError:
                continue

    def _counts(self, path: Path, *, names: set[str]) -> bool:
        name, suffix = path.name, path.suffix.lower()
        if name.startswith((".", "~")) or suffix not in FRAME_SUFFIXES or suffix in _OURS:
            return False
        if self._patterns and not any(fnmatch.fnmatch(name, p) for p in self._patterns):
            return False
        master = master_of(path)
        if master is not None and master.name in names:
            return False
        return not is_label(path, names=names)


def network_drive(path: Path) -> bool:
    """Tell whether a folder lies on a file system that reports no changes made elsewhere."""
    import psutil

    resolved = path.resolve()
    mounts = [
        (len(Path(mount.mountpoint).parts), mount.fstype.lower())
        for mount in psutil.disk_partitions(all=True)
        if resolved.is_relative_to(mount.mountpoint)
    ]
    return bool(mounts) and max(mounts)[1].startswith(_NETWORK)


class ChangeReports:
    """Hears from the file system that something in a folder has changed, in a thread of its own."""

    def __init__(self, folder: Path, *, polling: Literal["auto", "always"], poll_s: float) -> None:
        self._folder = folder
        self._is_polled = polling == "always" or network_drive(folder)
        self._poll_s = poll_s
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="folder", daemon=True)

    def start(self) -> None:
        """Begin to listen; where nothing can be heard the folder is looked through anyway."""
        if not self._is_polled:
            self._thread.start()

    def heard(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` seconds, and tell whether something has changed."""
        if not self._changed.wait(timeout_s):
            return False
        self._changed.clear()
        return True

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def _listen(self) -> None:
        from watchfiles import watch

        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        try:
            for changes in watch(
                self._folder, stop_event=self._stop, rust_timeout=200, yield_on_timeout=True,
                step=20, debounce=50, raise_interrupt=False,
            ):  # fmt: skip
                if changes:
                    self._changed.set()
        except (OSError, RuntimeError) as error:
            logger.warning("changes of %s are not reported, it is looked through: %s",
                           self._folder, error)  # fmt: skip


def _described(path: Path) -> tuple[FrameStack | None, str]:
    """Describe a file that does not change any more, and say what is wrong with it.

    Returns
    -------
    tuple
        The stack and an empty text; or what can be had of a damaged file and the reason; or None
        and the reason where there is nothing to be had.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return None, "is empty"
    except OSError as error:
        return None, error.strerror or str(error)
    try:
        stack = _larger(path, describe(path))
        with stack.reader() as read:
            for index in {0, stack.n_frames - 1} if stack.n_frames else ():
                fault = read(index).fault
                if fault:
                    return stack, fault
    except (*DECODE_ERRORS, FeedError) as error:
        return damaged_stack(path, fault=str(error)), str(error)
    if stack.n_missing:
        return stack, f"announces {stack.n_frames + stack.n_missing} frames, has {stack.n_frames}"
    if stack.n_frames == 0:
        return None, "has no frame"
    return stack, ""


def _larger(path: Path, stack: FrameStack) -> FrameStack:
    """Take the frames that a stack holds beyond what its header says, which may be of old."""
    if path.suffix.lower() not in GROWING_SUFFIXES:
        return stack
    whole = growing_mrc_stack(path)
    return whole if whole.n_frames > stack.n_frames + stack.n_missing else stack


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Order names as people number them: frame 9 before frame 10."""
    return [
        (0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
    ]
