"""The archive of one series in one file or, with `frames_per_file`, in as many as it takes.

With rotation the files are NAME_0001.nxs, NAME_0002.nxs and so on, and row r of the archive lies
in file r // frames_per_file: a restarted stage puts each frame where it would have gone anyway.
Each file is an archive of its own, with its ranking and its part of the ledger.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.archive.blank import BlankArchive
from hrtem_stream.archive.encoding import SetAsideFrame
from hrtem_stream.archive.layout import ArchiveHeader
from hrtem_stream.archive.ledger import Ledger, Loss, lost_ranges
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.tables import Row
from hrtem_stream.archive.writer import ArchiveWriter, part_path
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import LossRange, SegmentedFrame, SeriesEnd

CONTINUED = "continued in the next file"
"""Reason of the end of all files but the last."""
ELSEWHERE = "continued in another archive"
"""Reason of the end of an archive of torn frames: the images of the series are in another."""

PART = ".part"


def file_path(path: Path, index: int, *, frames_per_file: int | None) -> Path:
    """Return the name of one file of a series; index counts from 0."""
    if frames_per_file is None:
        return path
    return path.with_name(f"{path.stem}_{index + 1:04d}{path.suffix}")


def indices(path: Path, *, frames_per_file: int | None) -> list[int]:
    """List the files that are there of an archive, finished or not, by number from 0."""
    if frames_per_file is None:
        return [0] if path.exists() or part_path(path).exists() else []
    name = re.compile(rf"{re.escape(path.stem)}_(\d{{4,}}){re.escape(path.suffix)}(?:\.part)?")
    found = map(name.fullmatch, _names_in(path.parent))
    return sorted({int(match[1]) - 1 for match in found if match and int(match[1])})


def present_files(path: Path, *, frames_per_file: int | None) -> list[Path]:
    """List the files of an archive in their order, each finished or still a `.part`."""
    numbers = indices(path, frames_per_file=frames_per_file)
    named = [file_path(path, index, frames_per_file=frames_per_file) for index in numbers]
    files = [found for file in named for found in (part_path(file), file) if found.exists()]
    # A file under way and one that was opened by hand have the name as it is.
    return files or ([path] if path.exists() else [])


def unfinished(path: Path, *, frames_per_file: int | None) -> list[Path]:
    """List the unfinished files that are there of an archive."""
    numbers = indices(path, frames_per_file=frames_per_file)
    parts = (
        part_path(file_path(path, index, frames_per_file=frames_per_file)) for index in numbers
    )
    return [part for part in parts if part.exists()]


def files_of(
    path: Path, *, frames_per_file: int | None, series_id: str | None = None
) -> dict[int, Path]:
    """Give the files of the series that has a path, by number from 0, the unfinished one last.

    They follow each other and are of one series: what a moved file leaves, and what an older
    series left that is to be overwritten, is not among them.

    Parameters
    ----------
    path
        Name of the archive, without the number of a file.
    frames_per_file
        None for a single file.
    series_id
        Of the series that is asked for: where the files are of another, there are none.

    Raises
    ------
    ArchiveError
        A file cannot be read that has to tell whose it is.
    """
    files: dict[int, Path] = {}
    for index in indices(path, frames_per_file=frames_per_file):
        file = file_path(path, index, frames_per_file=frames_per_file)
        files[index] = part_path(file) if part_path(file).exists() else file
    parts = [index for index, file in files.items() if file.suffix == PART]
    if not files or (len(files) == 1 and series_id is None):
        return files
    first = last = parts[-1] if parts else min(files)
    found = _series_id(files[first])
    if series_id not in (None, found):
        return {}
    if parts:
        while first - 1 in files and _series_id(files[first - 1]) == found:
            first -= 1
    else:
        while last + 1 in files and _series_id(files[last + 1]) == found:
            last += 1
    return {index: files[index] for index in range(first, last + 1)}


@dataclass(slots=True)
class Earlier:
    """What the finished files of a series hold."""

    header: ArchiveHeader | None = None
    """Of the last of them, None when there is none."""
    first_index: int = 0
    """Number of the first file that is there: those before it may have been moved away."""
    base_row: int = 0
    """Row in the series of the first frame of that file."""
    last_ordinal: int = -1
    sequences: array[int] = field(default_factory=lambda: array("q"))
    losses: list[Loss] = field(default_factory=list)


class SeriesArchive:
    """Appends to the files of one series; made by `create` or `resume`.

    Parameters
    ----------
    path
        Name of the archive, without the number of a file.
    writer
        Of the file that is being written.
    index
        Its number, from 0.
    frames_per_file
        None for a single file.
    overwrite
        Whether files may be replaced.
    earlier
        What the earlier files hold.
    """

    def __init__(
        self,
        path: Path,
        *,
        writer: ArchiveWriter,
        index: int,
        frames_per_file: int | None,
        overwrite: bool,
        earlier: Earlier,
    ) -> None:
        self.path = path
        self._writer = writer
        self._index = index
        self._frames_per_file = frames_per_file
        self._overwrite = overwrite
        self._earlier = earlier
        self._losses: tuple[Loss, ...] = ()
        self._n_declared = 0

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        header: ArchiveHeader,
        frames_per_file: int | None = None,
        overwrite: bool = False,
        blank: BlankArchive | None = None,
    ) -> SeriesArchive:
        """Begin the first file, as `ArchiveWriter.create_from` does.

        Raises
        ------
        ArchiveError
            As `ArchiveWriter.create`.
        ValueError
            If frames_per_file is not positive.
        """
        if frames_per_file is not None and frames_per_file < 1:
            raise ValueError(f"frames_per_file must be at least 1, got {frames_per_file}")
        path = Path(path)
        first = file_path(path, 0, frames_per_file=frames_per_file)
        writer = ArchiveWriter.create_from(first, header=header, overwrite=overwrite, blank=blank)
        return cls(
            path,
            writer=writer,
            index=0,
            frames_per_file=frames_per_file,
            overwrite=overwrite,
            earlier=Earlier(base_row=header.first_row),
        )

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        frames_per_file: int | None = None,
        overwrite: bool = False,
    ) -> SeriesArchive:
        """Go on with a series whose writer was stopped.

        Raises
        ------
        ArchiveError
            If nothing of it is there, a file is damaged, or the series is finished.
        """
        path = Path(path)
        earlier = Earlier()
        index = 0
        if frames_per_file is not None:
            index = _read_finished(path, frames_per_file, earlier)
            earlier.first_index = index if earlier.header is None else earlier.first_index
        current = file_path(path, index, frames_per_file=frames_per_file)
        if earlier.header is None or part_path(current).exists():
            writer = ArchiveWriter.resume(current, overwrite=overwrite)
            if earlier.header is None:
                earlier.base_row = writer.header.first_row
        else:
            # Killed between closing one file and beginning the next.
            n_files = index - earlier.first_index
            first_row = earlier.base_row + n_files * (frames_per_file or 0)
            header = replace(earlier.header, first_row=first_row)
            writer = ArchiveWriter.create_from(current, header=header, overwrite=overwrite)
        return cls(
            path,
            writer=writer,
            index=index,
            frames_per_file=frames_per_file,
            overwrite=overwrite,
            earlier=earlier,
        )

    @property
    def header(self) -> ArchiveHeader:
        """Of the file that is being written."""
        return self._writer.header

    @property
    def current(self) -> Path:
        """Name of the file that is being written, once it is closed."""
        return self._writer.path

    @property
    def next_row(self) -> int:
        """Row of the frame to append next."""
        return self._writer.next_row

    @property
    def base_row(self) -> int:
        """Row in the series of the first frame of the first file that is there."""
        return self._earlier.base_row

    @property
    def paths(self) -> list[Path]:
        """Names of the files so far that are there, once they are closed."""
        return [
            file_path(self.path, index, frames_per_file=self._frames_per_file)
            for index in range(self._earlier.first_index, self._index + 1)
        ]

    @property
    def last_ordinal(self) -> int:
        """Ordinal of the last frame or loss that is archived, -1 for none: they come in order."""
        return max(self._earlier.last_ordinal, self._writer.last_ordinal)

    @property
    def sequences(self) -> NDArray[np.int64]:
        """Sequences of all frames of the series that are archived, by row."""
        earlier = np.array(self._earlier.sequences, np.int64)
        return np.concatenate([earlier, self._writer.sequences])

    def fractions(self) -> NDArray[np.float64]:
        """Read the graphene fractions of all frames that are archived, by row."""
        parts = []
        for path in self.paths[:-1]:
            with open_archive(path) as archive:
                parts.append(archive.score("graphene_fraction"))
        return np.concatenate([*parts, self._writer.fractions])

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What was lost of the series so far; worked out anew only where more was declared."""
        declared = [*self._earlier.losses, *self._writer.losses]
        if len(declared) != self._n_declared:
            self._losses = lost_ranges(declared, archived=self.sequences)
            self._n_declared = len(declared)
        return self._losses

    def append(self, frames: Sequence[Row], *, archived_ns: int) -> None:
        """Append frames and commit them, going on to the next file where one is full.

        Raises
        ------
        ArchiveError
            As `ArchiveWriter.append`; calling again with the same frames goes on where it failed.
        """
        next_row = self.next_row
        frames = [row for row in frames if row[0].header.row >= next_row]
        while frames:
            room = self._room()
            if room == 0:
                self._rotate()
                continue
            here, frames = frames[:room], frames[room:]
            self._writer.append(here, archived_ns=archived_ns)

    def set_aside(self, frame: SegmentedFrame, received: bytes | NDArray[Any]) -> SetAsideFrame:
        """Return what to append for a frame that does not fit the image dataset."""
        return self._writer.set_aside(frame, received)

    def declare_loss(self, loss: LossRange, *, ordinal: int) -> None:
        """Note in the current file that frames never came, and commit it.

        Raises
        ------
        ArchiveError
            If the disk is full.
        """
        if ordinal > self._earlier.last_ordinal:
            self._writer.declare_loss(loss, ordinal=ordinal)

    def close(self, end: SeriesEnd, *, ordinal: int = -1, duplicates: int = 0) -> Ledger:
        """Close the last file; return the ledger of the whole series.

        Raises
        ------
        ArchiveError
            As `ArchiveWriter.close`.
        """
        if self._frames_per_file is None:
            return self._writer.close(end, ordinal=ordinal, duplicates=duplicates)
        declared = [*self._earlier.losses, *self._writer.losses]
        losses = lost_ranges(declared, archived=self.sequences)
        n_lost = sum(loss.n_frames for loss in losses)
        # What the feed counted is the series, not this file.
        own = self._writer.ledger(replace(end, n_received=0), ordinal=ordinal)
        whole = replace(
            own,
            first_row=self.base_row,
            received=end.n_received or len(self.sequences) + n_lost,
            archived=len(self.sequences),
            lost=n_lost,
            losses=losses,
            duplicates=duplicates,
        )
        self._writer.close(
            replace(end, n_received=0),
            ordinal=ordinal,
            duplicates=duplicates,
            archived_elsewhere=np.array(self._earlier.sequences, np.int64),
            whole_series=whole,
        )
        return whole

    def abandon(self) -> None:
        """Let go of the current file as it was committed last."""
        self._writer.abandon()

    def _room(self) -> int:
        if self._frames_per_file is None:
            return 2**62
        n_files = self._index - self._earlier.first_index + 1
        end_row = self.base_row + n_files * self._frames_per_file
        return end_row - self._writer.next_row

    def _rotate(self) -> None:
        """Close the full file and begin the next."""
        full = self._writer
        if not full.is_closed:
            elsewhere = np.array(self._earlier.sequences, np.int64)
            full.close(SeriesEnd(reason=CONTINUED), archived_elsewhere=elsewhere)
        # When this fails for a full disk, the next call finds the closed writer and tries again.
        writer = ArchiveWriter.create_from(
            file_path(self.path, self._index + 1, frames_per_file=self._frames_per_file),
            header=replace(full.header, first_row=full.next_row),
            overwrite=self._overwrite,
        )
        self._earlier.last_ordinal = max(self._earlier.last_ordinal, full.last_ordinal)
        self._earlier.sequences.frombytes(full.sequences.tobytes())
        self._earlier.losses += full.losses
        self._index += 1
        self._writer = writer


def _read_finished(path: Path, frames_per_file: int, earlier: Earlier) -> int:
    """Read what the finished files of a series hold into `earlier`; return the number after."""
    index = 0
    for index, finished in files_of(path, frames_per_file=frames_per_file).items():
        if finished.suffix == PART:
            return index
        with open_archive(finished) as archive:
            if archive.ledger.end_reason != CONTINUED:
                raise ArchiveError(f"{finished} is the last file of a series that is finished")
            if len(archive) != frames_per_file:
                raise ArchiveError(
                    f"{finished} holds {len(archive)} frames, "
                    f"but frames_per_file is {frames_per_file} now"
                )
            if earlier.header is None:
                earlier.first_index, earlier.base_row = index, archive.header.first_row
            earlier.header = archive.header
            earlier.last_ordinal = max(earlier.last_ordinal, archive.last_ordinal)
            earlier.sequences.frombytes(archive.score("sequence").tobytes())
            earlier.losses += archive.declared
    return index if earlier.header is None else index + 1


def _series_id(file: Path) -> str:
    with open_archive(file) as archive:
        return archive.header.start.series_id


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []
