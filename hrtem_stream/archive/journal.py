"""A file for HDF5 to write into that a killed process leaves as it was at its last commit.

HDF5 changes its tables in place, so a process killed while it flushes can leave a file that does
not open. Here every write below the end of the last commit is held back in memory, by pages,
while new chunks, which nothing refers to yet, go straight to the file behind it. A commit writes
the held pages to a journal beside the file, then into the file, then clears the journal.
Whenever the process dies, the file, or the file with its journal applied, is exactly what was
committed last; all other bytes lie behind the end that the file states for itself.

A file may be begun in memory, before it is known where it will lie; placing it is no commit.

The class is what h5py calls a file object: seek, tell, read, readinto, write, truncate, flush.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hrtem_stream.errors import ArchiveError

PAGE = 4096
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAGIC = b"HRTEMJ01"
_HEADER = struct.Struct("<8sQQ")  # magic, number of pages, xxh3 of what follows
_END_OF_FILE = struct.Struct("<28xQ")  # where superblocks of version 2 and 3 state it


def journal_path(path: Path) -> Path:
    """Return where the journal of a file lies."""
    return path.with_name(path.name + ".journal")


class JournalledFile:
    """A file with commits; made by `create`, `in_memory`, `reopen` or `for_reading`.

    Parameters
    ----------
    path
        The file.
    descriptor, journal
        Open file descriptors; -1 for the journal of a file that is only read, or lies in memory.
    size
        End of the file as HDF5 sees it, in bytes; the file may be longer.
    pages
        What to read in place of the file, by page number.
    """

    def __init__(
        self, path: Path, *, descriptor: int, journal: int, size: int, pages: dict[int, bytearray]
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._journal = journal
        self._size = size
        self._position = 0
        self._committed = _page_end(size)
        self._pages = pages
        self._recent: dict[int, bytearray] = {}
        """Pages of the last commit, as they lie in the file: most are held again for the next."""
        self._discards = False

    @classmethod
    def create(cls, path: Path) -> JournalledFile:
        """Open a new file, or one that is to be emptied.

        Raises
        ------
        ArchiveError
            If another process writes it.
        OSError
            If it cannot be created.
        """
        file = cls.in_memory()
        try:
            file.place(path)
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def in_memory(cls) -> JournalledFile:
        """Begin a file in memory, which `place` gives its path before it can be committed."""
        descriptor = os.memfd_create("archive")
        return cls(Path(), descriptor=descriptor, journal=-1, size=0, pages={})

    def place(self, path: Path) -> None:
        """Give a file in memory its path, where it replaces what lies there.

        Its first page, without which it is none that was begun, is held back for the commit.

        Raises
        ------
        ArchiveError
            If another process writes it.
        OSError
            If it cannot be created; then nothing is left there, and it goes on in memory.
        """
        with contextlib.ExitStack() as undo:
            journal = _locked_journal(path)
            undo.callback(os.close, journal)
            os.ftruncate(journal, 0)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            undo.callback(os.close, descriptor)
            undo.callback(_unlink, path)
            content = os.pread(self._descriptor, self._size, 0)
            _write_all(descriptor, content[PAGE:], PAGE)
            undo.pop_all()
        os.close(self._descriptor)
        self._path, self._descriptor, self._journal = path, descriptor, journal
        self._committed = min(PAGE, _page_end(self._size))
        if content:
            self._pages[0] = bytearray(content[:PAGE].ljust(PAGE, b"\0"))

    @classmethod
    def reopen(cls, path: Path) -> JournalledFile:
        """Open a file for further writing, as it was at its last commit.

        Raises
        ------
        ArchiveError
            If another process writes it, or it is not an HDF5 file.
        OSError
            If it cannot be opened.
        """
        with contextlib.ExitStack() as undo:
            descriptor = os.open(path, os.O_RDWR)
            undo.callback(os.close, descriptor)
            journal = _locked_journal(path)
            undo.callback(os.close, journal)
            for number, page in _valid_pages(journal, os.fstat(descriptor).st_size).items():
                _write_all(descriptor, page, number * PAGE)
            _clear(journal)
            size = _stated_size(path, os.pread(descriptor, PAGE, 0), os.fstat(descriptor).st_size)
            undo.pop_all()
        return cls(path, descriptor=descriptor, journal=journal, size=size, pages={})

    @classmethod
    def for_reading(cls, path: Path) -> JournalledFile:
        """Open a file to read it as it was at its last commit, changing nothing.

        Raises
        ------
        ArchiveError
            If it is not an HDF5 file.
        OSError
            If it cannot be opened.
        """
        with contextlib.ExitStack() as undo:
            descriptor = os.open(path, os.O_RDONLY)
            undo.callback(os.close, descriptor)
            pages = _pages_beside(path)
            first = bytes(pages.get(0) or os.pread(descriptor, PAGE, 0))
            size = _stated_size(path, first, os.fstat(descriptor).st_size)
            undo.pop_all()
        return cls(path, descriptor=descriptor, journal=-1, size=size, pages=pages)

    def reserve(self, n_bytes: int) -> None:
        """Make sure that the disk has room for so many bytes behind the end.

        Raises
        ------
        OSError
            If it has not, and then nothing has changed.
        """
        try:
            os.posix_fallocate(self._descriptor, self._size, n_bytes)
        except OSError as error:
            # Not every file system can promise space; there a full disk shows on writing.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise

    def commit(self) -> None:
        """Make all that was written part of the file, or, if this fails, of the next commit.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        if self._pages:
            numbers = sorted(self._pages)
            pages = [self._pages[number] for number in numbers]
            head = bytes(_HEADER.size), np.array(numbers, "<u8").tobytes()
            journal = memoryview(bytearray().join((*head, *pages)))
            digest = xxhash.xxh3_64_intdigest(journal[_HEADER.size :])
            _HEADER.pack_into(journal, 0, _MAGIC, len(pages), digest)
            _write_all(self._journal, journal, 0)
            held = journal[sum(map(len, head)) :]
            # Neighbours in one write: a table's head that lies across two pages is never in two
            # states, so that any HDF5 reader opens the file even amid a commit.
            for first, stop in _neighbours(numbers):
                run = held[first * PAGE : stop * PAGE]
                _write_all(self._descriptor, run, numbers[first] * PAGE)
            _clear(self._journal)
        committed = _page_end(self._size)
        # Behind the end the file is written to past these pages.
        self._recent = self._pages if committed >= self._committed else {}
        self._pages = {}
        self._committed = committed

    def discard(self) -> None:
        """Drop what was not committed; from now on nothing is written any more."""
        self._discards = True
        self._pages.clear()
        self._recent.clear()

    def close(self) -> None:
        """Cut the file to its size, unless it was only read or given up, and let go of it."""
        if self._journal >= 0 and not self._discards:
            os.ftruncate(self._descriptor, self._size)
        os.close(self._descriptor)
        if self._journal >= 0:
            os.close(self._journal)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the beginning or the end."""
        self._position = offset if whence == os.SEEK_SET else self._size + offset
        return self._position

    def tell(self) -> int:
        """Return the offset that was moved to."""
        return self._position

    def read(self, n_bytes: int) -> bytes:
        """Return bytes from where `seek` moved to."""
        out = bytearray(n_bytes)
        return bytes(out[: self.readinto(out)])

    def readinto(self, out: Any) -> int:
        """Read bytes from where `seek` moved to; return how many."""
        view = memoryview(out).cast("B")
        begin = self._position
        end = min(begin + len(view), self._size)
        if begin >= end:
            return 0
        chunk = os.pread(self._descriptor, end - begin, begin)
        view[: len(chunk)] = chunk
        view[len(chunk) : end - begin] = bytes(end - begin - len(chunk))
        if self._pages:
            for number in range(begin // PAGE, _page_end(end) // PAGE):
                page = self._pages.get(number)
                if page is not None:
                    a, b = max(begin, number * PAGE), min(end, (number + 1) * PAGE)
                    view[a - begin : b - begin] = page[a - number * PAGE : b - number * PAGE]
        self._position = end
        return end - begin

    def write(self, payload: Any) -> int:
        """Write bytes where `seek` moved to, or hold them back for the next commit."""
        view = memoryview(payload).cast("B")
        self.write_at(self._position, view)
        if not self._discards:
            self._position += len(view)
        return len(view)

    def write_at(self, begin: int, view: memoryview) -> None:
        """Write bytes at an offset, or hold them back for the next commit."""
        if self._discards:
            return
        end = begin + len(view)
        if end <= self._committed:
            self._hold(view, begin)
        elif begin >= self._committed:
            _write_all(self._descriptor, view, begin)
        else:
            kept = self._committed - begin
            self._hold(view[:kept], begin)
            _write_all(self._descriptor, view[kept:], self._committed)
        if end > self._size:
            self._size = end

    def truncate(self, size: int | None = None) -> int:
        """Set the end of the file as HDF5 sees it; the file itself is cut when closed."""
        if size is not None and not self._discards:
            self._size = size
        return self._size

    def flush(self) -> None:
        """Do nothing: only a commit decides."""

    def _hold(self, view: memoryview, begin: int) -> None:
        number, at = divmod(begin, PAGE)
        while len(view) > PAGE - at:
            here = PAGE - at
            self._page(number, here)[at:] = view[:here]
            view = view[here:]
            number, at = number + 1, 0
        if view:
            self._page(number, len(view))[at : at + len(view)] = view

    def _page(self, number: int, n_bytes: int) -> bytearray:
        """Give a page that is held back, of which so many bytes are to be overwritten."""
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = self._page_before(number, n_bytes)
        return page

    def _page_before(self, number: int, n_bytes: int) -> bytearray:
        """Give a page of the file, of which so many bytes are to be overwritten."""
        page = self._recent.pop(number, None)
        if page is not None:
            return page
        page = bytearray(PAGE)
        if n_bytes < PAGE:
            before = os.pread(self._descriptor, PAGE, number * PAGE)
            page[: len(before)] = before
        return page


def _neighbours(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Give where runs of numbers that follow each other begin and stop."""
    first = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield first, i
            first = i


