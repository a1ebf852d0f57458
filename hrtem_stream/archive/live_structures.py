"""Finds structures in the files of a series that grows, a sample of them, and keeps them beside it.

Whoever calls `step` now and then analyses one frame each time: the newest that is wanted and has
none yet. What there is no time for is left to `hrtem-stream analyse`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hrtem_stream.archive.reader import Archive, open_archive
from hrtem_stream.archive.structure_analysis import analyse_row
from hrtem_stream.archive.structure_writer import StructureWriter
from hrtem_stream.errors import ArchiveError

logger = logging.getLogger(__name__)


class LiveStructures:
    """The structures of the series under way.

    Parameters
    ----------
    every
        Each so many-th frame of the series is wanted.
    """

    def __init__(self, *, every: int) -> None:
        self._every = every
        self._writers: dict[Path, StructureWriter] = {}
        """By the archive's final name."""
        self._refused: set[Path] = set()

    @property
    def n_found(self) -> int:
        """Frames with an entry, in the files that are open."""
        return sum(len(writer.rows) for writer in self._writers.values())

    def step(self, files: Sequence[Path]) -> bool:
        """Analyse one frame; tell whether there was one to analyse.

        Parameters
        ----------
        files
            Of the present series, in order, finished or still a `.part`.
        """
        for path in reversed(files):
            name = path.with_name(path.name.removesuffix(".part"))
            if name in self._refused:
                continue
            try:
                with open_archive(path) as archive:
                    if self._analyse_newest(archive, name):
                        return True
            except FileNotFoundError:
                continue  # it is renamed just now
            except ArchiveError as error:
                logger.debug("%s", error)  # it grows just now
        return False

    def finish(self, files: Sequence[Path] = ()) -> None:
        """Give the structures of all files but these their final names."""
        kept = {path.with_name(path.name.removesuffix(".part")) for path in files}
        for name in [name for name in self._writers if name not in kept]:
            writer = self._writers.pop(name)
            n_found = len(writer.rows)
            try:
                path = writer.close()
            except ArchiveError as error:
                logger.warning("%s", error)
                continue
            logger.info("structures of %d frames in %s", n_found, path)

    def _analyse_newest(self, archive: Archive, name: Path) -> bool:
        writer = self._writer(archive, name)
        if writer is None:
            return False
        first_row = archive.header.first_row
        wanted = (
            row
            for row in range(len(archive) - 1, -1, -1)
            if (first_row + row) % self._every == 0 and row not in writer.rows
        )
        row = next(wanted, None)
        if row is None:
            return False
        _, structure = analyse_row(archive, row)
        try:
            writer.append(row, structure)
            writer.commit()
        except ArchiveError as error:
            self._refuse(name, error)
            return False
        return True

    def _writer(self, archive: Archive, name: Path) -> StructureWriter | None:
        if name not in self._writers:
            try:
                self._writers[name] = StructureWriter.begin(name, archive.header)
            except ArchiveError as error:
                self._refuse(name, error)
        return self._writers.get(name)

    def _refuse(self, name: Path, error: ArchiveError) -> None:
        """Leave a file alone, with the reason in the log, and go on with the others."""
        logger.warning("no structures of %s while it grows: %s", name, error)
        self._refused.add(name)
        writer = self._writers.pop(name, None)
        if writer is not None:
            writer.abandon()
