"""An archive that is laid out before there is a series, so that no first frame waits for it.

HDF5 takes as long to make fifty groups and tables as to write a dozen frames. All but a few are the
same in every archive of a session: they are made in memory, and placed where the archive is to lie
once its series is known.
"""

from __future__ import annotations

import contextlib

import h5py

from hrtem_stream.archive.journal import JournalledFile
from hrtem_stream.archive.layout import LIBVER, CommonHeader, lay_out
from hrtem_stream.archive.tables import COMMON, open_columns

FAILURES = (OSError, RuntimeError, KeyError, ValueError)
"""What h5py raises when the file below it fails."""


class BlankArchive:
    """What archives of all series have in common, in memory; good for one of them.

    Parameters
    ----------
    common
        What is known of every archive of the session.
    """

    def __init__(self, common: CommonHeader) -> None:
        self.common = common
        self.journalled = JournalledFile.in_memory()
        with contextlib.ExitStack() as undo:
            undo.callback(self.journalled.close)
            self.file = h5py.File(self.journalled, "w", libver=LIBVER)
            undo.callback(give_up, self.journalled, self.file)
            lay_out(self.file, common)
            self.columns = open_columns(
                self.file["entry"], COMMON, write_at=self.journalled.write_at
            )
            undo.pop_all()

    def close(self) -> None:
        """Let go of it, where no archive has become of it."""
        give_up(self.journalled, self.file)
        self.journalled.close()


def give_up(journalled: JournalledFile, file: h5py.File) -> None:
    """Close h5py's view of a file without writing what was not committed."""
    journalled.discard()
    with contextlib.suppress(*FAILURES):
        file.close()
