"""Checks an archive against itself: every digest, run, rank and count is computed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.archive.reader import Archive, Runs, open_archive
from hrtem_stream.archive.structure import find_structures
from hrtem_stream.archive.tables import working_digest
from hrtem_stream.errors import ArchiveError
from hrtem_stream.science.ranking import rank
from hrtem_stream.science.run_length import are_canonical, fill_runs, mask_of_runs

N_DIFFERENCES_MAX = 1000
"""Beyond so many the file is plainly not what was written."""

FRACTION_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What `verify` found."""

    path: str
    n_frames: int
    differences: tuple[str, ...]
    """One sentence each, naming the row; empty when all is as it was written."""
    ledger: dict[str, Any]


def verify(path: str | os.PathLike[str]) -> VerifyReport:
    """Compare an archive with what its pixels, tables and ledger say of each other.

    Raises
    ------
    ArchiveError
        If there is no such file, or it may not be read.
    """
    try:
        opened = open_archive(path)
    except ArchiveError as error:
        if not _can_be_read(path):
            raise
        return VerifyReport(path=str(path), n_frames=0, differences=(str(error),), ledger={})
    with opened as archive:
        differences: list[str] = []
        try:
            for difference in _differences(archive):
                differences.append(difference)
                if len(differences) == N_DIFFERENCES_MAX:
                    differences.append("there are more differences")
                    break
            ledger = asdict(archive.ledger) | {"balanced": archive.ledger.balanced}
        except (ArchiveError, OSError, RuntimeError, KeyError, ValueError, IndexError) as error:
            differences.append(f"the tables cannot be read: {error}")
            ledger = {}
        return VerifyReport(
            path=str(path),
            n_frames=len(archive),
            differences=tuple(differences),
            ledger=ledger,
        )


def _can_be_read(path: str | os.PathLike[str]) -> bool:
    try:
        with Path(path).open("rb"):
            return True
    except OSError:
        return False


def _differences(archive: Archive) -> Iterator[str]:
    scores = archive.scores
    yield from _table_differences(archive, scores)
    for name, (written, found) in archive.table_digests().items():
        if written != found:
            yield f"{name} is not what was written"
    aside = set(archive.set_aside_rows)
    for row in range(len(archive)):
        try:
            yield from _working_differences(archive, row, scores)
            if row in aside:
                yield from _set_aside_differences(archive, row, scores)
            else:
                yield from _frame_differences(archive, row, scores)
        except (ArchiveError, OSError, ValueError) as error:
            yield f"row {row}: {error}"
    yield from _ledger_differences(archive, scores["sequence"])
    if find_structures(archive.path) is not None:
        with archive.structure() as structures:
            for difference in structures.differences():
                yield f"structures: {difference}"


def _table_differences(archive: Archive, scores: dict[str, NDArray[Any]]) -> Iterator[str]:
    n = len(archive)
    for name, values in scores.items():
        if len(values) != n:
            raise ArchiveError(f"scores/{name} has {len(values)} rows, not {n}")
    rows = archive.rows
    if not np.array_equal(rows, archive.header.first_row + np.arange(n)):
        yield "images/frame does not count the rows of the series"
    offsets = archive.frame_offsets
    if len(offsets) != n + 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
        raise ArchiveError("runs/frame_offset does not part the runs among the frames")
    if not archive.is_complete:
        yield "the archive was not closed"
    elif not np.array_equal(archive.ranks(), rank(scores["graphene_fraction"])):
        yield "scores/rank is not the order of graphene_fraction"


def _working_differences(
    archive: Archive, row: int, scores: dict[str, NDArray[Any]]
) -> Iterator[str]:
    if working_digest(*archive.working_parts(row)) != scores["working_digest"][row]:
        yield (
            f"row {row}: thumbnail, masks, coefficients or runs are not those that were stored "
            f"(sequence {scores['sequence'][row]})"
        )