def _page_end(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _write_all(descriptor: int, payload: Any, offset: int) -> None:
    view = memoryview(payload)
    while len(view):
        n = os.pwrite(descriptor, view, offset)
        view, offset = view[n:], offset + n


def _locked_journal(path: Path) -> int:
    journal = os.open(journal_path(path), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(journal)
        raise ArchiveError(f"{path} is being written by another process") from error
    return journal


def _pages_beside(path: Path) -> dict[int, bytearray]:
    """Return the pages of the journal of a file that is only read."""
    try:
        journal = os.open(journal_path(path), os.O_RDONLY)
    except FileNotFoundError:
        return {}
    try:
        return _valid_pages(journal, path.stat().st_size)
    finally:
        os.close(journal)


def _valid_pages(journal: int, n_file_bytes: int) -> dict[int, bytearray]:
    """Return the pages of a journal that was written whole and not yet cleared, else none.

    Only pages of the file are held back, so there are no more than it has, and none beyond it.
    """
    n_file_pages = _page_end(n_file_bytes) // PAGE
    header = os.pread(journal, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return {}
    magic, n, digest = _HEADER.unpack(header)
    n_bytes = n * (8 + PAGE)
    if magic != _MAGIC or n > n_file_pages or os.fstat(journal).st_size < _HEADER.size + n_bytes:
        return {}
    body = os.pread(journal, n_bytes, _HEADER.size)
    if xxhash.xxh3_64_intdigest(body) != digest:
        return {}
    numbers = np.frombuffer(body, "<u8", n).tolist()
    if max(numbers, default=0) >= n_file_pages:
        return {}
    pages = memoryview(body)[8 * n :]
    return {number: bytearray(pages[i * PAGE : (i + 1) * PAGE]) for i, number in enumerate(numbers)}


def _clear(journal: int) -> None:
    os.pwrite(journal, bytes(_HEADER.size), 0)


def remove_stillborn(path: Path) -> bool:
    """Remove a file whose writer was killed before its first commit; tell if it was one.

    Raises
    ------
    ArchiveError
        If another process writes it.
    """
    if not path.exists():
        return False
    journal = _locked_journal(path)
    try:
        is_stillborn = not has_begun(path)
        if is_stillborn:
            _unlink(path)
    finally:
        os.close(journal)
    return is_stillborn


def has_begun(path: Path) -> bool:
    """Tell whether a file exists and was committed once: HDF5 writes its superblock last."""
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE or 0 in _pages_beside(path)
    except FileNotFoundError:
        return False


def remove_unfinished(path: Path) -> None:
    """Remove an unfinished file with its journal.

    Raises
    ------
    ArchiveError
        If another process writes it.
    """
    journal = _locked_journal(path)
    try:
        _unlink(path)
    finally:
        os.close(journal)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    journal_path(path).unlink(missing_ok=True)


def _stated_size(path: Path, first_page: bytes, n_bytes: int) -> int:
    """Return the end of the file that its superblock states."""
    if not first_page.startswith(SIGNATURE) or len(first_page) < 48 or first_page[8] not in (2, 3):
        raise ArchiveError(f"{path} is not an HDF5 file that an archive writer left")
    (size,) = _END_OF_FILE.unpack_from(first_page)
    if size > n_bytes:
        raise ArchiveError(f"{path} has {n_bytes} bytes but says that it has {size}")
    return int(size)
