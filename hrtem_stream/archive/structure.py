"""Structures of the frames of an archive, in a file beside it: NAME.structure.nxs.

    /entry                NXentry, default=structure
      structure           NXdata, one value a frame each: row in the archive, n_atoms, lattice ...
      atoms               frame_offset (F+1), row, column, height
      bonds               frame_offset, first, second, length, angle
      rings               frame_offset, size, row, column
      grains              frame_offset, orientation, area
      boundaries          frame_offset, first, second, misorientation, length
      boundary_lines      frame_offset, boundary, row, column: points along the boundaries
      images              link to the images of the archive
      process             NXprocess: version, source, series_id, first_row, digests

Flat arrays with offsets: what belongs to entry i lies from frame_offset[i] to frame_offset[i + 1].
Positions are in pixels of the detector, the middle of the first pixel at (0, 0); bonds count atoms
of their own frame, boundaries its grains from 1, boundary_lines its boundaries from 0. The archive
itself is closed and verified, and is not opened for writing again: it has links to these tables
under /entry/structure, see `add_links`. While structures are added the file is NAME.structure.live.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.archive.bounds import read_rows
from hrtem_stream.archive.column import digest_of
from hrtem_stream.archive.journal import JournalledFile, has_begun
from hrtem_stream.archive.layout import ArchiveHeader
from hrtem_stream.errors import ArchiveError

ENDING, LIVE_ENDING = ".structure.nxs", ".structure.live"

PER_FRAME = {
    "frame": ("<i8", ""),
    "pixel_size": ("<f8", "nm"),
    "is_calibrated": ("|i1", ""),
    "lattice_parameter": ("<f8", "px"),
    "lattice_uncertainty": ("<f8", "px"),
    "contrast": ("|i1", ""),
    "n_atoms": ("<i8", ""),
    "n_defects": ("<i8", ""),
    "n_grains": ("<i8", ""),
    "boundary_length": ("<f8", "nm"),
    "largest_grain": ("<f8", "nm^2"),
    "map_rows": ("<i8", ""),
    "map_columns": ("<i8", ""),
    "map_pixel_size": ("<f8", "nm"),
}
FAULT, MAPS = "fault", "maps"
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
    "boundary_lines": {"boundary": ("<u4", ""), "row": ("<f4", "px"), "column": ("<f4", "px")},
    MAPS: {"class": ("|u1", ""), "orientation": ("<f4", "deg")},
}
LINKED = {"frames": "structure"} | {name: name for name in TABLES}
"""What the archive links to, by the names of its links."""

N_ATTEMPTS, ATTEMPT_WAIT_S = 20, 0.01
MOST_IN_A_FRAME = 50_000_000
"""Entries of one table that one frame may have: no detector has more pixels."""
FAILURES = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, ArchiveError)


def structure_path(archive: Path) -> Path:
    """Return where the structures of an archive lie, finished or still a `.part`."""
    return _beside(archive, ENDING)


def live_path(archive: Path) -> Path:
    """Return where they lie while more are added."""
    return _beside(archive, LIVE_ENDING)


def find_structures(archive: Path) -> Path | None:
    """Return the file of the structures of an archive, None if there is none yet."""
    finished, live = structure_path(archive), live_path(archive)
    if finished.exists():
        return finished
    if has_begun(live):
        return live
    return finished if finished.exists() else None  # given its name in between


def structures_of(archive: Path, header: ArchiveHeader) -> StructureFile:
    """Open the structures of an archive.

    Raises
    ------
    ArchiveError
        There are none, or they are of another series.
    """
    path = find_structures(archive)
    if path is None:
        raise ArchiveError(
            f"{structure_path(archive)} is missing; run: hrtem-stream analyse {archive}"
        )
    found = StructureFile(path)
    if found.series_id not in ("", header.start.series_id):
        found.close()
        raise ArchiveError(f"{path} is of another series than {archive}")
    return found


def is_structure_file(path: Path) -> bool:
    """Tell by its name whether a file holds structures."""
    return path.name.endswith((ENDING, LIVE_ENDING))


def add_links(entry: h5py.Group, archive: Path) -> None:
    """Let an archive point to the tables of its structures, which may come later.

    Until they do the links point nowhere, which HDF5 allows.
    """
    group = entry.create_group("structure")
    group.attrs["NX_class"] = "NXcollection"
    group.attrs["note"] = "links to NAME.structure.nxs, which hrtem-stream analyse writes"
    for name, target in LINKED.items():
        group[name] = h5py.ExternalLink(structure_path(archive).name, f"/entry/{target}")


class StructureFile:
    """Structures that were written beside an archive, open for reading; use it in a `with`.

    Entries are in the order of their rows in the archive, whatever their order in the file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises
        ------
        ArchiveError
            If there is none, or it is something else.
        """
        for _ in range(N_ATTEMPTS if path.name.endswith(LIVE_ENDING) else 1):
            try:
                self._open(path)
                return
            except ArchiveError as error:
                failure = error  # a live one may be amid a commit
            time.sleep(ATTEMPT_WAIT_S)
        raise failure

    def _open(self, path: Path) -> None:
        try:
            source: Any = path
            if path.name.endswith(LIVE_ENDING):
                source = JournalledFile.for_reading(path)
            self._file = h5py.File(source, "r")
        except FAILURES as error:
            raise ArchiveError(f"{path} cannot be opened: {error}") from error
        try:
            self._read_frames(self._file["entry"])
        except FAILURES as error:
            self._file.close()
            raise ArchiveError(f"{path} holds no structures: {error}") from error

    def _read_frames(self, entry: h5py.Group) -> None:
        attributes = entry["process"].attrs
        self.series_id = str(attributes.get("series_id", ""))
        """Of the archive, empty where an older file does not say."""
        self.first_row = int(attributes.get("first_row", 0))
        """Row in the series of the archive's first frame."""
        self._tables = [name for name in TABLES if name in entry]  # older files lack the lines
        columns = _per_frame(entry["structure"])
        faults = [text.decode() for text in read_rows(entry["structure"][FAULT], slice(None))]
        offsets = {
            name: read_rows(entry[name]["frame_offset"], slice(None)).astype(np.int64)
            for name in self._tables
        }
        n = min(len(faults), *map(len, columns.values()), *(len(o) - 1 for o in offsets.values()))
        for name, offset in offsets.items():
            if (np.diff(offset) < 0).any() or np.diff(offset).max(initial=0) > MOST_IN_A_FRAME:
                raise ArchiveError(f"{name}/frame_offset does not part the table among frames")
        self._order = np.argsort(columns["frame"][:n], kind="stable")
        self._offsets = offsets
        self.frames: dict[str, NDArray[Any]] = {
            name: values[:n][self._order] for name, values in columns.items()
        }
        """One value a frame each, by name."""
        self.faults: list[str] = [faults[k] for k in self._order]
        """Why a frame has no structure, empty where it has."""

    def __enter__(self) -> StructureFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __len__(self) -> int:
        return len(self.faults)

    def entry_of(self, row: int) -> int | None:
        """Return the entry of a row of the archive, None if it has none."""
        found = np.flatnonzero(self.frames["frame"] == row)
        return int(found[-1]) if found.size else None

    def table(self, name: str, i: int) -> dict[str, NDArray[Any]]:
        """Return the columns of one of `TABLES` for entry i.

        Raises
        ------
        ArchiveError
            If they are damaged.
        """
        if name not in self._tables:
            return {column: np.zeros(0, dtype) for column, (dtype, _) in TABLES[name].items()}
        begin, end = (int(offset) for offset in self._offsets[name][self._order[i] :][:2])
        group = self._file["entry"][name]
        try:
            found = {column: read_rows(group[column], slice(begin, end)) for column in TABLES[name]}
        except FAILURES as error:
            raise ArchiveError(f"{self._file.filename}: {name}: {error}") from error
        if {len(values) for values in found.values()} - {end - begin}:
            raise ArchiveError(f"{self._file.filename}: {name} is cut short")
        return found

    def maps(self, i: int) -> dict[str, NDArray[Any]]:
        """Return the maps of entry i: what each pixel shows, and how the lattice lies there.

        Returns
        -------
        class
            (P, Q) uint8: 0 graphene, 1 grain boundary, 2 vacuum, 3 amorphous.
        orientation
            (P, Q) float32 in degrees, 0 to 60; NaN where there is no lattice.

        Raises
        ------
        ArchiveError
            If they are damaged.

        Notes
        -----
        Map pixels are `frames["map_pixel_size"][i]` nm wide, those of the detector
        `frames["pixel_size"][i]`, and both begin at the same corner. An entry without structure,
        or of an older version, has maps of (0, 0).
        """
        found = self.table(MAPS, i)
        shape = (int(self.frames["map_rows"][i]), int(self.frames["map_columns"][i]))
        if any(values.size != shape[0] * shape[1] for values in found.values()):
            raise ArchiveError(f"{self._file.filename}: {MAPS} do not fill {shape}")
        return {name: values.reshape(shape) for name, values in found.items()}

    def differences(self) -> list[str]:
        """Name the tables that are not what was written, by their digests."""
        entry = self._file["entry"]
        written = json.loads(entry["process"].attrs.get("digests", "{}"))
        differences = []
        for name, digest in written.items():
            try:
                found = digest_of(entry[name])
            except FAILURES as error:
                differences.append(f"{name} cannot be read: {error}")
                continue
            if found != digest:
                differences.append(f"{name} is not what was written")
        return differences


def _per_frame(group: h5py.Group) -> dict[str, NDArray[Any]]:
    """Read the values of each frame; those that an older file lacks are 0 or NaN."""
    known = [name for name in PER_FRAME if name in group]
    columns = {name: read_rows(group[name], slice(None)) for name in known}
    n = min(map(len, columns.values()))
    for name, (dtype, _) in PER_FRAME.items():
        missing = np.nan if np.dtype(dtype).kind == "f" else 0
        columns.setdefault(name, np.full(n, missing, dtype))
    return columns


def _beside(archive: Path, ending: str) -> Path:
    stem = archive.name.removesuffix(".part").removesuffix(".nxs")
    return archive.with_name(stem + ending)
