"""Opens an archive and reads from it frame by frame.

Chunks are fetched as they lie in the file and decoded here: the zstd plugin of HDF5 is not
needed, and a damaged chunk is named.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.archive.bounds import check_archive, read_rows, stored_size
from hrtem_stream.archive.codec import decode_chunk
from hrtem_stream.archive.column import BLOCK_ROWS, digest_of, filters_of_dataset
from hrtem_stream.archive.encoding import SetAsideFrame
from hrtem_stream.archive.journal import JournalledFile, journal_path
from hrtem_stream.archive.layout import SCORES, ArchiveHeader
from hrtem_stream.archive.ledger import Ledger, Loss, lost_ranges
from hrtem_stream.archive.structure import StructureFile, structures_of
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import Calibration
from hrtem_stream.science.ranking import order
from hrtem_stream.science.run_length import mask_of_runs

Bits: TypeAlias = NDArray[np.bool_]
Pixels: TypeAlias = NDArray[Any]

N_ATTEMPTS, ATTEMPT_WAIT_S, FRESH_S = 20, 0.01, 5.0
FAILURES = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises where a file is not what it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of one frame, see `science.run_length`."""

    start: NDArray[np.uint32]
    length: NDArray[np.uint32]
    value: Pixels


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Open an archive, finished or still a `.part`, for reading.

    A `.part` that is being written shows what was committed when it is read. A commit in the
    middle of opening makes its tables differ in length, so opening is tried again then.

    Raises
    ------
    ArchiveError
        If there is none, it cannot be read, or the file is something else.
    """
    path = Path(path)
    for _ in range(N_ATTEMPTS - 1):
        try:
            return _open_once(path)
        except ArchiveError:
            if not _is_being_written(path):
                raise
            time.sleep(ATTEMPT_WAIT_S)
    return _open_once(path)


def _is_being_written(path: Path) -> bool:
    try:
        return path.suffix == ".part" and time.time() - path.stat().st_mtime < FRESH_S
    except OSError:
        return False


def _open_once(path: Path) -> Archive:
    if not path.is_file():
        raise ArchiveError(f"there is no archive {path}")
    try:
        if path.suffix == ".part" or journal_path(path).exists():
            source: Any = JournalledFile.for_reading(path)
        else:
            source = path
        file = h5py.File(source, "r")
    except FAILURES as error:
        raise ArchiveError(f"{path} cannot be opened: {error}") from error
    try:
        header = ArchiveHeader.from_json(file["entry/process"].attrs["header"])
        check_archive(file, header, n_file_bytes=path.stat().st_size, grows=path.suffix == ".part")
        return Archive(path, file=file, header=header)
    except (*FAILURES, ArchiveError) as error:
        file.close()
        raise ArchiveError(f"{path} is not an archive of hrtem_stream: {error}") from error


class Archive:
    """One archive, open for reading; made by `open_archive`, closed by `close` or `with`.

    Parameters
    ----------
    path, file
        The file and h5py's view of it.
    header
        As stored in the file.
    """

    def __init__(self, path: Path, *, file: h5py.File, header: ArchiveHeader) -> None:
        self.path = path
        self.header = header
        self._file = file
        self._entry = file["entry"]
        self._image = self._entry["images/image"]
        self._filters = filters_of_dataset(self._image)
        offsets: NDArray[np.uint64] = read_rows(self._entry["runs/frame_offset"], slice(None))
        self._offsets: NDArray[np.int64] = offsets.astype(np.int64)
        # A file that grows shows its first frames everywhere: each table is read when it is asked
        # for, and may be longer then.
        n_seen = min(self._offsets.size - 1, int(self._image.shape[0]))
        self._n_seen = n_seen if path.suffix == ".part" else None
        self.shape: tuple[int, int] = self._image.shape[1:]
        """(M, N) of each frame."""
        self.dtype: np.dtype[Any] = self._image.dtype
        """Of each frame."""

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        n_images = int(self._image.shape[0])
        return n_images if self._n_seen is None else min(n_images, self._n_seen)

    def __iter__(self) -> Iterator[Pixels]:
        """Read the frames in order of row."""
        return (self.frame(i) for i in range(len(self)))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def frame(self, i: int) -> Pixels:
        """Return frame i as stored, (M, N); zeros for one that was set aside.

        Raises
        ------
        IndexError
            If there is no such row.
        ArchiveError
            If its pixels are damaged, or are not those that were stored.
        """
        row = self._row(i)
        frame = self.unchecked_frame(row)
        is_aside = row in self._aside
        if not is_aside and xxhash.xxh3_64_intdigest(frame.data) != self._stored_digests[row]:
            sequence = int(self.score("sequence")[row])
            raise ArchiveError(
                f"{self.path.name}: images/image, frame {row}, sequence {sequence}: "
                "the pixels are not those that were stored"
            )
        return frame

    def unchecked_frame(self, i: int) -> Pixels:
        """Return frame i as it lies in the file, whatever its digest says.

        Raises
        ------
        IndexError
            If there is no such row.
        ArchiveError
            If a chunk cannot be decoded.
        """
        row = self._row(i)
        frame = np.zeros(self.shape, self.dtype)
        rows, N = self._image.chunks[1:]
        for top in range(0, self.shape[0], rows):
            with self._reading(f"frame {row}, pixel row {top}"):
                if stored_size(self._image, (row, top, 0)) is None:
                    continue
                filter_mask, payload = self._image.id.read_direct_chunk((row, top, 0))
                band = decode_chunk(
                    payload,
                    filter_mask=filter_mask,
                    filters=self._filters,
                    dtype=self.dtype,
                    n_values=rows * N,
                )
            frame[top : top + rows] = band.reshape(rows, N)[: self.shape[0] - top]
        return frame

    def runs(self, i: int) -> Runs:
        """Return the runs of frame i.

        Raises
        ------
        IndexError
            If there is no such row.
        ArchiveError
            If the tables are damaged.
        """
        row = self._row(i)
        with self._reading(f"runs of frame {row}"):
            group = self._entry["runs"]
            here = slice(self._offsets[row], self._offsets[row + 1])
            runs = Runs(**{n: read_rows(group[n], here) for n in ("start", "length", "value")})
            if not runs.start.size == runs.length.size == runs.value.size:
                raise ArchiveError("start, length and value must be equally many")
            return runs

    def mask(self, i: int) -> Bits:
        """Return where frame i is amorphous, (M, N) bool.

        Raises
        ------
        IndexError, ArchiveError
            As `runs`.
        """
        runs = self.runs(i)
        return mask_of_runs(runs.start, length=runs.length, shape=self.shape)

    def vacuum(self, i: int) -> Bits:
        """Return where the beam meets no specimen in frame i, (P, Q) bool."""
        return self._bits("vacuum/bits", i)

    def beam_off(self, i: int) -> Bits:
        """Return what lies outside the beam in frame i, (P, Q) bool."""
        return self._bits("beam_off/bits", i)

    def thumbnail(self, i: int) -> NDArray[np.uint8]:
        """Return the working image of frame i, (P, Q) uint8."""
        return self._read("thumbnails/image", self._row(i))

    def coefficients(self, i: int) -> NDArray[np.float32]:
        """Return the Bézier coefficients of the illumination of frame i, in counts."""
        return self._read("illumination/coefficients", self._row(i))

    @property
    def scores(self) -> dict[str, NDArray[Any]]:
        """All that is known of each frame, by name, (F,) each; text as str."""
        names = [field.name for field in SCORES if field.name in self._entry["scores"]]
        return {name: self.score(name) for name in names} | {"rank": self.ranks()}

    def score(self, name: str) -> NDArray[Any]:
        """Return one of the scores, (F,).

        Raises
        ------
        ArchiveError
            If there is no such score, or it is damaged.
        """
        return self._column(f"scores/{name}")[: self._n_seen]

    def name(self, i: int) -> str:
        """Return the name that the feed gave frame i."""
        with self._reading("scores/name"):
            text: bytes = read_rows(self._entry["scores/name"], self._row(i))
            return text.decode("utf-8")

    def ranking(self) -> NDArray[np.int64]:
        """Return the rows, highest graphene fraction first, (F,) int64."""
        return order(self.score("graphene_fraction"))

    def ranks(self) -> NDArray[np.int64]:
        """Return the rank of each row, as stored; all -1 while the series runs."""
        with self._reading("scores"):
            is_ranked = "rank" in self._entry["scores"]
        return self.score("rank") if is_ranked else np.full(len(self), -1, np.int64)

    @property
    def images(self) -> h5py.Dataset:
        """The dataset of the images, for who copies its chunks."""
        return self._image

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row in the series of each frame, (F,)."""
        return self._column("images/frame")[: self._n_seen]

    @property
    def frame_offsets(self) -> NDArray[np.int64]:
        """Where the runs of each frame begin in the tables of runs, and the end, (F + 1,)."""
        return self._offsets

    @property
    def calibration(self) -> Calibration:
        """What the feed said of the exposure."""
        return self.header.start.calibration

    @property
    def is_complete(self) -> bool:
        """Whether the archive was closed."""
        with self._reading("ledger"):
            return bool(self._entry["ledger"].attrs["complete"])

    @property
    def ledger(self) -> Ledger:
        """The account; of a `.part`, as far as it goes."""
        if self.is_complete:
            losses = self._losses("ledger/lost")
        else:
            losses = lost_ranges(self.declared, archived=self.score("sequence"))
        lost = sum(loss.n_frames for loss in losses)
        with self._reading("ledger"):
            attributes = dict(self._entry["ledger"].attrs)
            return Ledger(
                series=self.header.start.series,
                series_id=self.header.start.series_id,
                log_id=self.header.log_id,
                first_row=self.header.first_row,
                received=int(attributes.get("received", len(self) + lost)),
                archived=int(attributes.get("archived", len(self))),
                lost=int(attributes.get("lost", lost)),
                losses=losses,
                repeated=int(attributes.get("repeated", 0)),
                republished=int(attributes.get("republished", 0)),
                duplicates=int(attributes.get("duplicates", 0)),
                first_ordinal=self.header.ordinal,
                end_ordinal=int(attributes.get("end_ordinal", -1)),
                end_reason=str(attributes.get("end_reason", "")),
                complete=bool(attributes["complete"]),
            )

    @property
    def declared(self) -> tuple[Loss, ...]:
        """The losses as they were declared; frames in them may have come later."""
        return self._losses("ledger/declared")

    @property
    def declared_ordinals(self) -> list[int]:
        """Ordinal of each loss that was declared."""
        return [int(ordinal) for ordinal in self._column("ledger/declared/ordinal")]

    @property
    def last_ordinal(self) -> int:
        """Ordinal of the last frame or loss in the file, -1 for none: they come in order."""
        with self._reading("ordinals"):
            columns = self._entry["scores/ordinal"], self._entry["ledger/declared/ordinal"]
            return max(
                [-1, *(int(ordinal) for c in columns for ordinal in read_rows(c, slice(-1, None)))]
            )

    def structure(self) -> StructureFile:
        """Open the structures that were found in the frames; use them in a `with`.

        Raises
        ------
        ArchiveError
            There are none, or they are of another series.
        """
        return structures_of(self.path, self.header)

    @property
    def marks(self) -> tuple[tuple[NDArray[Any], ...], float]:
        """The marks that were copied into the file: row, star, reject, note; and the threshold."""
        with self._reading("marks"):
            if "marks" not in self._entry:
                return (np.zeros(0),) * 4, 0.0
            threshold = float(self._entry["marks"].attrs["threshold"])
        names = ("row", "star", "reject", "note")
        return tuple(self._column(f"marks/{name}") for name in names), threshold

    @property
    def set_aside_rows(self) -> list[int]:
        """Rows of the frames that did not fit the image dataset."""
        return list(self._aside)

    @cached_property
    def _aside(self) -> dict[int, int]:
        """Place in the tables of what was set aside, by row."""
        return {int(row): place for place, row in enumerate(self._column("set_aside/row"))}

    @cached_property
    def _stored_digests(self) -> NDArray[np.uint64]:
        return self.score("stored_digest")

    def working_parts(self, i: int) -> tuple[NDArray[Any], ...]:
        """Return what `working_digest` is taken of, for frame i, each as it is stored."""
        row = self._row(i)
        names = ("thumbnails/image", "vacuum/bits", "beam_off/bits", "illumination/coefficients")
        runs = self.runs(row)
        stored = tuple(self._read(name, row) for name in names)
        return (*stored, runs.start, runs.length, runs.value)

    def table_digests(self) -> dict[str, tuple[int, int]]:
        """Return the digests of the tables: as written when the archive was closed, and as found.

        Raises
        ------
        ArchiveError
            If they cannot be read.
        """
        with self._reading("digests"):
            attributes = self._entry["process"].attrs
            written = json.loads(attributes.get("digests", "{}"))
            header = attributes["header"].encode()
            return {
                name: (
                    int(digest),
                    xxhash.xxh3_64_intdigest(header)
                    if name == "process/header"
                    else digest_of(self._entry[name]),
                )
                for name, digest in written.items()
            }

    def set_aside(self, i: int) -> SetAsideFrame:
        """Return what came for row i, which did not fit the image dataset.

        Raises
        ------
        KeyError
            If row i is an ordinary frame.
        ArchiveError
            If it is damaged.
        """
        if i not in self._aside:
            raise KeyError(f"row {i} was not set aside")
        at = self._aside[i]
        with self._reading(f"set_aside, row {i}"):
            group = self._entry["set_aside"]
            begin, end = (int(n) for n in read_rows(group["offset"], slice(at, at + 2)))
            shape = read_rows(group["shape"], at)
            return SetAsideFrame(
                payload=read_rows(group["bytes"], slice(begin, end)).tobytes(),
                shape=(int(shape[0]), int(shape[1])),
                dtype=read_rows(group["dtype"], at).decode(),
                reason=read_rows(group["reason"], at).decode(),
                digest=int(read_rows(self._entry["scores/digest"], i)),
            )

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Say in which file, and in what, reading failed."""
        try:
            yield
        except (*FAILURES, ArchiveError) as error:
            raise ArchiveError(f"{self.path.name}: {what}: {error}") from error

    def _losses(self, group: str) -> tuple[Loss, ...]:
        names = ("first", "n_frames", "reason")
        columns = (self._column(f"{group}/{name}").tolist() for name in names)
        return tuple(
            Loss(first=first, n_frames=n, reason=reason)
            for first, n, reason in zip(*columns, strict=True)
        )

    def _row(self, i: int) -> int:
        row = i + len(self) if i < 0 else i
        if not 0 <= row < len(self):
            raise IndexError(f"row must be below {len(self)}, got {i}")
        return row

    def _bits(self, name: str, i: int) -> Bits:
        P, Q = self.header.working_shape
        packed = self._read(name, self._row(i))
        return np.unpackbits(packed, count=P * Q).view(np.bool_).reshape(P, Q)

    def _read(self, name: str, row: int) -> NDArray[Any]:
        with self._reading(f"{name} of frame {row}"):
            values: NDArray[Any] = read_rows(self._entry[name], row)
            return values

    def _column(self, name: str) -> NDArray[Any]:
        with self._reading(name):
            column = self._entry[name]
            if column.dtype.kind != "S":
                values: NDArray[Any] = read_rows(column, slice(None))
                return values
            # Block by block: the texts of a million frames need the memory of the longest only.
            firsts = range(0, len(column), BLOCK_ROWS)
            blocks = [read_rows(column, slice(i, i + BLOCK_ROWS)) for i in firsts]
            return np.concatenate(
                [np.zeros(0, "U1"), *(np.char.decode(block, "utf-8") for block in blocks)]
            )
