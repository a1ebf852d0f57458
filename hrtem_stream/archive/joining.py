"""Makes one archive of those that hold parts of a series: shares of jobs, or files of a rotation.

Frames, masks and scores go over as they are, and each frame's pixels are compared with their digest
on the way. The ledger is the sum of the ledgers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.archive.copying import batches_of
from hrtem_stream.archive.layout import ArchiveHeader
from hrtem_stream.archive.ledger import Ledger, Loss
from hrtem_stream.archive.reader import Archive, open_archive
from hrtem_stream.archive.rotation import CONTINUED
from hrtem_stream.archive.tables import Row
from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import LossRange, SeriesEnd
from hrtem_stream.share import ShareNote, share_note, without_share

_ANALYSIS = ("normalise", "segment")
_NO_MATTER = {"workers", "here", "batch_frames", "batch_wait_s", "oldest_s", "slowest_s"}
"""Settings in which parts of a series may differ."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the archives that are joined."""

    path: Path
    header: ArchiveHeader
    ledger: Ledger
    note: ShareNote | None
    n_rows: int
    digest: str

    @property
    def first_sequence(self) -> int:
        """What is added to the sequences of a share, which counts from 0."""
        return self.note.first if self.note else 0


@dataclass(frozen=True, slots=True)
class Original:
    """What a series was before its frames were played again, counted from 0."""

    sequences: NDArray[np.int64]
    """Of its frames."""
    losses: tuple[Loss, ...]


def join(
    paths: Sequence[Path],
    output: Path,
    *,
    overwrite: bool = False,
    provenance: Mapping[str, str] | None = None,
    original: Original | None = None,
) -> Ledger:
    """Join archives that hold parts of one series, in whatever order they are named.

    Parameters
    ----------
    paths
        All shares of a `replay --shard`, or files of one series that follow each other.
    output
        The archive to write.
    overwrite
        Whether it may be there already.
    provenance
        Instead of names and digests of the parts.
    original
        Frames get the numbers that they had there, and what was lost there is lost here, too.

    Returns
    -------
    Ledger
        Of the whole.

    Raises
    ------
    ArchiveError
        An archive is unfinished or damaged, one is missing, they are not of one series or were not
        analysed alike, or the output exists or cannot be written.
    """
    parts = _in_order([_read_part(path) for path in paths])
    for other in parts[1:]:
        _require_alike(parts[0], other)
    header = _header(parts, provenance)
    writer = ArchiveWriter.create_from(output, header=header, overwrite=overwrite)
    try:
        for part in parts:
            _append(writer, part, original)
        if original is not None:
            _declare(writer, original.losses)
        n_ordinals = sum(part.n_rows + len(part.ledger.losses) for part in parts)
        return writer.close(_end(parts), ordinal=n_ordinals + 1)
    finally:
        writer.abandon()


def _read_part(path: Path) -> _Part:
    with open_archive(path) as archive:
        if not archive.is_complete:
            raise ArchiveError(f"{path} is not finished; `hrtem-stream recover` finishes it")
        try:
            note = share_note(archive.header.start.metadata)
        except ValueError as error:
            raise ArchiveError(f"{path}: {error}") from error
        return _Part(path, archive.header, archive.ledger, note, len(archive), _digest(archive))


def _digest(archive: Archive) -> str:
    """Give a digest of all digests in an archive."""
    found = {name: written for name, (written, _) in archive.table_digests().items()}
    return xxhash.xxh3_128_hexdigest(json.dumps(found, sort_keys=True).encode())


def _in_order(parts: list[_Part]) -> list[_Part]:
    """Bring the parts into the order of the series.

    Raises
    ------
    ArchiveError
        One is missing, there twice, or of another series.
    """
    notes = [part.note for part in parts if part.note]
    if notes and len(notes) != len(parts):
        whole = next(part.path for part in parts if not part.note)
        raise ArchiveError(f"{whole} is no share of a series, the others are")
    if notes:
        return _shares_in_order(parts, notes)
    ordered = sorted(parts, key=lambda part: part.header.first_row)
    for before, after in itertools.pairwise(ordered):
        follows = before.header.first_row + before.n_rows
        if after.header.start.series_id != before.header.start.series_id:
            raise ArchiveError(f"{after.path} is of another series than {before.path}")
        if after.header.first_row != follows:
            raise ArchiveError(
                f"{after.path} must begin with row {follows} to follow {before.path.name}, "
                f"begins with {after.header.first_row}"
            )
    return ordered


def _shares_in_order(parts: list[_Part], notes: list[ShareNote]) -> list[_Part]:
    n_shares, n_frames = notes[0].share.n_shares, notes[0].n_frames
    found: dict[int, _Part] = {}
    for part, note in zip(parts, notes, strict=True):
        if (note.share.n_shares, note.n_frames) != (n_shares, n_frames):
            raise ArchiveError(
                f"{part.path} is share {note.share} of {note.n_frames} frames, "
                f"{parts[0].path.name} one of {n_shares} of {n_frames}"
            )
        if note.share.number in found:
            raise ArchiveError(
                f"{part.path} is share {note.share}, as {found[note.share.number].path.name}"
            )
        found[note.share.number] = part
    missing = sorted(set(range(1, n_shares + 1)) - set(found))
    if missing:
        listed = ", ".join(f"{number}/{n_shares}" for number in missing[:10])
        raise ArchiveError(f"{len(missing)} of {n_shares} shares are missing: {listed}")
    return [found[number] for number in sorted(found)]


