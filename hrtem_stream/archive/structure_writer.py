"""Writes the structures of an archive's frames, so that nobody's death harms what is there.

While structures are added the file is NAME.structure.live, journalled as an archive is: whenever
the writer dies, the file is what was committed last, and the next writer goes on with it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.archive.column import Column
from hrtem_stream.archive.journal import (
    JournalledFile,
    journal_path,
    remove_stillborn,
    remove_unfinished,
)
from hrtem_stream.archive.layout import LIBVER, TEXT_BYTES, ArchiveHeader, column, texts_of
from hrtem_stream.archive.structure import (
    FAILURES,
    FAULT,
    MAPS,
    PER_FRAME,
    TABLES,
    StructureFile,
    live_path,
    structure_path,
)
from hrtem_stream.errors import ArchiveError
from hrtem_stream.science.structure import Structure
from hrtem_stream.version import __version__

COMMIT_EVERY = 8
"""Frames; what is lost when the writer is killed is found again by analysing them again."""
_ROWS_PER_CHUNK, _PIXELS_PER_CHUNK, _TEXTS_PER_CHUNK = 4096, 65_536, 64
_STEPS_PER_DEGREE = 64
"""To which orientations are rounded in the maps: far below their error, and they compress."""
_OFFSET = "frame_offset"


class StructureWriter:
    """Adds structures to those of an archive; made by `begin`, used in a `with`.

    Leaving the `with` without an error gives the file its name; with one, what was committed
    stays in the live file, for the next writer.
    """

    def __init__(self, archive: Path, journalled: JournalledFile, file: h5py.File) -> None:
        self._archive, self._journalled, self._file = archive, journalled, file
        entry = file["entry"]
        self._digests: dict[str, xxhash.xxh3_64] = {}
        names = [f"structure/{name}" for name in (*PER_FRAME, FAULT)]
        names += [f"{name}/{part}" for name in TABLES for part in (*TABLES[name], _OFFSET)]
        self._columns = {name: self._column(entry, name) for name in names}
        self._require_whole_entries()
        self.rows: set[int] = set(entry["structure/frame"][:].tolist())
        """Rows of the archive that have an entry."""

    @classmethod
    def begin(
        cls, archive: Path, header: ArchiveHeader, *, overwrite: bool = False
    ) -> StructureWriter:
        """Go on with the structures of an archive, or begin them.

        Parameters
        ----------
        archive
            The archive, finished or still a `.part`.
        header
            Its header.
        overwrite
            Whether to begin anew; what is there is replaced at the end.

        Raises
        ------
        ArchiveError
            The structures that are there are of another series, or are damaged; another process
            writes them; the disk is full.
        """
        finished, live = structure_path(archive), live_path(archive)
        try:
            if not overwrite and finished.exists():
                _require_same_series(finished, header)
                remove_unfinished(live)
                finished.replace(live)
            if not overwrite and not remove_stillborn(live) and live.exists():
                _require_same_series(live, header)
                journalled = JournalledFile.reopen(live)
                return cls(archive, journalled, h5py.File(journalled, "r+", libver=LIBVER))
            journalled = JournalledFile.create(live)
            file = h5py.File(journalled, "w", libver=LIBVER)
            _lay_out(file, archive, header)
            writer = cls(archive, journalled, file)
            for name in TABLES:
                writer._columns[f"{name}/{_OFFSET}"].extend(np.zeros(1, np.uint64))
            writer.commit()
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise ArchiveError(f"{live} cannot be written: {error}") from error
        return writer

    def append(self, row: int, structure: Structure | str) -> None:
        """Add the structure of a row of the archive, or the reason why it has none.

        Raises
        ------
        ArchiveError
            The disk is full.
        """
        tables = {} if isinstance(structure, str) else _tables(structure)
        with self._writing():
            for name, values in _values(row, structure).items():
                self._columns[f"structure/{name}"].extend(values)
            for name, parts in TABLES.items():
                for part, (dtype, _) in parts.items():
                    if name in tables:
                        values = tables[name][part].astype(dtype)
                        self._columns[f"{name}/{part}"].extend(values)
                end = self._columns[f"{name}/{next(iter(parts))}"].n
                self._columns[f"{name}/{_OFFSET}"].extend(np.array([end], np.uint64))
            self.rows.add(row)
            if len(self.rows) % COMMIT_EVERY == 0:
                self.commit()

    def commit(self) -> None:
        """Make all that was added part of the file.

        Raises
        ------
        ArchiveError
            The disk is full.
        """
        with self._writing():
            for one in self._columns.values():
                one.flush()
            self._file.flush()
            self._journalled.commit()

    def close(self) -> Path:
        """Give the file its name.

        Raises
        ------
        ArchiveError
            The disk is full; what was committed stays in the live file.
        """
        path, live = structure_path(self._archive), live_path(self._archive)
        with self._writing():
            self.commit()
            digests = {name: digest.intdigest() for name, digest in self._digests.items()}
            self._file["entry/process"].attrs["digests"] = json.dumps(digests)
            self._file.close()
            self._journalled.commit()
            self._journalled.close()
            live.replace(path)
            journal_path(live).unlink(missing_ok=True)
        return path

    def abandon(self) -> None:
        """Let go of the live file as it was committed last."""
        self._journalled.discard()
        with contextlib.suppress(*FAILURES):
            self._file.close()
        with contextlib.suppress(OSError):  # closed already
            self._journalled.close()

    def __enter__(self) -> StructureWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def _column(self, entry: h5py.Group, name: str) -> Column:
        self._digests[name] = xxhash.xxh3_64()
        return Column(entry[name], digest=self._digests[name])

    def _require_whole_entries(self) -> None:
        """Refuse a file that is no commit of ours."""
        columns = self._columns.items()
        sizes = {one.n for name, one in columns if name.startswith("structure/")}
        offsets = {one.n for name, one in columns if name.endswith(_OFFSET)}
        if len(sizes) > 1 or (sizes != {0} and offsets != {n + 1 for n in sizes}):
            raise ArchiveError(f"{live_path(self._archive)} is damaged; --overwrite begins anew")

    @contextlib.contextmanager
    def _writing(self) -> Any:
        try:
            yield
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise ArchiveError(f"{live_path(self._archive)} cannot be written: {error}") from error


def write_structures(
    archive: Path,
    header: ArchiveHeader,
    structures: Iterable[tuple[int, Structure | str]],
    *,
    overwrite: bool = False,
) -> Path:
    """Add the structures of frames, each with its row in the archive, as they come.

    A frame without a structure comes with the reason.

    Raises
    ------
    ArchiveError
        As `StructureWriter.begin` and `append`.
    """
    with StructureWriter.begin(archive, header, overwrite=overwrite) as writer:
        for row, structure in structures:
            writer.append(row, structure)
    return structure_path(archive)


def _require_same_series(path: Path, header: ArchiveHeader) -> None:
    with StructureFile(path) as known:
        wanted = header.start.series_id
        if known.series_id != wanted or known.first_row != header.first_row:
            raise ArchiveError(f"{path} is of another series; --overwrite replaces it")
        if len(known._tables) < len(TABLES):
            raise ArchiveError(f"{path} is of an older version; --overwrite replaces it")


def _lay_out(file: h5py.File, archive: Path, header: ArchiveHeader) -> None:
    file.attrs["NX_class"] = "NXroot"
    file.attrs["default"] = "entry"
    entry = _group(file, "entry", "NXentry")
    entry.attrs["default"] = "structure"
    name = archive.name.removesuffix(".part")
    process = _group(entry, "process", "NXprocess")
    process["program"], process["version"] = "hrtem_stream", __version__
    process["source"] = name
    process.attrs["series_id"] = header.start.series_id
    process.attrs["first_row"] = header.first_row
    entry["images"] = h5py.ExternalLink(name, "/entry/images")
    frames = _group(entry, "structure", "NXdata")
    frames.attrs["signal"] = "n_atoms"
    frames.attrs["axes"] = ["frame"]
    for part, (dtype, units) in PER_FRAME.items():
        _lay_out_column(frames, part, dtype, units)
    column(frames, FAULT, f"text:{TEXT_BYTES}", rows=_TEXTS_PER_CHUNK)
    for table, parts in TABLES.items():
        group = _group(entry, table, "NXcollection")
        rows = _PIXELS_PER_CHUNK if table == MAPS else _ROWS_PER_CHUNK
        for part, (dtype, units) in parts.items():
            _lay_out_column(group, part, dtype, units, rows=rows)
        _lay_out_column(group, _OFFSET, "<u8", "")


def _lay_out_column(
    group: h5py.Group, name: str, dtype: str, units: str, *, rows: int = _ROWS_PER_CHUNK
) -> None:
    dataset = column(group, name, dtype, rows=rows)
    if units:
        dataset.attrs["units"] = units


def _group(parent: Any, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _values(row: int, structure: Structure | str) -> dict[str, NDArray[Any]]:
    """Return the values of one frame, (1,) each; NaN or 0 where it has no structure."""
    known: dict[str, float] = {"frame": row}
    fault = structure
    if not isinstance(structure, str):
        fault = ""
        known |= {
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
            "map_rows": structure.classes.shape[0],
            "map_columns": structure.classes.shape[1],
            "map_pixel_size": structure.map_pixel_nm,
        }
    values = {}
    for name, (dtype, _) in PER_FRAME.items():
        missing = np.nan if np.dtype(dtype).kind == "f" else 0
        values[name] = np.array([known.get(name, missing)], dtype)
    return values | {FAULT: texts_of([str(fault)], TEXT_BYTES)}


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
        "boundary_lines": {
            "boundary": grains.line_pair,
            "row": structure.boundary_line[:, 0],
            "column": structure.boundary_line[:, 1],
        },
        MAPS: {"class": structure.classes.ravel(), "orientation": _rounded(structure).ravel()},
    }


def _rounded(structure: Structure) -> NDArray[np.float32]:
    """Return the map of orientations, NaN where there is no lattice."""
    rounded = np.round(structure.orientation_deg * _STEPS_PER_DEGREE) / _STEPS_PER_DEGREE
    return np.where(structure.has_lattice, rounded, np.nan).astype(np.float32)
