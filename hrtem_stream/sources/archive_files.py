"""Our own archives, finished or not, as frames to replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hrtem_stream.errors import ArchiveError, FeedError
from hrtem_stream.sources.stack import FramePixels, FrameStack, Read, damaged, supported

if TYPE_CHECKING:
    from hrtem_stream.archive.reader import Archive

FLATTENED = "amorphous regions were flattened when they were archived: scores will differ"


def is_archive(path: Path) -> bool:
    """Say whether a file is one of our archives, and can be read."""
    from hrtem_stream.archive.reader import open_archive

    try:
        with open_archive(path):
            return True
    except ArchiveError:
        return False


def archive_stack(path: Path) -> FrameStack:
    """Describe the frames of an archive, in the order in which they came.

    Amorphous pixels come as they were stored, flattened. What was set aside comes as it was
    received, with its fault if it has one.

    Raises
    ------
    ArchiveError
        When it cannot be read.
    FeedError
        When it has no frame.
    """
    from hrtem_stream.archive.reader import open_archive

    with open_archive(path) as archive:
        n_frames = len(archive)
        names = archive.score("name")
        times_ns = archive.score("acquired_ns")
        calibration = archive.calibration
        is_flattened = archive.header.keep == "graphene"
    if n_frames == 0:
        raise FeedError(f"{path}: has no frame")

    @contextmanager
    def reader() -> Iterator[Read]:
        with open_archive(path) as archive:
            aside = frozenset(archive.set_aside_rows)
            faults = archive.score("fault")

            def read(row: int) -> FramePixels:
                return (
                    _read_aside(archive, row, fault=str(faults[row]))
                    if row in aside
                    else supported(archive.frame(row))
                )

            yield read

    return FrameStack(
        path=path,
        n_frames=n_frames,
        reader=reader,
        name=lambda row: str(names[row]) or f"{path.stem}[{row}]",
        acquired_ns=lambda row: int(times_ns[row]),
        calibration=calibration,
        notes=(FLATTENED,) if is_flattened else (),
    )


def _read_aside(archive: Archive, row: int, *, fault: str) -> FramePixels:
    frame = archive.set_aside(row)
    if frame.shape[1] == 0:
        return damaged(frame.payload, fault=fault or frame.reason)
    return supported(np.frombuffer(frame.payload, frame.dtype).reshape(frame.shape))