def _require_alike(first: _Part, other: _Part) -> None:
    """Refuse parts that one archive cannot hold, or that were analysed differently."""
    for name in ("shape", "dtype", "codec", "keep", "working_shape", "coefficients_shape"):
        one, another = getattr(first.header, name), getattr(other.header, name)
        if one != another:
            raise ArchiveError(f"{name} must be {one} as in {first.path.name}, is {another} in "
                               f"{other.path}")  # fmt: skip
    if first.header.start.series != other.header.start.series:
        raise ArchiveError(
            f"{other.path} is of series {other.header.start.series!r}, "
            f"{first.path.name} of {first.header.start.series!r}"
        )
    one, another = _analysis(first.header), _analysis(other.header)
    for key in sorted(set(one) | set(another)):
        if one.get(key) != another.get(key):
            raise ArchiveError(
                f"{key} must be {one.get(key)!r} as in {first.path.name}, "
                f"is {another.get(key)!r} in {other.path}"
            )


def _analysis(header: ArchiveHeader) -> dict[str, Any]:
    """Give the version and settings on which masks and scores depend, as far as they are told."""
    found: dict[str, Any] = {"version": header.provenance.get("version")}
    try:
        settings = json.loads(header.provenance.get("settings", "{}"))
        for table in _ANALYSIS:
            for name, value in settings.get(table, {}).items():
                if name not in _NO_MATTER:
                    found[f"{table}.{name}"] = value
    except (ValueError, AttributeError):
        return found
    return found


def _header(parts: Sequence[_Part], provenance: Mapping[str, str] | None) -> ArchiveHeader:
    first = parts[0]
    start = first.header.start
    if first.note:
        identities = "".join(part.header.start.series_id for part in parts)
        start = replace(
            start, series_id=xxhash.xxh3_64_hexdigest(identities.encode()),
            n_expected=first.note.n_frames, metadata=without_share(start.metadata),
        )  # fmt: skip
    joined = [{"path": str(part.path.absolute()), "digest": part.digest} for part in parts]
    told = dict(provenance) if provenance is not None else {"joined": json.dumps(joined)}
    return replace(
        first.header, start=start, log_id=0, ordinal=0,
        provenance=first.header.provenance | told,
    )  # fmt: skip


def _append(writer: ArchiveWriter, part: _Part, original: Original | None) -> None:
    with open_archive(part.path) as archive:
        for archived_ns, batch in batches_of(archive):
            for frame, _ in batch:
                archive.frame(frame.header.row - part.header.first_row)  # its digest is right
            writer.append(list(_numbered(writer, part, batch, original)), archived_ns=archived_ns)
    for loss in part.ledger.losses:
        first = loss.first + part.first_sequence
        if original is None:
            _declare(writer, [replace(loss, first=first)])
        else:
            lost = original.sequences[first : first + loss.n_frames].tolist()
            _declare(writer, [replace(loss, first=one, n_frames=1) for one in lost])


def _declare(writer: ArchiveWriter, losses: Iterable[Loss]) -> None:
    for loss in losses:
        declared = LossRange(
            series=writer.header.start.series, series_id=writer.header.start.series_id,
            first=loss.first, n_frames=loss.n_frames, reason=loss.reason,
        )  # fmt: skip
        writer.declare_loss(declared, ordinal=writer.last_ordinal + 1)


def _numbered(
    writer: ArchiveWriter, part: _Part, batch: Sequence[Row], original: Original | None
) -> Iterator[Row]:
    """Give frames the row, the ordinal and the sequence that they have in the whole."""
    first_ordinal = max(1, writer.last_ordinal + 1)
    for number, (frame, encoded) in enumerate(batch):
        sequence = frame.header.sequence + part.first_sequence
        header = replace(
            frame.header, row=writer.next_row + number,
            sequence=sequence if original is None else int(original.sequences[sequence]),
            series_id=writer.header.start.series_id,
        )  # fmt: skip
        delivery = replace(frame.delivery, ordinal=first_ordinal + number)
        yield replace(frame, header=header, delivery=delivery), encoded


def _end(parts: Sequence[_Part]) -> SeriesEnd:
    """Give the end of the whole: that of its last part, unless one before broke off."""
    reasons = [part.ledger.end_reason for part in parts]
    broken = [
        reason
        for reason, is_last in zip(reasons, [*[False] * (len(parts) - 1), True], strict=True)
        if reason and (is_last or reason != CONTINUED)
    ]
    return SeriesEnd(
        n_repeated=sum(part.ledger.repeated for part in parts),
        n_republished=sum(part.ledger.republished for part in parts),
        reason="; ".join(dict.fromkeys(broken)),
    )
