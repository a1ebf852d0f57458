import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.archive.journal import (
    PAGE,
    SIGNATURE,
    JournalledFile,
    has_begun,
    journal_path,
    remove_stillborn,
    remove_unfinished,
)
from hrtem_stream.errors import ArchiveError


def superblock(size):
    """Return the beginning of a file that states its end, as HDF5's version 2 does."""
    return SIGNATURE + bytes([2, 8, 8, 0]) + bytes(16) + size.to_bytes(8, "little") + bytes(12)


def put(file, offset, payload):
    file.seek(offset)
    file.write(payload)


writes = st.lists(
    st.tuples(st.integers(48, 5 * PAGE), st.integers(1, 2 * PAGE), st.integers(1, 255)),
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(writes, min_size=1, max_size=4), lost=writes)
def test_a_file_that_is_given_up_is_what_was_committed_last(tmp_path_factory, steps, lost):
    path = tmp_path_factory.mktemp("journal") / "f"
    file = JournalledFile.create(path)
    model = bytearray()
    for step in steps:
        for offset, n, value in step:
            put(file, offset, bytes([value]) * n)
            if len(model) < offset + n:
                model.extend(bytes(offset + n - len(model)))
            model[offset : offset + n] = bytes([value]) * n
        if len(model) < 48:
            model.extend(bytes(48 - len(model)))
        head = superblock(len(model))
        put(file, 0, head)
        model[: len(head)] = head
        file.seek(0)
        assert file.read(len(model)) == model
        file.commit()
    for offset, n, value in lost:
        put(file, offset, bytes([value]) * n)
    file.discard()
    file.close()
    again = JournalledFile.reopen(path)
    assert again.read(10**6) == model
    again.close()
    assert path.read_bytes() == model


def test_a_journal_that_was_not_applied_is_applied_when_the_file_is_opened(tmp_path, monkeypatch):
    path = tmp_path / "f"
    file = JournalledFile.create(path)
    put(file, 0, superblock(3 * PAGE) + bytes(3 * PAGE - 48))
    file.commit()
    put(file, 100, b"new")
    put(file, 2 * PAGE - 1, b"new")
    written = []
    real = os.pwrite

    def stops_after_the_journal(descriptor, payload, offset):
        if written:
            raise OSError("killed")
        written.append(1)
        return real(descriptor, payload, offset)

    monkeypatch.setattr(os, "pwrite", stops_after_the_journal)
    with pytest.raises(OSError, match="killed"):
        file.commit()
    monkeypatch.undo()
    file.discard()
    file.close()
    assert b"new" not in path.read_bytes()

    reader = JournalledFile.for_reading(path)
    reader.seek(100)
    assert reader.read(3) == b"new"
    reader.close()
    assert b"new" not in path.read_bytes()

    again = JournalledFile.reopen(path)
    again.seek(2 * PAGE - 1)
    assert again.read(3) == b"new"
    again.close()
    assert path.read_bytes().count(b"new") == 2


def test_a_page_that_is_held_again_is_not_read_again_unless_the_file_was_cut_meanwhile(
    tmp_path, monkeypatch
):
    path = tmp_path / "f"
    file = JournalledFile.create(path)
    put(file, 0, superblock(3 * PAGE) + bytes(3 * PAGE - 48))
    file.commit()
    put(file, 2 * PAGE + 5, b"one")
    file.commit()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", None)
        put(file, 2 * PAGE + 9, b"two")
        file.commit()
    assert path.read_bytes()[2 * PAGE + 5 : 2 * PAGE + 12] == b"one\0two"
    file.truncate(2 * PAGE)
    file.commit()
    put(file, 2 * PAGE, bytes(PAGE))  # goes straight into the file
    file.commit()
    put(file, 2 * PAGE + 9, b"six")
    file.commit()
    assert path.read_bytes()[2 * PAGE + 5 : 2 * PAGE + 12] == b"\0\0\0\0six"
    file.close()


