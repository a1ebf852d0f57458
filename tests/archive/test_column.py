import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.archive.column import Column
from hrtem_stream.archive.journal import JournalledFile
from hrtem_stream.archive.layout import LIBVER, column, texts_of


def values_of(kind, n, trailing, rng):
    if kind == "noise":
        return rng.integers(0, 2**62, (n, *trailing)).astype("<u8")
    if kind == "steady":
        return np.broadcast_to(
            np.arange(n, dtype="<u8").reshape(n, *(1 for _ in trailing)), (n, *trailing)
        )
    return rng.random((n, *trailing)).astype("<u8")


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 40),
            st.sampled_from(("noise", "steady", "zero")),
            st.sampled_from(("flush", "reopen", "go on")),
        ),
        max_size=8,
    ),
    rows=st.sampled_from((1, 8, 64)),
    trailing=st.sampled_from(((), (3,), (2, 2))),
    codec=st.sampled_from(("deflate", "none")),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_come_back_however_they_are_appended_flushed_and_reopened(
    tmp_path_factory, steps, rows, trailing, codec, seed
):
    path = tmp_path_factory.mktemp("column") / "f.h5"
    rng = np.random.default_rng(seed)
    file = h5py.File(path, "w", libver=LIBVER)
    appended = Column(column(file, "x", "<u8", rows=rows, trailing=trailing, codec=codec))
    expected = [np.zeros((0, *trailing), "<u8")]
    for n, kind, then in steps:
        expected.append(values_of(kind, n, trailing, rng))
        appended.extend(expected[-1])
        if then != "go on":
            appended.flush()
        if then == "reopen":
            file.close()
            file = h5py.File(path, "r+", libver=LIBVER)
            np.testing.assert_array_equal(file["x"][:], np.concatenate(expected))
            appended = Column(file["x"])
    appended.flush()
    file.close()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][:], np.concatenate(expected))


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 40),
            st.sampled_from(("noise", "steady", "zero")),
            st.sampled_from(("commit", "lose", "reopen")),
        ),
        max_size=8,
    ),
    rows=st.sampled_from((1, 8, 64)),
    trailing=st.sampled_from(((), (3,), (100,))),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_written_below_hdf5_are_there_once_committed_and_only_then(
    tmp_path_factory, steps, rows, trailing, seed
):
    path = tmp_path_factory.mktemp("column") / "f.h5"
    rng = np.random.default_rng(seed)
    journalled = JournalledFile.create(path)
    file = h5py.File(journalled, "w", libver=LIBVER)
    for name in ("x", "y"):  # their chunks lie between each other
        column(file, name, "<u8", rows=rows, trailing=trailing)
    tables = [Column(file[name], write_at=journalled.write_at) for name in ("x", "y")]
    file.flush()
    journalled.commit()
    expected = np.zeros((0, *trailing), "<u8")
    for n, kind, then in steps:
        values = values_of(kind, n, trailing, rng)
        for table in tables:
            table.extend(values)
            table.flush()
        file.flush()
        if then != "lose":
            journalled.commit()
            expected = np.concatenate([expected, values])
        if then != "commit":
            journalled.discard()
            file.close()
            journalled.close()
            journalled = JournalledFile.reopen(path)
            file = h5py.File(journalled, "r+", libver=LIBVER)
            for name in ("x", "y"):
                np.testing.assert_array_equal(file[name][:], expected)
            file.close()
            journalled.close()
            journalled = JournalledFile.reopen(path)
            file = h5py.File(journalled, "r+", libver=LIBVER)
            tables = [Column(file[name], write_at=journalled.write_at) for name in ("x", "y")]
    file.close()
    journalled.commit()
    journalled.close()
    with h5py.File(path) as file:
        for name in ("x", "y"):
            np.testing.assert_array_equal(file[name][:], expected)


def test_a_flush_writes_the_rows_that_are_new(tmp_path):
    journalled = JournalledFile.create(tmp_path / "f.h5")
    file = h5py.File(journalled, "w", libver=LIBVER)
    written = []

    def write_at(begin, view):
        written.append(bytes(view))
        journalled.write_at(begin, view)

    table = Column(column(file, "x", "<u8", rows=512), write_at=write_at)
    table.extend(np.arange(5, dtype="<u8"))
    table.flush()
    assert written == [], "its place is not known before it is stored whole"
    table.extend(np.arange(5, 8, dtype="<u8"))
    table.flush()
    table.flush()
    assert written == [np.arange(5, 8, dtype="<u8").tobytes()]
    file.close()
    journalled.commit()
    journalled.close()
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["x"][:].tolist() == list(range(8))


@pytest.mark.parametrize("kept", [0, 5, 8, 11, 20])
def test_a_column_that_was_cut_can_be_appended_to(tmp_path, kept):
    values = np.arange(20.0)
    with h5py.File(tmp_path / "f.h5", "w", libver=LIBVER) as file:
        table = Column(column(file, "x", "<f8", rows=8))
        table.extend(values)
        table.flush()
    with h5py.File(tmp_path / "f.h5", "r+", libver=LIBVER) as file:
        table = Column(file["x"])
        table.cut(kept)
        table.extend(-values)
        table.flush()
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_array_equal(file["x"][:], np.concatenate([values[:kept], -values]))


def test_texts_come_back(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w", libver=LIBVER) as file:
        table = Column(column(file, "x", "text:8", rows=4))
        for text in ("", "å", "too long for it", "a\0b", "\ud800"):
            table.extend(texts_of([text], 8))
            table.flush()
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["x"].asstr()[:].tolist() == [
            "",
            "å",
            "too l…",
            "a\N{REPLACEMENT CHARACTER}b",
            "?",
        ]
