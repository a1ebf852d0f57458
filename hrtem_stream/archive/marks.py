"""What people say of frames: star, reject, a note; and the threshold that they set for a series.

While a series runs, marks lie in a small JSON file beside it, `NAME.marks.json`, which the page
writes and `sort` only reads; when the series is closed they are copied into the archive, in
`/entry/marks`. The file beside it stays, and holds what is said later: where both are there, it
prevails. Frames are named by their row in the series. Nothing here deletes a frame.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hrtem_stream.archive.layout import BULK, TEXT_BYTES, ArchiveHeader, texts_of
from hrtem_stream.archive.reader import Archive
from hrtem_stream.errors import ArchiveError

logger = logging.getLogger(__name__)

ENDING = ".marks.json"
VERSION = 1
MAX_BYTES = 64 << 20
MAX_NOTE = TEXT_BYTES
"""Longest note, in characters; the archive keeps as many bytes of it in UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What was said of one frame."""

    star: bool = False
    reject: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What was said of a series."""

    series_id: str
    threshold: float = 0.0
    """Least graphene fraction of a frame that is kept, 0 to 1."""
    frames: dict[int, Mark] = field(default_factory=dict)
    """By row in the series; rows of which nothing was said are absent."""

    def of(self, row: int) -> Mark:
        """Return what was said of a frame."""
        return self.frames.get(row, Mark())

    def with_mark(self, row: int, mark: Mark) -> Marks:
        """Return these marks with another one for a frame.

        Raises
        ------
        ValueError
            The row is negative, or the note too long.
        """
        if row < 0:
            raise ValueError(f"row must not be negative, got {row}")
        if len(mark.note) > MAX_NOTE:
            raise ValueError(f"a note may have {MAX_NOTE} characters, got {len(mark.note)}")
        frames = {other: said for other, said in self.frames.items() if other != row}
        if mark != Mark():
            frames[row] = mark
        return replace(self, frames=frames)

    def with_threshold(self, threshold: float) -> Marks:
        """Return these marks with another threshold.

        Raises
        ------
        ValueError
            It does not lie in [0, 1].
        """
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold:g}")
        return replace(self, threshold=threshold)

    @property
    def rejected(self) -> NDArray[np.int64]:
        """Rows that were rejected, in order."""
        return np.array(sorted(r for r, mark in self.frames.items() if mark.reject), np.int64)


def is_kept(
    fractions: ArrayLike, *, rows: ArrayLike, threshold: float, rejected: ArrayLike
) -> NDArray[np.bool_]:
    """Tell which frames are kept: graphene fraction at least the threshold, and not rejected.

    Parameters
    ----------
    fractions, rows
        (F,) graphene fraction and row of each frame. A fraction that is not a number is kept
        only where the threshold is 0.
    threshold
        0 to 1.
    rejected
        Rows that were rejected.
    """
    values = np.nan_to_num(np.asarray(fractions, np.float64), nan=0.0)
    kept: NDArray[np.bool_] = (values >= threshold) & ~np.isin(rows, rejected)
    return kept


def marks_path(archive: Path) -> Path:
    """Return where the marks of an archive lie; of a `.part`, of the file it will be."""
    finished = archive.with_suffix("") if archive.suffix == ".part" else archive
    return finished.with_name(finished.stem + ENDING)


def write_marks(path: Path, marks: Marks) -> None:
    """Write marks so that a reader finds either the old or the new ones.

    Raises
    ------
    OSError
        They cannot be written.
    """
    content = {
        "version": VERSION,
        "series_id": marks.series_id,
        "threshold": marks.threshold,
        "frames": {str(row): asdict(marks.frames[row]) for row in sorted(marks.frames)},
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_marks(path: Path, *, series_id: str) -> Marks | None:
    """Read the marks of a series; None where there are none, or they are of another series.

    Raises
    ------
    ArchiveError
        The file is not what `write_marks` makes.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArchiveError(f"{path}: marks may have {MAX_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["series_id"] != series_id:
            return None
        marks = Marks(series_id=series_id).with_threshold(float(content["threshold"]))
        frames = {int(row): _mark(said) for row, said in content["frames"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"{path}: marks cannot be read: {error}") from error
    if any(row < 0 for row in frames):
        raise ArchiveError(f"{path}: a row of the marks is negative")
    return replace(marks, frames=frames)


def marks_of(archive: Archive) -> Marks:
    """Return the marks of an archive: those beside it if there are any, else those in it.

    Raises
    ------
    ArchiveError
        They are damaged.
    """
    series_id = archive.header.start.series_id
    for path in _candidates(archive.path):
        beside = read_marks(path, series_id=series_id)
        if beside is not None:
            return beside
    table, threshold = archive.marks
    said = {
        int(row): Mark(star=bool(star), reject=bool(reject), note=str(note))
        for row, star, reject, note in zip(*table, strict=True)
    }
    return Marks(series_id=series_id, threshold=threshold, frames=said)


def add_marks(entry: h5py.Group, *, path: Path, header: ArchiveHeader, n_rows: int) -> None:
    """Copy what was said of the frames of a file into it, if anything was.

    Marks that cannot be read are left where they are, with a warning: a series must close.
    """
    marks = None
    for candidate in _candidates(path):
        try:
            marks = marks or read_marks(candidate, series_id=header.start.series_id)
        except ArchiveError as error:
            logger.warning("%s", error)
    if marks is None:
        return
    here = range(header.first_row, header.first_row + n_rows)
    rows = sorted(row for row in marks.frames if row in here)
    group = entry.create_group("marks")
    group.attrs["NX_class"] = BULK
    group.attrs["threshold"] = marks.threshold
    group["row"] = np.array(rows, "<i8")
    for name in ("star", "reject"):
        group[name] = np.array([getattr(marks.frames[row], name) for row in rows], "|u1")
    notes = texts_of([marks.frames[row].note for row in rows], TEXT_BYTES)
    group["note"] = notes.astype(h5py.string_dtype("utf-8", TEXT_BYTES))


def _candidates(archive: Path) -> list[Path]:
    """Give the places of marks: of the file, and of the series of which it is one file."""
    own = marks_path(archive)
    found = re.fullmatch(r"(.+)_\d{4,}", own.name.removesuffix(ENDING))
    return [own, own.with_name(found[1] + ENDING)] if found else [own]


def _mark(said: dict[str, Any]) -> Mark:
    mark = Mark(star=bool(said["star"]), reject=bool(said["reject"]), note=str(said["note"]))
    with contextlib.suppress(UnicodeEncodeError):
        mark.note.encode()
        return mark if len(mark.note) <= MAX_NOTE else replace(mark, note=mark.note[:MAX_NOTE])
    raise ValueError("a note is not text")
