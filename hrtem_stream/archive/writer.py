"""Writes the archive of one series, or one file of it.

While a series runs its file is called `NAME.part`; closing gives it its name. Each `append` and
each declared loss is committed before it returns: whenever the process is killed, `resume` finds
exactly what was committed last.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.archive.blank import FAILURES, BlankArchive, give_up
from hrtem_stream.archive.closing import (
    add_digests,
    add_ledger,
    add_neighbours,
    add_ranking,
    reopen,
)
from hrtem_stream.archive.codec import Codec
from hrtem_stream.archive.column import Column
from hrtem_stream.archive.encoding import (
    EncodedFrame,
    Keep,
    SetAsideFrame,
    checked_dtype,
    checked_shape,
    set_aside,
)
from hrtem_stream.archive.journal import JournalledFile, journal_path
from hrtem_stream.archive.layout import (
    LIBVER,
    ArchiveHeader,
    lay_out_series,
    mark_default,
)
from hrtem_stream.archive.ledger import Ledger, Loss, lost_ranges
from hrtem_stream.archive.tables import (
    COMMON,
    OF_THE_SERIES,
    Row,
    Tables,
    open_columns,
    scores_of,
    stored_bytes,
)
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import LossRange, SegmentedFrame, SeriesEnd, SeriesStart

RESERVE_BYTES = 4 << 20
"""Room asked for beside the pixels: the tables' chunks and HDF5's own pages."""

CLOSED, ABANDONED = "it is closed", "it is abandoned"


def part_path(path: Path) -> Path:
    """Return where an archive lies until it is closed."""
    return path.with_name(path.name + ".part")


class ArchiveWriter:
    """Appends to one archive; made by `create` or `resume`. Not for two threads at once.

    Parameters
    ----------
    path
        Name of the file once it is closed.
    journalled, file
        The file and h5py's view of it.
    columns
        All its tables.
    header
        As stored in the file.
    overwrite
        Whether closing may replace a file.
    """

    def __init__(
        self,
        path: Path,
        *,
        journalled: JournalledFile,
        file: h5py.File,
        columns: Mapping[str, Column],
        header: ArchiveHeader,
        overwrite: bool,
    ) -> None:
        self.path = path
        self.header = header
        self._journalled = journalled
        self._file = file
        self._overwrite = overwrite
        entry = file["entry"]
        self._image = entry["images/image"].id
        self._tables = Tables(columns, header)
        self._n_rows = self._tables.n_rows
        self._n_committed = self._n_rows
        self._failure = ""
        scores = entry["scores"]
        # HDF5 must not read in this session what it was given as whole chunks: it remembers
        # the filter mask of a chunk wrongly until the dataset is opened anew.
        self._fractions = array("d", scores["graphene_fraction"][:].tobytes())
        self._sequences = array("q", scores["sequence"][:].tobytes())
        declared = entry["ledger/declared"]
        self._declared = _declared(declared)
        self._loss_ordinals: set[int] = set(declared["ordinal"][:].tolist())
        self._last_ordinal = max([-1, *self._loss_ordinals, *scores["ordinal"][-1:].tolist()])
        self._last_committed: int = self._last_ordinal

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        start: SeriesStart,
        shape: tuple[int, int],
        dtype: str | np.dtype[Any],
        codec: Codec = "deflate",
        keep: Keep = "graphene",
        provenance: dict[str, str] | None = None,
        log_id: int = 0,
        ordinal: int = -1,
        first_row: int = 0,
        working_shape: tuple[int, int] = (256, 256),
        coefficients_shape: tuple[int, int] = (3, 3),
        overwrite: bool = False,
    ) -> ArchiveWriter:
        """Begin an archive.

        Parameters
        ----------
        path
            Name of the file once it is closed.
        start, log_id, ordinal
            The record that began the series, the log that holds it and its number there.
        shape, dtype
            Of the frames of the series.
        codec, keep
            As given to the `FrameEncoder`.
        provenance
            Version, settings, digest of the weights, as text by name.
        first_row
            Row of the first frame, in the second and further files of a series.
        working_shape, coefficients_shape
            Of the masks and of the illumination of each frame.
        overwrite
            Whether to replace a file of that name, finished or not.

        Raises
        ------
        ArchiveError
            If there is such a file and it may not be replaced, or it cannot be created.
        ValueError
            If shape or dtype is not one that an archive can hold.
        """
        header = ArchiveHeader(
            start=start,
            shape=checked_shape(shape),
            dtype=checked_dtype(dtype).str,
            codec=codec,
            keep=keep,
            provenance=dict(provenance or {}),
            log_id=log_id,
            ordinal=ordinal,
            first_row=first_row,
            working_shape=working_shape,
            coefficients_shape=coefficients_shape,
        )
        return cls.create_from(path, header=header, overwrite=overwrite)

    @classmethod
    def create_from(
        cls,
        path: str | os.PathLike[str],
        *,
        header: ArchiveHeader,
        overwrite: bool = False,
        blank: BlankArchive | None = None,
    ) -> ArchiveWriter:
        """Begin an archive with a header that is complete already.

        Parameters
        ----------
        blank
            Made before with the same `common`, and used up by this call; None: it is made now.

        Raises
        ------
        ArchiveError
            As `create`.
        """
        path = Path(path)
        part = part_path(path)
        for existing in (path, part):
            if existing.exists() and not overwrite:
                raise ArchiveError(f"{existing} exists already and is not to be overwritten")
        with contextlib.ExitStack() as undo:
            try:
                blank = blank or BlankArchive(header.common)
                undo.callback(blank.close)
                blank.journalled.place(part)
                undo.callback(_remove, part)
                blank.journalled.reserve(RESERVE_BYTES)
                lay_out_series(blank.file, header)
                columns = blank.columns | open_columns(
                    blank.file["entry"], OF_THE_SERIES, write_at=blank.journalled.write_at
                )
                writer = cls(
                    path, journalled=blank.journalled, file=blank.file, columns=columns,
                    header=header, overwrite=overwrite,
                )  # fmt: skip
                writer._tables.begin()
                writer._commit()
            except (*FAILURES, TypeError) as error:
                raise ArchiveError(f"{part} cannot be created: {error}") from error
            undo.pop_all()
        return writer

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, overwrite: bool = False) -> ArchiveWriter:
        """Go on with an archive whose writer was stopped, from what it committed last.

        Parameters
        ----------
        path
            Name of the file once it is closed; what is opened is its `.part`.
        overwrite
            Whether closing may replace a file.

        Raises
        ------
        ArchiveError
            If there is none, another process writes it, or it is damaged.
        """
        path = Path(path)
        part = part_path(path)
        try:
            journalled = JournalledFile.reopen(part)
        except OSError as error:
            raise ArchiveError(f"{part} cannot be resumed: {error.strerror}") from error
        with contextlib.ExitStack() as undo:
            undo.callback(journalled.close)
            undo.callback(journalled.discard)
            try:
                file = h5py.File(journalled, "r+", libver=LIBVER)
                undo.callback(give_up, journalled, file)
                entry = file["entry"]
                header = ArchiveHeader.from_json(entry["process"].attrs["header"])
                reopen(entry)
                columns = open_columns(
                    entry, (*COMMON, *OF_THE_SERIES), write_at=journalled.write_at
                )
                Tables(columns, header).cut(entry["images/image"])
                writer = cls(
                    path, journalled=journalled, file=file, columns=columns, header=header,
                    overwrite=overwrite,
                )  # fmt: skip
                writer._commit()
            except (*FAILURES, TypeError) as error:
                raise ArchiveError(f"{part} is damaged: {error}") from error
            undo.pop_all()
        return writer

    @property
    def is_closed(self) -> bool:
        """Whether the file has its name."""
        return self._failure == CLOSED

    @property
    def n_rows(self) -> int:
        """Frames in this file, as committed."""
        return self._n_committed

    @property
    def next_row(self) -> int:
        """Row in the series of the frame to append next."""
        return self.header.first_row + self._n_committed

    @property
    def last_ordinal(self) -> int:
        """Ordinal of the last frame or loss in this file, -1 for none: they come in order."""
        return self._last_committed

    @property
    def fractions(self) -> NDArray[np.float64]:
        """Graphene fractions of the frames in this file, by row."""
        return np.array(self._fractions[: self._n_committed], np.float64)

    @property
    def sequences(self) -> NDArray[np.int64]:
        """Sequences of the frames in this file, by row."""
        return np.array(self._sequences[: self._n_committed], np.int64)

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The losses declared in this file."""
        return tuple(self._declared)

    def append(self, frames: Sequence[Row], *, archived_ns: int) -> None:
        """Append frames and commit them.

        After an error that says the disk is full, nothing is lost: call again with the same
        frames once there is room.

        Parameters
        ----------
        frames
            In order of row, the first at `next_row`.
        archived_ns
            Time of archiving, in nanoseconds since 1970.

        Raises
        ------
        ArchiveError
            If the rows do not follow on, a frame is not of this series, or the disk is full.
        """
        self._require_usable()
        if not frames:
            return
        self._require_rows(frames)
        # Rows of an earlier call that were written but could not be committed are there already.
        new = frames[self._n_rows - self._n_committed :]
        with self._writing():
            self._journalled.reserve(
                RESERVE_BYTES + sum(stored_bytes(encoded) for _, encoded in new)
            )
        if new:
            with self._writing(fatal=True):
                self._write(new, archived_ns)
        with self._writing():
            self._commit()

    def append_set_aside(
        self, frame: SegmentedFrame, received: bytes | NDArray[Any], *, archived_ns: int
    ) -> None:
        """Append a frame that does not fit the image dataset, byte for byte, and commit it.

        Raises
        ------
        ArchiveError
            As `append`.
        """
        aside = self.set_aside(frame, received)
        self.append([(frame, aside)], archived_ns=archived_ns)

    def set_aside(self, frame: SegmentedFrame, received: bytes | NDArray[Any]) -> SetAsideFrame:
        """Return what to append for a frame that does not fit the image dataset."""
        header = frame.header
        unfit = (
            f"frame is {header.shape} {header.dtype}, "
            f"not {self.header.shape} {self.header.dtype} as the series"
        )
        return set_aside(
            received, shape=header.shape, dtype=header.dtype, reason=header.fault or unfit
        )

    def declare_loss(self, loss: LossRange, *, ordinal: int) -> None:
        """Note that frames never came, and commit it; a second time it does nothing.

        Raises
        ------
        ArchiveError
            If the disk is full.
        """
        self._require_usable()
        with self._writing():
            self._journalled.reserve(RESERVE_BYTES)
        if ordinal not in self._loss_ordinals:
            declared = Loss(first=loss.first, n_frames=loss.n_frames, reason=loss.reason)
            with self._writing(fatal=True):
                self._tables.declare(declared, ordinal)
            self._declared.append(declared)
            self._loss_ordinals.add(ordinal)
            self._last_ordinal = max(self._last_ordinal, ordinal)
        with self._writing():
            self._commit()

    def close(
        self,
        end: SeriesEnd,
        *,
        ordinal: int = -1,
        duplicates: int = 0,
        archived_elsewhere: NDArray[np.int64] | None = None,
        whole_series: Ledger | None = None,
    ) -> Ledger:
        """Add ranking and ledger, and give the file its name.

        Parameters
        ----------
        end, ordinal
            The record that ends the series and its number in the log. Where it counts the
            frames received, that count goes into the ledger.
        duplicates
            Publications that were dropped because their frame was archived already.
        archived_elsewhere
            Sequences in other files of the series: these are not lost.
        whole_series
            The account of all files of the series, written into the last.

        Raises
        ------
        ArchiveError
            If there is a file of that name that may not be replaced, or the disk is full; the
            `.part` stays, and `resume` takes it up.
        """
        self._require_usable()
        if self.path.exists() and not self._overwrite:
            raise ArchiveError(f"{self.path} exists already and is not to be overwritten")
        ledger = self.ledger(
            end, ordinal=ordinal, duplicates=duplicates, archived_elsewhere=archived_elsewhere
        )
        entry = self._file["entry"]
        with self._writing():
            self._journalled.reserve(RESERVE_BYTES + 1024 * self._n_rows)
        with self._writing(fatal=True):
            self._tables.flush()
            add_ranking(entry, np.array(self._fractions, np.float64))
            add_ledger(entry, ledger, whole_series)
            add_digests(entry, self._tables.digests())
            add_neighbours(entry, path=self.path, header=self.header, n_rows=self._n_rows)
            self._commit()
            self._release()
            part_path(self.path).replace(self.path)
            journal_path(part_path(self.path)).unlink(missing_ok=True)
        self._failure = CLOSED
        return ledger

    def ledger(
        self,
        end: SeriesEnd,
        *,
        ordinal: int = -1,
        duplicates: int = 0,
        archived_elsewhere: NDArray[np.int64] | None = None,
    ) -> Ledger:
        """Return the account of this file as it would be if it were closed now."""
        archived = [self.sequences]
        if archived_elsewhere is not None:
            archived.append(archived_elsewhere)
        losses = lost_ranges(self._declared, archived=np.concatenate(archived))
        lost = sum(loss.n_frames for loss in losses)
        return Ledger(
            series=self.header.start.series,
            series_id=self.header.start.series_id,
            log_id=self.header.log_id,
            first_row=self.header.first_row,
            received=end.n_received or self.n_rows + lost,
            archived=self.n_rows,
            lost=lost,
            losses=losses,
            repeated=end.n_repeated,
            republished=end.n_republished,
            duplicates=duplicates,
            first_ordinal=self.header.ordinal,
            end_ordinal=ordinal,
            end_reason=end.reason,
            complete=True,
        )

    def abandon(self) -> None:
        """Let go of the file as it was committed last, for `resume` to take up."""
        if self._failure not in (CLOSED, ABANDONED):
            give_up(self._journalled, self._file)
            self._journalled.close()
            self._failure = ABANDONED

    def _require_usable(self) -> None:
        if self._failure:
            raise ArchiveError(f"{part_path(self.path)} cannot be written: {self._failure}")

    def _require_rows(self, frames: Sequence[Row]) -> None:
        for row, (frame, encoded) in enumerate(frames, self.next_row):
            if frame.header.row != row:
                raise ArchiveError(
                    f"{self.path.name}: frame must be for row {row}, got {frame.header.row}"
                )
            if isinstance(encoded, SetAsideFrame):
                continue
            if (frame.header.shape, frame.header.dtype) != (self.header.shape, self.header.dtype):
                raise ArchiveError(
                    f"{self.path.name}: frame in row {row} must be {self.header.shape} "
                    f"{self.header.dtype}, got {frame.header.shape} {frame.header.dtype}"
                )
        self._tables.require_shapes(frames)

    @contextlib.contextmanager
    def _writing(self, *, fatal: bool = False) -> Iterator[None]:
        """Turn a failing disk into an `ArchiveError`; a fatal one leaves only `resume`."""
        try:
            yield
        except FAILURES as error:
            if fatal:
                self._failure = str(error)
            part = part_path(self.path)
            raise ArchiveError(f"{part} cannot be written: {error}") from error

    def _write(self, frames: Sequence[Row], archived_ns: int) -> None:
        n = self._n_rows + len(frames)
        self._image.set_extent((n, *self.header.shape))
        for row, (_, encoded) in enumerate(frames, self._n_rows):
            if isinstance(encoded, EncodedFrame):
                for chunk in encoded.chunks:
                    self._image.write_direct_chunk(
                        (row, *chunk.corner), chunk.payload, chunk.filter_mask
                    )
        scores = scores_of(frames, archived_ns)
        self._tables.extend(frames, scores)
        self._fractions.frombytes(scores["graphene_fraction"].tobytes())
        self._sequences.frombytes(scores["sequence"].tobytes())
        self._last_ordinal = max(self._last_ordinal, frames[-1][0].delivery.ordinal)
        if self._n_rows == 0:
            mark_default(self._file["entry"])
        self._n_rows = n

    def _commit(self) -> None:
        self._tables.flush()
        self._file.flush()
        self._journalled.commit()
        self._n_committed = self._n_rows
        self._last_committed = self._last_ordinal

    def _release(self) -> None:
        self._file.close()
        self._journalled.commit()
        self._journalled.close()


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    journal_path(part).unlink(missing_ok=True)


def _declared(group: h5py.Group) -> list[Loss]:
    reasons = group["reason"].asstr()[:]
    return [
        Loss(first=first, n_frames=n, reason=reason)
        for first, n, reason in zip(
            group["first"][:].tolist(), group["n_frames"][:].tolist(), reasons, strict=True
        )
    ]
