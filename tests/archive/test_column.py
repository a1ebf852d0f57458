import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.archive.column import Column
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