def _frame_differences(
    archive: Archive, row: int, scores: dict[str, NDArray[Any]]
) -> Iterator[str]:
    pixels = archive.unchecked_frame(row)
    where = f"(sequence {scores['sequence'][row]}, images/image)"
    found = xxhash.xxh3_64_intdigest(pixels.data)
    if found != scores["stored_digest"][row]:
        yield f"row {row}: the pixels are not those that were stored {where}"
    runs = archive.runs(row)
    flattened = archive.header.keep == "graphene" and runs.start.size > 0
    if not flattened and found != scores["digest"][row]:
        yield f"row {row}: the pixels are not those that were received {where}"
    if not are_canonical(runs.start, length=runs.length, n_pixels=pixels.size):
        yield f"row {row}: the runs are not in order, apart and inside the frame"
        return
    if flattened and not _filled(pixels, runs):
        yield f"row {row}: the pixels in the runs are not their values"
    P, Q = _working_shape(archive, row, scores)
    # On a detector coarser than the working image some of the mask is not in the runs.
    if scores["method"][row] != "none" and archive.shape[0] >= P and archive.shape[1] >= Q:
        area = _amorphous_area(archive, row, runs, (P, Q))
        fraction = scores["amorphous_fraction"][row]
        if not abs(area - fraction) <= FRACTION_TOLERANCE:
            yield f"row {row}: the runs cover {area:.6f}, amorphous_fraction is {fraction:.6f}"


def _set_aside_differences(
    archive: Archive, row: int, scores: dict[str, NDArray[Any]]
) -> Iterator[str]:
    found = xxhash.xxh3_64_intdigest(archive.set_aside(row).payload)
    if found != scores["stored_digest"][row] or found != scores["digest"][row]:
        yield f"row {row}: the bytes set aside are not those that were received"
    if archive.unchecked_frame(row).any() or archive.runs(row).start.size:
        yield f"row {row}: the frame was set aside, but has an image or runs"


def _ledger_differences(archive: Archive, sequences: NDArray[np.int64]) -> Iterator[str]:
    ledger = archive.ledger
    if not ledger.balanced:
        yield (
            f"the ledger does not balance: {ledger.received} received, "
            f"{ledger.archived} archived, {ledger.lost} lost"
        )
    if ledger.archived != len(archive):
        yield f"the ledger counts {ledger.archived} frames, there are {len(archive)}"
    if ledger.lost != sum(loss.n_frames for loss in ledger.losses):
        yield f"the ledger counts {ledger.lost} lost frames, its ranges do not"
    for loss in ledger.losses:
        both = sequences[(sequences >= loss.first) & (sequences < loss.first + loss.n_frames)]
        if both.size:
            yield f"sequence {both[0]} is archived and lost"


def _filled(pixels: NDArray[Any], runs: Runs) -> bool:
    """Tell whether filling the runs once more changes nothing, NaN included."""
    again = pixels.copy()
    fill_runs(again.reshape(-1), start=runs.start, length=runs.length, value=runs.value)
    return again.tobytes() == pixels.tobytes()


def _working_shape(archive: Archive, row: int, scores: dict[str, NDArray[Any]]) -> tuple[int, int]:
    """Return the size of a frame's working image; older archives have one for all."""
    if "working_rows" not in scores:
        return archive.header.working_shape
    return int(scores["working_rows"][row]), int(scores["working_columns"][row])


def _amorphous_area(
    archive: Archive, row: int, runs: Runs, working_shape: tuple[int, int]
) -> float:
    """Return the share of the working image that is amorphous, seen and not vacuum."""
    P, Q = working_shape
    M, N = archive.shape
    mask = mask_of_runs(runs.start, length=runs.length, shape=archive.shape)
    # The detector pixel in the middle of each pixel of the working image.
    middles = (2 * np.arange(P) + 1) * M // (2 * P), (2 * np.arange(Q) + 1) * N // (2 * Q)
    amorphous = mask[np.ix_(*middles)]
    if working_shape == archive.header.working_shape:
        # Vacuum and beam are stored at that size alone; a mask of another size leaves them out.
        amorphous &= ~archive.vacuum(row) & ~archive.beam_off(row)
    return int(np.count_nonzero(amorphous)) / int(amorphous.size)