@pytest.mark.parametrize("cut", [0, 7, 23, 24, 100, 4000, -1])
def test_a_torn_journal_is_ignored(tmp_path, cut):
    path = tmp_path / "f"
    file = JournalledFile.create(path)
    put(file, 0, superblock(PAGE) + bytes(PAGE - 48))
    file.commit()
    before = path.read_bytes()
    put(file, 100, b"new")
    journal = journal_path(path)
    kept = []
    real = os.pwrite

    def keeps(descriptor, payload, offset):
        kept.append(bytes(payload))
        return real(descriptor, payload, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", keeps)
        file.commit()
    file.close()
    path.write_bytes(before)
    journal.write_bytes(kept[0][:cut])
    again = JournalledFile.reopen(path)
    again.close()
    assert path.read_bytes() == before


def test_two_processes_cannot_write_the_same_file(tmp_path):
    path = tmp_path / "f"
    file = JournalledFile.create(path)
    put(file, 0, superblock(PAGE) + bytes(PAGE - 48))
    file.commit()
    with pytest.raises(ArchiveError, match="another process"):
        JournalledFile.create(path)
    with pytest.raises(ArchiveError, match="another process"):
        JournalledFile.reopen(path)
    file.close()
    JournalledFile.reopen(path).close()


@pytest.mark.parametrize("payload", [b"", b"no HDF5", SIGNATURE, superblock(10**9), bytes(PAGE)])
def test_what_is_not_a_whole_hdf5_file_is_refused(tmp_path, payload):
    path = tmp_path / "f"
    path.write_bytes(payload)
    for opens in (JournalledFile.reopen, JournalledFile.for_reading):
        with pytest.raises(ArchiveError, match=str(path)):
            opens(path)


def test_room_is_refused_before_anything_is_written(tmp_path):
    file = JournalledFile.create(tmp_path / "f")
    put(file, 0, np.arange(100, dtype="u1"))
    file.commit()
    with pytest.raises(OSError):
        file.reserve(1 << 60)
    file.seek(0)
    assert file.read(10**6) == bytes(range(100))
    file.close()
    assert (tmp_path / "f").stat().st_size == 100


def test_a_file_that_was_never_committed_is_removed_and_any_other_is_kept(tmp_path):
    path = tmp_path / "s.nxs.part"
    file = JournalledFile.create(path)
    with pytest.raises(ArchiveError):
        remove_stillborn(path)
    file.discard()
    file.close()
    assert remove_stillborn(path)
    assert not path.exists()
    assert not journal_path(path).exists()
    file = JournalledFile.create(path)
    put(file, 0, superblock(100))
    put(file, 48, bytes(52))
    file.commit()
    file.close()
    assert not remove_stillborn(path)
    assert path.exists()
    assert not remove_stillborn(tmp_path / "none")


def test_an_unfinished_file_is_removed_unless_it_is_being_written(tmp_path):
    path = tmp_path / "file"
    file = JournalledFile.create(path)
    put(file, 0, superblock(48))
    file.commit()
    with pytest.raises(ArchiveError, match="another process"):
        remove_unfinished(path)
    file.close()
    remove_unfinished(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [100, PAGE, 3 * PAGE + 5])
def test_a_file_begun_in_memory_has_begun_when_it_is_committed(tmp_path, n):
    path = tmp_path / "f"
    path.write_bytes(bytes(10 * PAGE))
    content = superblock(n) + bytes(range(48, 100)) + bytes(n - 100)
    file = JournalledFile.in_memory()
    put(file, 0, content)
    file.place(path)
    file.seek(0)
    assert file.read(n) == content
    assert not has_begun(path)
    file.commit()
    assert has_begun(path)
    file.discard()
    file.close()
    again = JournalledFile.reopen(path)
    assert again.read(n) == content
    again.close()
    assert path.read_bytes() == content


def test_a_placed_file_whose_writer_is_killed_before_the_commit_is_stillborn(tmp_path):
    path = tmp_path / "f"
    file = JournalledFile.in_memory()
    put(file, 0, superblock(2 * PAGE) + bytes(2 * PAGE - 48))
    file.place(path)
    put(file, 100, b"late")
    file.discard()
    file.close()
    assert remove_stillborn(path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_placed_goes_on_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "f"
    file = JournalledFile.in_memory()
    put(file, 0, superblock(2 * PAGE) + bytes(2 * PAGE - 48))

    def is_full(descriptor, payload, offset):
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", is_full)
        with pytest.raises(OSError, match="full"):
            file.place(path)
    assert list(tmp_path.iterdir()) == []
    other = JournalledFile.create(path)
    with pytest.raises(ArchiveError, match="another process"):
        file.place(path)
    other.close()
    file.place(path)
    file.commit()
    file.close()
    assert has_begun(path)
