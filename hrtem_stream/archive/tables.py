"""Everything an archive stores beside the images: one `Column` a dataset, grown row by row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.archive.column import Column, WriteAt
from hrtem_stream.archive.encoding import EncodedFrame, SetAsideFrame
from hrtem_stream.archive.layout import (
    SCORES,
    TEXT_BYTES,
    ArchiveHeader,
    text_of,
    texts_of,
)
from hrtem_stream.archive.ledger import Loss
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import SegmentedFrame

Row: TypeAlias = tuple[SegmentedFrame, EncodedFrame | SetAsideFrame]


_OF_ONE_FRAME = (
    "runs/start",
    "runs/length",
    "runs/value",
    "illumination/coefficients",
    "thumbnails/image",
    "vacuum/bits",
    "beam_off/bits",
    "set_aside/bytes",
)
"""Their digests are taken frame by frame and stand among the scores, as `working_digest`."""
_WHOLE = (
    "images/frame",
    *(f"scores/{field.name}" for field in SCORES),
    "runs/frame_offset",
    *(f"set_aside/{name}" for name in ("offset", "row", "shape", "dtype", "reason")),
    *(f"ledger/declared/{name}" for name in ("first", "n_frames", "reason", "ordinal")),
)


OF_THE_SERIES = ("runs/value",)
"""Those whose dtype is known with the series only."""
COMMON = tuple(name for name in (*_WHOLE, *_OF_ONE_FRAME) if name not in OF_THE_SERIES)


def open_columns(
    entry: h5py.Group, names: Iterable[str], *, write_at: WriteAt
) -> dict[str, Column]:
    """Open tables of an archive, by name; `write_at` is that of the file below HDF5."""
    return {
        name: Column(
            entry[name],
            digest=xxhash.xxh3_64() if name in _WHOLE else None,
            write_at=write_at,
        )
        for name in names
    }


class Tables:
    """All that is stored beside the images, one `Column` a dataset.

    Parameters
    ----------
    columns
        All of them, as `open_columns` gives them.
    header
        Of the archive.
    """

    def __init__(self, columns: Mapping[str, Column], header: ArchiveHeader) -> None:
        self._header = header
        self._whole = {name: columns[name] for name in _WHOLE}
        self._frame = columns["images/frame"]
        self._scores = _in_group("scores", columns)
        self._runs = _in_group("runs", columns)
        self._coefficients = columns["illumination/coefficients"]
        self._thumbnails = columns["thumbnails/image"]
        self._vacuum = columns["vacuum/bits"]
        self._beam_off = columns["beam_off/bits"]
        self._aside = _in_group("set_aside", columns)
        self._declared = _in_group("ledger/declared", columns)
        self._by_frame = (
            self._frame,
            *self._scores.values(),
            self._coefficients,
            self._thumbnails,
            self._vacuum,
            self._beam_off,
        )
        self._all = (
            *self._by_frame,
            *self._runs.values(),
            *self._aside.values(),
            *self._declared.values(),
        )

    @property
    def n_rows(self) -> int:
        """Frames in the tables."""
        return self._frame.n

    def digests(self) -> dict[str, int]:
        """Return the digest of each table that holds one value a frame, a loss or a text."""
        return {
            name: column.digest.intdigest()
            for name, column in self._whole.items()
            if column.digest is not None
        }

    def begin(self) -> None:
        """Write the offsets of nothing."""
        self._runs["frame_offset"].extend(np.zeros(1, np.uint64))
        self._aside["offset"].extend(np.zeros(1, np.uint64))

    def flush(self) -> None:
        """Hand all rows to HDF5."""
        for table in self._all:
            table.flush()

    def require_shapes(self, frames: Sequence[Row]) -> None:
        """Refuse frames whose masks or coefficients do not fit, unless nothing was found."""
        for frame, encoded in frames:
            nothing = frame.method == "none" or isinstance(encoded, SetAsideFrame)
            if not nothing and not _fits(frame, self._header):
                raise ArchiveError(
                    f"row {frame.header.row}: masks must be {self._header.working_shape} and "
                    f"coefficients {self._header.coefficients_shape}, got "
                    f"{frame.thumbnail.shape}, {frame.vacuum.shape}, {frame.beam_off.shape} and "
                    f"{frame.coefficients.shape}"
                )

    def extend(self, frames: Sequence[Row], scores: NDArray[np.void]) -> None:
        """Append frames and what `scores_of` makes of them."""
        rows = np.array([frame.header.row for frame, _ in frames], np.int64)
        self._frame.extend(rows)
        for name in _GIVEN:
            self._scores[name].extend(scores[name])
        n_runs = []
        for frame, encoded in frames:
            if isinstance(encoded, SetAsideFrame):
                self._set_aside(frame, encoded)
            else:
                for name in ("start", "length", "value"):
                    self._runs[name].extend(getattr(encoded, name))
            n_runs.append(self._runs["start"].n)
        self._runs["frame_offset"].extend(np.array(n_runs, np.uint64))
        self._add_working_images(frames)

    def declare(self, loss: Loss, ordinal: int) -> None:
        """Append a loss."""
        self._declared["first"].extend(np.array([loss.first], np.int64))
        self._declared["n_frames"].extend(np.array([loss.n_frames], np.int64))
        self._declared["reason"].extend(texts_of([loss.reason], TEXT_BYTES))
        self._declared["ordinal"].extend(np.array([ordinal], np.int64))

    def cut(self, image: h5py.Dataset) -> None:
        """Cut all datasets to the rows that all of them have.

        A journalled file has the same in each; one whose journal is gone may not.
        """
        offsets = self._runs["frame_offset"]
        aside = self._aside["offset"]
        if not offsets.n or not aside.n:
            raise ValueError("the tables of offsets are empty")
        n = min(image.shape[0], offsets.n - 1, *(table.n for table in self._by_frame))
        image.resize(n, axis=0)
        for table in self._by_frame:
            table.cut(n)
        offsets.cut(n + 1)
        n_runs = int(image.file["entry/runs/frame_offset"][n])
        for name in ("start", "length", "value"):
            if self._runs[name].n < n_runs:
                raise ValueError(f"runs/{name} has {self._runs[name].n} runs of {n_runs}")
            self._runs[name].cut(n_runs)
        self._cut_aside(image.file["entry/set_aside"], n)
        n_declared = min(table.n for table in self._declared.values())
        for table in self._declared.values():
            table.cut(n_declared)

    def _cut_aside(self, group: h5py.Group, n_rows: int) -> None:
        names = ("row", "shape", "dtype", "reason")
        n = min(self._aside["offset"].n - 1, *(self._aside[name].n for name in names))
        n = int(np.count_nonzero(group["row"][:n] < n_rows))
        for name in names:
            self._aside[name].cut(n)
        self._aside["offset"].cut(n + 1)
        n_bytes = int(group["offset"][n])
        if self._aside["bytes"].n < n_bytes:
            raise ValueError(f"set_aside/bytes has {self._aside['bytes'].n} bytes of {n_bytes}")
        self._aside["bytes"].cut(n_bytes)

    def _set_aside(self, frame: SegmentedFrame, aside: SetAsideFrame) -> None:
        row = frame.header.row - self._header.first_row
        self._aside["bytes"].extend(np.frombuffer(aside.payload, np.uint8))
        self._aside["offset"].extend(np.array([self._aside["bytes"].n], np.uint64))
        self._aside["row"].extend(np.array([row], np.uint64))
        self._aside["shape"].extend(np.array([aside.shape], np.uint64))
        self._aside["dtype"].extend(texts_of([aside.dtype], 16))
        self._aside["reason"].extend(texts_of([aside.reason], TEXT_BYTES))

    def _add_working_images(self, frames: Sequence[Row]) -> None:
        P, Q = self._header.working_shape
        n = len(frames)
        coefficients = np.full((n, *self._header.coefficients_shape), np.nan, np.float32)
        vacuum, beam_off = np.zeros((2, n, -(-P * Q // 8)), np.uint8)
        digests = np.zeros(n, np.uint64)
        nothing = np.zeros((P, Q), np.uint8)
        for i, (frame, encoded) in enumerate(frames):
            thumbnail = nothing
            # What a frame passed on without work does not have stays empty.
            if _fits(frame, self._header):
                coefficients[i] = frame.coefficients
                for bits, mask in ((vacuum[i], frame.vacuum), (beam_off[i], frame.beam_off)):
                    if mask.any():  # few are
                        bits[:] = np.packbits(mask)
                thumbnail = frame.thumbnail
            self._thumbnails.extend(thumbnail[np.newaxis])
            runs: Any = encoded if isinstance(encoded, EncodedFrame) else _NO_RUNS
            digests[i] = working_digest(
                thumbnail, vacuum[i], beam_off[i], coefficients[i],
                runs.start, runs.length, runs.value,
            )  # fmt: skip
        self._coefficients.extend(coefficients)
        self._vacuum.extend(vacuum)
        self._beam_off.extend(beam_off)
        self._scores["working_digest"].extend(digests)


def _in_group(group: str, columns: Mapping[str, Column]) -> dict[str, Column]:
    """Give the tables of a group by their names in it."""
    return {
        name.removeprefix(f"{group}/"): column
        for name, column in columns.items()
        if name.startswith(f"{group}/")
    }


@dataclass(frozen=True)
class _NoRuns:
    start: NDArray[Any]
    length: NDArray[Any]
    value: NDArray[Any]


_NO_RUNS = _NoRuns(*(np.zeros(0, np.uint8) for _ in range(3)))


def working_digest(*parts: NDArray[Any]) -> int:
    """Return the xxh3, 64 bit, of all that is stored of one frame beside its pixels and scores.

    Parameters
    ----------
    parts
        Working image, vacuum and beam off as packed bits, coefficients, then start, length and
        value of the runs: each as it is stored.
    """
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return int(digest.intdigest())


def _fits(frame: SegmentedFrame, header: ArchiveHeader) -> bool:
    """Tell whether masks, thumbnail and coefficients have the shapes of the tables."""
    masks = (frame.thumbnail.shape, frame.vacuum.shape, frame.beam_off.shape)
    return (
        masks == (header.working_shape,) * 3
        and frame.coefficients.shape == header.coefficients_shape
    )


_FRACTIONS = ("graphene_fraction", "amorphous_fraction", "vacuum_fraction", "beam_off_fraction")
_GIVEN = tuple(field.name for field in SCORES if field.name != "working_digest")
_RECORD = np.dtype(
    [(field.name, field.dtype.replace("text:", "S")) for field in SCORES if field.name in _GIVEN]
)


def scores_of(frames: Sequence[Row], archived_ns: int) -> NDArray[np.void]:
    """Return (n,) records of all score columns but the working digest."""
    scores = [_scores(frame, encoded, archived_ns) for frame, encoded in frames]
    return np.array([tuple([one[name] for name in _GIVEN]) for one in scores], _RECORD)


def _scores(
    frame: SegmentedFrame, encoded: EncodedFrame | SetAsideFrame, archived_ns: int
) -> dict[str, Any]:
    header, delivery = frame.header, frame.delivery
    scores = {
        "graphene_fraction": frame.graphene_fraction,
        "amorphous_fraction": frame.amorphous_fraction,
        "vacuum_fraction": frame.vacuum_fraction,
        "beam_off_fraction": frame.beam_off_fraction,
        "method": text_of(frame.method, 16),
        "confidence": frame.confidence,
        "agreement": frame.agreement,
        "scale": text_of(frame.scale, 16),
        "working_pixel": frame.working_pixel_nm,
        "working_rows": frame.amorphous.shape[0],
        "working_columns": frame.amorphous.shape[1],
        "attempt": delivery.attempt,
        "latency": max(archived_ns - header.received_ns, 0) / 1e9,
        "digest": header.digest,
        "sequence": header.sequence,
        "ordinal": delivery.ordinal,
        "name": text_of(header.name, TEXT_BYTES),
        "fault": text_of(header.fault, TEXT_BYTES),
        "acquired_ns": header.acquired_ns,
        "received_ns": header.received_ns,
        "archived_ns": archived_ns,
        "raw_bytes": header.n_bytes,
        "stored_bytes": stored_bytes(encoded),
    }
    if isinstance(encoded, EncodedFrame):
        return scores | {"stored_digest": encoded.stored_digest}
    # What is not among the images cannot be ranked among them.
    return scores | {
        **dict.fromkeys(_FRACTIONS, math.nan),
        "method": b"none",
        "stored_digest": encoded.digest,
        "fault": text_of(encoded.reason, TEXT_BYTES),
    }


def stored_bytes(encoded: EncodedFrame | SetAsideFrame) -> int:
    """Return how much room the pixels of a frame take."""
    if isinstance(encoded, SetAsideFrame):
        return len(encoded.payload)
    return encoded.stored_bytes
