"""Structures of a series that grows."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.live_structures import LiveStructures
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.rotation import present_files
from hrtem_stream.archive.structure import live_path, structure_path
from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.messages import SeriesEnd
from tests.archive import series
from tests.science.test_lattice_scale import counted, honeycomb

SHAPE = (160, 200)


def _append(writer: ArchiveWriter, rows: range) -> None:
    encoder = FrameEncoder(SHAPE, dtype="<u2")
    nothing = np.zeros(series.WORKING_SHAPE, np.bool_)
    batch = []
    for row in rows:
        contrast = honeycomb(SHAPE, pixel_size_nm=0.03, outer=0.6)
        pixels = counted(contrast, dose=2000.0, seed=row)
        frame = series.segmented(
            row, pixels=pixels, amorphous=nothing, vacuum=nothing, beam_off=nothing,
            graphene_fraction=1.0, amorphous_fraction=0.0,
        )  # fmt: skip
        batch.append((frame, encoder.encode(pixels, nothing)))
    writer.append(batch, archived_ns=10**18 + 10**9)


def _rows(path: Path) -> list[int]:
    with open_archive(path) as archive, archive.structure() as structures:
        rows: list[int] = structures.frames["frame"].tolist()
        return rows


def test_the_newest_wanted_frame_comes_first_and_all_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.nxs"
    writer = series.create(path, shape=SHAPE)
    _append(writer, range(5))
    found = LiveStructures(every=2)
    assert found.step(present_files(path, frames_per_file=None))
    assert _rows(path.with_name("s.nxs.part")) == [4]
    _append(writer, range(5, 7))
    for expected in (2, 3, 4):
        assert found.step(present_files(path, frames_per_file=None))
        assert found.n_found == expected
    assert not found.step(present_files(path, frames_per_file=None)), "all that is wanted is there"
    writer.close(SeriesEnd(n_received=7), ordinal=9)
    assert not found.step(present_files(path, frames_per_file=None))
    assert live_path(path).exists()
    found.finish()
    assert (live_path(path).exists(), structure_path(path).exists()) == (False, True)
    assert _rows(path) == [0, 2, 4, 6]


def test_who_comes_after_a_death_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s.nxs"
    writer = series.create(path, shape=SHAPE)
    _append(writer, range(2))
    first = LiveStructures(every=1)
    first.step([path.with_name("s.nxs.part")])
    first._writers[path].abandon()  # as when it is killed
    second = LiveStructures(every=1)
    second.step([path.with_name("s.nxs.part")])
    second.finish()
    assert _rows(path.with_name("s.nxs.part")) == [0, 1]
    writer.close(SeriesEnd(n_received=2), ordinal=4)


def test_structures_of_another_series_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.nxs"
    writer = series.create(path, shape=SHAPE)
    _append(writer, range(1))
    structure_path(path).write_bytes(b"somebody else's")
    found = LiveStructures(every=1)
    with caplog.at_level(logging.WARNING):
        assert not found.step([path.with_name("s.nxs.part")])
        assert not found.step([path.with_name("s.nxs.part")])
    assert caplog.text.count("no structures of") == 1
    assert structure_path(path).read_bytes() == b"somebody else's"
    writer.close(SeriesEnd(n_received=1), ordinal=3)
