"""Structures of the frames of an archive, in a file beside it: NAME.structure.nxs.

    /entry                NXentry, default=structure
      structure           NXdata, one value a frame each: row in the archive, n_atoms, lattice ...
      atoms               frame_offset (F+1), row, column, height
      bonds               frame_offset, first, second, length, angle
      rings               frame_offset, size, row, column
      grains              frame_offset, orientation, area
      boundaries          frame_offset, first, second, misorientation, length
      images              link to the images of the archive
      process             NXprocess: version, source

Flat arrays with offsets: what belongs to entry i lies from frame_offset[i] to frame_offset[i + 1].
Positions are in pixels of the detector, the middle of the first pixel at (0, 0); bonds count atoms
of their own frame, boundaries its grains from 1. The archive itself is closed and verified, and
is not opened for writing again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import ArchiveError
from hrtem_stream.science.structure import Structure
from hrtem_stream.version import __version__

SUFFIX = ".structure.nxs"

PER_FRAME = {
    "frame": ("<i8", ""),
    "pixel_size": ("<f8", "nm"),
    "is_calibrated": ("<i1", ""),
    "lattice_parameter": ("<f8", "px"),
    "lattice_uncertainty": ("<f8", "px"),
    "contrast": ("<i1", ""),
    "n_atoms": ("<i8", ""),
    "n_defects": ("<i8", ""),
    "n_grains": ("<i8", ""),
    "boundary_length": ("<f8", "nm"),
    "largest_grain": ("<f8", "nm^2"),
}
TABLES = {
    "atoms": {"row": ("<f8", "px"), "column": ("<f8", "px"), "height": ("<f4", "")},
    "bonds": {
        "first": ("<u4", ""),
        "second": ("<u4", ""),
        "length": ("<f4", "nm"),
        "angle": ("<f4", "deg"),
    },
    "rings": {"size": ("|u1", ""), "row": ("<f8", "px"), "column": ("<f8", "px")},
    "grains": {"orientation": ("<f8", "deg"), "area": ("<f8", "nm^2")},
    "boundaries": {
        "first": ("<u4", ""),
        "second": ("<u4", ""),
        "misorientation": ("<f8", "deg"),
        "length": ("<f8", "nm"),
    },
}
_ROWS_PER_CHUNK = 4096


def structure_path(archive: Path) -> Path:
    """Return where the structures of an archive lie."""
    return archive.with_name(archive.name.removesuffix(".nxs") + SUFFIX)


def write_structures(
    archive: Path, structures: Iterable[tuple[int, Structure | str]], *, overwrite: bool = False
) -> Path:
    """Write the structures of frames, each with its row in the archive, as they come.

    A frame without a structure comes with the reason. The file appears when all are written.

    Raises
    ------
    ArchiveError
        If there is such a file already, or it cannot be written.
    """
    path = structure_path(archive)
    if path.exists() and not overwrite:
        raise ArchiveError(f"{path} exists; --overwrite replaces it")
    part = path.with_name(f"{path.name}.part")
    try:
        with h5py.File(part, "w", libver=("v108", "v110")) as file:
            entry = _lay_out(file, archive)
            for row, structure in structures:
                _append(entry, row, structure)
        part.replace(path)
    except (OSError, RuntimeError) as error:
        raise ArchiveError(f"{path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return path


class StructureFile:
    """Structures that `write_structures` wrote, open for reading; use it in a `with`."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises
        ------
        ArchiveError
            If there is none, or it is something else.
        """
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise ArchiveError(f"{path} cannot be opened: {error}") from error
        try:
            entry = self._file["entry"]
            self.frames: dict[str, NDArray[Any]] = {
                name: entry["structure"][name][:] for name in PER_FRAME
            }
            self.faults: list[str] = list(entry["structure/fault"].asstr()[:])
            self._offsets = {name: entry[name]["frame_offset"][:] for name in TABLES}
        except (KeyError, OSError, TypeError, ValueError) as error:
            self._file.close()
            raise ArchiveError(f"{path} holds no structures: {error}") from error

    def __enter__(self) -> StructureFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.faults)

    def table(self, name: str, i: int) -> dict[str, NDArray[Any]]:
        """Return the columns of a table for entry i: atoms, bonds, rings, grains, boundaries."""
        begin, end = (int(offset) for offset in self._offsets[name][i : i + 2])
        group = self._file["entry"][name]
        return {column: group[column][begin:end] for column in TABLES[name]}


def _lay_out(file: h5py.File, archive: Path) -> h5py.Group:
    file.attrs["NX_class"] = "NXroot"
    file.attrs["default"] = "entry"
    entry = _group(file, "entry", "NXentry")
    entry.attrs["default"] = "structure"
    process = _group(entry, "process", "NXprocess")
    process["program"], process["version"] = "hrtem_stream", __version__
    process["source"] = archive.name
    entry["images"] = h5py.ExternalLink(archive.name, "/entry/images")
    frames = _group(entry, "structure", "NXdata")
    frames.attrs["signal"] = "n_atoms"
    frames.attrs["axes"] = ["frame"]
    for name, (dtype, units) in PER_FRAME.items():
        _column(frames, name, dtype, units)
    frames.create_dataset(
        "fault", (0,), h5py.string_dtype("utf-8", 255), maxshape=(None,), chunks=(128,)
    )
    for name, columns in TABLES.items():
        group = _group(entry, name, "NXcollection")
        for column, (dtype, units) in columns.items():
            _column(group, column, dtype, units)
        _column(group, "frame_offset", "<u8", "")
        _extend(group["frame_offset"], np.zeros(1, np.uint64))
    return entry


def _append(entry: h5py.Group, row: int, structure: Structure | str) -> None:
    fault = structure if isinstance(structure, str) else ""
    values = _values(structure) if not isinstance(structure, str) else {}
    frames = entry["structure"]
    for name, (dtype, _) in PER_FRAME.items():
        missing = np.nan if np.dtype(dtype).kind == "f" else 0
        value = row if name == "frame" else values.get(name, missing)
        _extend(frames[name], np.array([value], dtype))
    coded = fault.encode()[:255].decode("utf-8", "ignore").encode()
    _extend(frames["fault"], np.array([coded], frames["fault"].dtype))
    tables = _tables(structure) if not isinstance(structure, str) else {}
    for name, columns in TABLES.items():
        group = entry[name]
        for column, (dtype, _) in columns.items():
            if name in tables:
                _extend(group[column], tables[name][column].astype(dtype))
        end = group[next(iter(columns))].shape[0]
        _extend(group["frame_offset"], np.array([end], np.uint64))


def _values(structure: Structure) -> dict[str, float]:
    return {
        "pixel_size": structure.pixel_size_nm,
        "is_calibrated": structure.is_calibrated,
        "lattice_parameter": structure.lattice.px,
        "lattice_uncertainty": structure.lattice.uncertainty_px,
        "contrast": structure.contrast,
        "n_atoms": len(structure.positions),
        "n_defects": len(structure.network.defects),
        "n_grains": len(structure.grains.area_nm2),
        "boundary_length": structure.boundary_length_nm,
        "largest_grain": structure.largest_grain_nm2,
    }


def _tables(structure: Structure) -> dict[str, dict[str, NDArray[Any]]]:
    network, grains = structure.network, structure.grains
    return {
        "atoms": {
            "row": structure.positions[:, 0],
            "column": structure.positions[:, 1],
            "height": structure.height,
        },
        "bonds": {
            "first": network.bonds[:, 0],
            "second": network.bonds[:, 1],
            "length": network.length_nm,
            "angle": network.angle_deg,
        },
        "rings": {
            "size": network.ring_size,
            "row": network.ring_centre[:, 0],
            "column": network.ring_centre[:, 1],
        },
        "grains": {"orientation": grains.orientation_deg, "area": grains.area_nm2},
        "boundaries": {
            "first": grains.pairs[:, 0],
            "second": grains.pairs[:, 1],
            "misorientation": grains.misorientation_deg,
            "length": grains.length_nm,
        },
    }


def _group(parent: Any, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _column(group: h5py.Group, name: str, dtype: str, units: str) -> None:
    dataset = group.create_dataset(
        name, (0,), dtype, maxshape=(None,), chunks=(_ROWS_PER_CHUNK,), compression="gzip",
        compression_opts=1, shuffle=True,
    )  # fmt: skip
    if units:
        dataset.attrs["units"] = units


def _extend(dataset: h5py.Dataset, values: NDArray[Any]) -> None:
    n = dataset.shape[0]
    dataset.resize(n + len(values), axis=0)
    dataset[n:] = values
