"""What a watched folder has given already: kept beside the archives, and safe against a crash.

One line of JSON for each file, written before its frames are given, and one for each beginning and
end of a series. A line that a crash has cut is no line. A file is known by name, size and time of
change, so that one that is written anew under its old name counts again.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

logger = logging.getLogger(__name__)

UNKNOWN: Final = -1
"""Number of frames of a file that is still being given."""


class Identity(NamedTuple):
    """A version of a file."""

    name: str
    """Path under the folder."""
    n_bytes: int
    changed_ns: int


class Given(NamedTuple):
    """A file that was given to a series, or is on its way."""

    file: Identity
    series: str
    first: int
    """Sequence number of its first frame."""
    n_frames: int
    """Frames given or lost, `UNKNOWN` while the file grows."""
    skip: int = 0
    """Frames at its beginning that were given before: a stack that went on growing."""
    digest: int = 0
    """xxh3, 64 bit, of its first frame: tells a stack that grew from one written anew."""
    reason: str = ""
    """Why it was given up; such a file counts as one lost frame."""


class FolderState:
    """The list of the files that were given, on disk.

    Parameters
    ----------
    path
        The file of the list; made with its folder when the first line is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._given: dict[str, Given] = {}
        self._growing: dict[str, Given] = {}
        self._names: dict[str, int] = {}
        """How often each series name was begun."""
        self._open_series = ""
        self._open_key = ""
        self._is_settled = True
        self._read()

    @property
    def open_series(self) -> str:
        """Name of the series that has begun and not ended; empty when there is none."""
        return self._open_series

    @property
    def open_key(self) -> str:
        """What the files of the open series have in common."""
        return self._open_key

    @property
    def is_settled(self) -> bool:
        """Whether all frames that were given have been taken: the feed was closed in order."""
        return self._is_settled

    def given(self, identity: Identity) -> Given | None:
        """Return what became of a file, None when it has not been given."""
        known = self._given.get(identity.name)
        return known if known is not None and known.file == identity else None

    def last_given(self, name: str) -> Given | None:
        """Return what became of the file of this name, in whichever version."""
        return self._growing.get(name) or self._given.get(name)

    def of_series(self, series: str) -> list[Given]:
        """Return the files of a series in the order in which they were given."""
        found = [*self._given.values(), *self._growing.values()]
        return sorted((g for g in found if g.series == series), key=lambda g: g.first)

    def begin_series(self, name: str, *, key: str) -> str:
        """Note that a series begins, and return its name: one that was not used before."""
        number = self._names.get(name, 0) + 1
        unique = name if number == 1 else f"{name}_{number}"
        self._note({"begin": unique, "of": name, "number": number, "key": key})
        return unique

    def end_series(self) -> None:
        """Note that the series has ended."""
        self._note({"end": self._open_series})

    def settle(self) -> None:
        """Note that all frames that were given have been taken."""
        if not self._is_settled:
            self._note({"settled": True})

    def note_file(self, given: Given) -> None:
        """Note a file before its first frame is given, or how many it had when it has grown."""
        self._note({**given._asdict(), "file": list(given.file)})

    def _keep(self, given: Given) -> None:
        name = given.file.name
        if given.n_frames == UNKNOWN:
            self._growing[name] = given
        else:
            self._growing.pop(name, None)
            self._given[name] = given

    def _note(self, line: dict[str, Any]) -> None:
        self._take(line)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")

    def _read(self) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        *lines, rest = content.split(b"\n")
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                logger.warning("%s: a line is not understood and left out", self._path)
        if rest:  # cut by a crash: the next line must not be glued to it
            os.truncate(self._path, len(content) - len(rest))

    def _take(self, line: dict[str, Any]) -> None:
        is_settled = bool(line.get("settled"))
        if "begin" in line:
            self._open_series, self._open_key = str(line["begin"]), str(line["key"])
            self._names[str(line["of"])] = int(line["number"])
        elif "end" in line:
            self._open_series = self._open_key = ""
        elif "file" in line:
            name, n_bytes, changed_ns = line["file"]
            self._keep(
                Given(
                    file=Identity(str(name), int(n_bytes), int(changed_ns)),
                    series=str(line["series"]),
                    first=int(line["first"]),
                    n_frames=int(line["n_frames"]),
                    skip=int(line["skip"]),
                    digest=int(line["digest"]),
                    reason=str(line["reason"]),
                )
            )
        self._is_settled = is_settled
