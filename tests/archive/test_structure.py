"""Structures beside an archive, and what they are exported to."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest

from hrtem_stream.archive.structure import (
    StructureFile,
    structure_path,
    write_structures,
)
from hrtem_stream.archive.structure_export import write_csv, write_extended_xyz, write_xyz
from hrtem_stream.errors import ArchiveError
from hrtem_stream.science.structure import Structure, analyse_frame
from tests.science.test_lattice_scale import counted, honeycomb


@pytest.fixture(scope="module")
def structure() -> Structure:
    frame = counted(honeycomb((200, 240), pixel_size_nm=0.03, outer=0.6), dose=2000.0)
    none = np.zeros(frame.shape, np.bool_)
    return analyse_frame(frame, amorphous=none, vacuum=none, pixel_size_nm=0.03)


@pytest.fixture
def path(tmp_path: Path, structure: Structure) -> Path:
    rows = [(3, structure), (5, "no lattice – nirgends"), (7, structure)]
    return write_structures(tmp_path / "a.nxs", rows)


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


def test_the_file_is_nexus_and_links_to_the_images(path: Path) -> None:
    with h5py.File(path) as file:
        assert file["entry"].attrs["NX_class"] == "NXentry"
        assert file["entry/structure"].attrs["signal"] == "n_atoms"
        assert file["entry"].get("images", getlink=True).path == "/entry/images"


def test_a_file_is_replaced_only_when_asked(path: Path, structure: Structure) -> None:
    archive = path.with_name("a.nxs")
    assert structure_path(archive) == path
    with pytest.raises(ArchiveError, match="exists; --overwrite"):
        write_structures(archive, [])
    write_structures(archive, [(0, structure)], overwrite=True)
    with StructureFile(path) as structures:
        assert len(structures) == 1


def test_an_analysis_that_fails_leaves_the_former_file(path: Path, structure: Structure) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield 0, structure
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        write_structures(path.with_name("a.nxs"), broken(), overwrite=True)
    with StructureFile(path) as structures:
        assert len(structures) == 3
    assert [p.name for p in path.parent.iterdir()] == [path.name]


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
    assert [p.stem for p in paths] == ["frames", "atoms", "bonds", "rings", "grains", "boundaries"]
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
