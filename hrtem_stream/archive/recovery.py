"""Finishes an archive whose writer never came back."""

from __future__ import annotations

import os
from pathlib import Path

from hrtem_stream.archive.ledger import Ledger
from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import SeriesEnd


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
