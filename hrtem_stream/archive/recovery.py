"""Finishes an archive whose writer never came back."""

from __future__ import annotations

import os
from pathlib import Path

from hrtem_stream.archive.ledger import Ledger
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.rotation import CONTINUED, ELSEWHERE
from hrtem_stream.archive.writer import ArchiveWriter, part_path
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import SeriesEnd


def reopen(path: Path) -> bool:
    """Make a finished archive an unfinished one again, if it was closed before the series ended.

    That is one that was recovered, or sealed when its log was replaced: more of its frames may be
    found. Tell whether it was one.

    Raises
    ------
    ArchiveError
        If it is damaged.
    """
    with open_archive(path) as archive:
        ledger = archive.ledger
    goes_on = ledger.end_reason in (CONTINUED, ELSEWHERE)
    if not ledger.complete or ledger.end_ordinal >= 0 or goes_on:
        return False
    path.rename(part_path(path))
    return True


def recover(part: str | os.PathLike[str], *, overwrite: bool = False) -> Ledger:
    """Turn `NAME.part` into the archive NAME, with all that was committed.

    Frames that were in flight when the writer died are not in it; how many they were nobody
    knows any more, so the ledger counts what is there and gives `recovered` as its end.

    Raises
    ------
    ArchiveError
        If the file is not a `.part`, is still being written or is damaged, or NAME exists and may
        not be replaced.
    """
    path = Path(part)
    if path.suffix != ".part":
        raise ArchiveError(f"an unfinished archive ends in .part, got {path}")
    writer = ArchiveWriter.resume(path.with_suffix(""), overwrite=overwrite)
    try:
        return writer.close(SeriesEnd(reason="recovered"))
    finally:
        writer.abandon()
