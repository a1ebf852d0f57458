"""Structures beside an archive, and what they are exported to."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest

from hrtem_stream.archive.journal import JournalledFile
from hrtem_stream.archive.layout import ArchiveHeader
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.structure import (
    StructureFile,
    find_structures,
    live_path,
    structure_path,
    structures_of,
)
from hrtem_stream.archive.structure_export import write_csv, write_extended_xyz, write_xyz
from hrtem_stream.archive.structure_writer import StructureWriter, write_structures
from hrtem_stream.archive.verify import verify
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import SeriesEnd
from hrtem_stream.science.structure import Structure, analyse_frame
from tests.archive import series
from tests.science.test_lattice_scale import counted, honeycomb


@pytest.fixture(scope="module")
def structure() -> Structure:
    frame = counted(honeycomb((200, 240), pixel_size_nm=0.03, outer=0.6), dose=2000.0)
    none = np.zeros(frame.shape, np.bool_)
    return analyse_frame(frame, amorphous=none, vacuum=none, pixel_size_nm=0.03)


def _header(series_id: str = "id-1") -> ArchiveHeader:
    return ArchiveHeader(
        start=series.start(series_id=series_id), shape=(200, 240), dtype="<u2", codec="none",
        keep="graphene", provenance={}, log_id=1, ordinal=0, first_row=0,
        working_shape=series.WORKING_SHAPE, coefficients_shape=(5, 5),
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path, structure: Structure) -> Path:
    rows = [(3, structure), (5, "no lattice – nirgends"), (7, structure)]
    return write_structures(tmp_path / "a.nxs", _header(), rows)


def test_structures_come_back_as_they_were(path: Path, structure: Structure) -> None:
    with StructureFile(path) as structures:
        assert structures.frames["frame"].tolist() == [3, 5, 7]
        assert structures.faults == ["", "no lattice – nirgends", ""]
        n = len(structure.positions)
        assert n > 100
        assert structures.frames["n_atoms"].tolist() == [n, 0, n]
        assert np.isnan(structures.frames["lattice_parameter"][1])
        atoms, bonds = structures.table("atoms", 2), structures.table("bonds", 2)
        np.testing.assert_array_equal(atoms["row"], structure.positions[:, 0])
        np.testing.assert_array_equal(bonds["second"], structure.network.bonds[:, 1])
        assert len(structures.table("atoms", 1)["row"]) == 0
        np.testing.assert_array_equal(
            structures.table("rings", 0)["size"], structure.network.ring_size
        )


def test_the_maps_of_classes_and_orientation_come_back(path: Path, structure: Structure) -> None:
    with StructureFile(path) as structures:
        maps = structures.maps(2)
        np.testing.assert_array_equal(maps["class"], structure.classes)
        lattice = structure.has_lattice
        assert (np.isnan(maps["orientation"]) == ~lattice).all()
        off = maps["orientation"] - structure.orientation_deg
        assert np.abs(off[lattice]).max() < 0.01
        assert structures.frames["map_pixel_size"][2] == structure.map_pixel_nm
        assert structures.maps(1)["class"].shape == (0, 0)  # it has no structure


def test_a_file_from_before_there_were_maps_can_be_read(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["entry/maps"]
        for name in ("map_rows", "map_columns", "map_pixel_size"):
            del file["entry/structure"][name]
    with StructureFile(path) as structures:
        assert structures.maps(0)["class"].shape == (0, 0)
        assert len(structures.table("atoms", 0)["row"]) > 100


def test_maps_that_do_not_fill_their_shape_are_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["entry/structure/map_rows"][0] += 1
    with StructureFile(path) as structures, pytest.raises(ArchiveError, match="do not fill"):
        structures.maps(0)


def test_the_file_is_nexus_and_links_to_the_images(path: Path) -> None:
    with h5py.File(path) as file:
        assert file["entry"].attrs["NX_class"] == "NXentry"
        assert file["entry/structure"].attrs["signal"] == "n_atoms"
        assert file["entry"].get("images", getlink=True).path == "/entry/images"


def test_more_is_added_unless_it_is_to_begin_anew(path: Path, structure: Structure) -> None:
    archive = path.with_name("a.nxs")
    assert structure_path(archive) == path
    write_structures(archive, _header(), [(4, structure)])
    with StructureFile(path) as structures:
        assert structures.frames["frame"].tolist() == [3, 4, 5, 7]
        assert structures.faults == ["", "", "no lattice – nirgends", ""]
        np.testing.assert_array_equal(
            structures.table("atoms", 1)["row"], structure.positions[:, 0]
        )
        assert structures.entry_of(5) == 2
        assert structures.entry_of(6) is None
        assert structures.differences() == []
    write_structures(archive, _header(), [(0, structure)], overwrite=True)
    with StructureFile(path) as structures:
        assert len(structures) == 1


def test_structures_of_another_series_are_not_mixed_in(path: Path, structure: Structure) -> None:
    with pytest.raises(ArchiveError, match="is of another series; --overwrite"):
        write_structures(path.with_name("a.nxs"), _header("id-2"), [(0, structure)])
    with StructureFile(path) as structures:
        assert len(structures) == 3


def test_a_file_that_is_not_yet_committed_counts_as_none(
    tmp_path: Path, structure: Structure
) -> None:
    archive = tmp_path / "a.nxs"
    stillborn = JournalledFile.create(live_path(archive))
    stillborn.seek(5000)
    stillborn.write(b"its superblock comes last")
    assert find_structures(archive) is None
    with pytest.raises(ArchiveError, match=r"a\.structure\.nxs is missing"):
        structures_of(archive, _header())
    with pytest.raises(ArchiveError, match="another process"):
        StructureWriter.begin(archive, _header())
    stillborn.discard()  # its writer is killed
    stillborn.close()
    with StructureWriter.begin(archive, _header()) as writer:
        assert find_structures(archive) == live_path(archive)
        writer.append(0, structure)
    assert find_structures(archive) == structure_path(archive)


def test_what_was_committed_before_a_failure_is_there_for_the_next(
    tmp_path: Path, structure: Structure
) -> None:
    archive = tmp_path / "a.nxs"
    with pytest.raises(KeyError), StructureWriter.begin(archive, _header()) as writer:
        writer.append(0, structure)
        writer.commit()
        writer.append(1, structure)
        raise KeyError("a bug")
    assert not structure_path(archive).exists()
    with StructureFile(live_path(archive)) as structures:
        assert structures.frames["frame"].tolist() == [0]
    with StructureWriter.begin(archive, _header()) as writer:
        assert writer.rows == {0}
        writer.append(1, structure)
    with StructureFile(structure_path(archive)) as structures:
        assert structures.frames["frame"].tolist() == [0, 1]
        assert structures.differences() == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.structure.nxs"]


def test_the_archive_points_to_its_structures_and_verify_looks_at_them(
    tmp_path: Path, structure: Structure
) -> None:
    writer = series.create(tmp_path / "a.nxs")
    writer.close(SeriesEnd(n_received=0), ordinal=1)
    with open_archive(tmp_path / "a.nxs") as archive, pytest.raises(ArchiveError, match="analyse"):
        archive.structure()
    with open_archive(tmp_path / "a.nxs") as archive:
        header = archive.header
    path = write_structures(tmp_path / "a.nxs", header, [(0, structure)])
    with h5py.File(tmp_path / "a.nxs") as file:  # as any other program
        assert len(file["entry/structure/atoms/row"]) == len(structure.positions)
    with open_archive(tmp_path / "a.nxs") as archive, archive.structure() as structures:
        assert len(structures) == 1
    assert verify(tmp_path / "a.nxs").differences == ()
    with h5py.File(path, "r+") as file:
        file["entry/atoms/row"][0] += 1.0
    found = verify(tmp_path / "a.nxs")
    assert found.differences
    assert any("atoms/row is not what was written" in line for line in found.differences)


def test_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="cannot be opened"):
        StructureFile(tmp_path / "none.nxs")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["entry"] = 1
    with pytest.raises(ArchiveError, match="holds no structures"):
        StructureFile(tmp_path / "other.h5")


def test_the_csv_has_a_line_an_atom(path: Path, structure: Structure, tmp_path: Path) -> None:
    with StructureFile(path) as structures:
        paths = write_csv(structures, tmp_path / "csv")
    assert [p.stem for p in paths] == [
        "frames", "atoms", "bonds", "rings", "grains", "boundaries", "boundary_lines",
    ]  # fmt: skip
    with paths[1].open(encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["frame", "row [px]", "column [px]", "height"]
    assert len(lines) == 1 + 2 * len(structure.positions)
    assert lines[1][0] == "3"
    assert float(lines[1][1]) == pytest.approx(structure.positions[0, 0])


def test_xyz_is_in_angstrom(path: Path, structure: Structure, tmp_path: Path) -> None:
    with StructureFile(path) as structures:
        write_xyz(structures, tmp_path / "a.xyz")
        write_extended_xyz(structures, tmp_path / "a.extxyz")
    for name in ("a.xyz", "a.extxyz"):
        lines = (tmp_path / name).read_text().splitlines()
        n = len(structure.positions)
        assert len(lines) == 2 * (n + 2)
        assert int(lines[0]) == n
        element, x, y, z = lines[2].split()[:4]
        assert (element, float(z)) == ("C", 0.0)
        row, column = structure.positions[0] * 0.3
        assert (float(x), float(y)) == pytest.approx((column, row), abs=1e-3)


def test_ase_reads_the_extended_xyz(path: Path, structure: Structure, tmp_path: Path) -> None:
    io = pytest.importorskip("ase.io")
    with StructureFile(path) as structures:
        write_extended_xyz(structures, tmp_path / "a.extxyz")
    atoms = io.read(tmp_path / "a.extxyz", index=0)
    assert len(atoms) == len(structure.positions)
    assert atoms.info["frame"] == 3
    assert atoms.get_array("height").shape == (len(atoms),)
