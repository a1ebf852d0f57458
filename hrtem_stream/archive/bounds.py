"""What an archive may ask of its reader: checked before anything is read or allocated.

An archive may come from anywhere. A few bytes of HDF5 can claim tables of terabytes, hold chunks
that inflate a thousandfold, or point to other files on the disk.

What HDF5 itself makes of a file that is broken on purpose is beyond this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.archive.encoding import checked_shape
from hrtem_stream.archive.layout import SCORES, ArchiveHeader
from hrtem_stream.errors import ArchiveError

MAX_IMAGE_CHUNK_BYTES: Final = 16 << 20
"""A chunk is a band of rows of at most 1 MiB; a single row has at most 128 KiB."""
MAX_CHUNK_BYTES: Final = 8 << 20
"""Of a table; the largest is a working image of 2048 x 2048."""
MAX_INFLATION: Final = 1100
"""Deflate makes at most 1032 bytes of one."""
SPARE_BYTES: Final = 1 << 26
"""A table may be so large whatever the size of the file: what is all zeros takes no space."""
MAX_TEXT_BYTES: Final = 4096

TABLES: Final = (
    "images/frame",
    "runs/frame_offset", "runs/start", "runs/length", "runs/value",
    "illumination/coefficients", "thumbnails/image", "vacuum/bits", "beam_off/bits",
    "set_aside/bytes", "set_aside/offset", "set_aside/row", "set_aside/shape",
    "set_aside/dtype", "set_aside/reason",
    "ledger/declared/first", "ledger/declared/n_frames", "ledger/declared/reason",
    "ledger/declared/ordinal",
)  # fmt: skip


def check_archive(
    file: h5py.File, header: ArchiveHeader, *, n_file_bytes: int, grows: bool = False
) -> None:
    """Refuse an archive whose tables lie elsewhere or are larger than the file can be.

    With `grows` a writer may append meanwhile, so that what is read later is longer.

    Raises
    ------
    ArchiveError
        With the dataset, the rule and the value.
    KeyError, ValueError
        A dataset is missing; the shape of the frames is impossible.
    """
    most = MAX_INFLATION * n_file_bytes + SPARE_BYTES
    _require(
        not isinstance(file.get("entry", getlink=True), h5py.ExternalLink),
        "entry",
        "lie in this file",
        "a link",
    )
    entry = file["entry"]
    # Older archives have fewer scores.
    scores = [f"scores/{field.name}" for field in SCORES if field.name in entry["scores"]]
    marks = [f"marks/{name}" for name in ("row", "star", "reject", "note") if "marks" in entry]
    for name in (*TABLES, *scores, *marks):
        table = _own_dataset(entry, name)
        _require(table.ndim >= 1 and table.dtype.kind in "biufS", name, "be a table", table.dtype)
        _require(table.dtype.itemsize <= MAX_TEXT_BYTES, name, "have short values", table.dtype)
        _require(_n_bytes(table) <= most, name, f"have at most {most} bytes", _n_bytes(table))
        if table.chunks is not None:
            n_bytes = int(np.prod(table.chunks, dtype=object)) * table.dtype.itemsize
            _require(n_bytes <= MAX_CHUNK_BYTES, name, "have smaller chunks", table.chunks)
    n = entry["images/frame"].shape[0]
    image = _own_dataset(entry, "images/image")
    _require(image.ndim == 3 and image.dtype.kind in "iuf", "images/image", "be images", image)
    checked_shape(image.shape[1:])
    _require(image.chunks is not None, "images/image", "be chunked", "none")
    width = image.shape[2]
    _require(image.chunks[2] == width, "images/image", "have whole rows as chunks", image.chunks)
    n_bytes = int(np.prod(image.chunks, dtype=object)) * image.dtype.itemsize
    _require(
        image.chunks[0] == 1 and n_bytes <= MAX_IMAGE_CHUNK_BYTES,
        "images/image", "have chunks of a frame's rows", image.chunks,
    )  # fmt: skip
    for name, dtype in (("start", "<u4"), ("length", "<u4"), ("value", image.dtype)):
        found = entry[f"runs/{name}"].dtype
        _require(found == np.dtype(dtype), f"runs/{name}", f"be of {dtype}", found)
    is_whole = image.shape[0] >= n if grows else image.shape[0] == n
    _require(is_whole, "images/image", f"have {n} frames", image.shape[0])
    P, Q = header.working_shape
    found = entry["thumbnails/image"].shape[1:]
    _require(found == (P, Q), "thumbnails/image", f"be of {P} x {Q}", found)
    for name in ("vacuum/bits", "beam_off/bits"):
        found = entry[name].shape[1:]
        _require(found == (-(-P * Q // 8),), name, f"have a bit for each of {P} x {Q}", found)


def read_rows(table: h5py.Dataset, rows: slice | int) -> Any:
    """Read rows of a table whose chunks are not larger in the file than they may be.

    Raises
    ------
    ArchiveError
        A chunk would inflate beyond all measure.
    """
    if table.chunks is not None:
        most = 2 * int(np.prod(table.chunks)) * table.dtype.itemsize + 1024
        for size in _stored_sizes(table, rows):
            _require(size <= most, str(table.name), f"have chunks of at most {most} bytes", size)
    values: NDArray[Any] = table[rows]
    return values


def stored_size(image: h5py.Dataset, corner: tuple[int, ...]) -> int | None:
    """Give the size of a chunk of the images in the file, None if it is not there.

    Raises
    ------
    ArchiveError
        It is larger than such a chunk can be.
    """
    found = image.id.get_chunk_info_by_coord(corner)
    if found.byte_offset is None:
        return None
    most = 2 * int(np.prod(image.chunks)) * image.dtype.itemsize + 1024
    _require(found.size <= most, "images/image", f"have chunks of at most {most} bytes", found.size)
    return int(found.size)


def _own_dataset(entry: h5py.Group, name: str) -> h5py.Dataset:
    """Give a dataset that lies in this very file."""
    group: Any = entry
    for part in name.split("/"):
        link = group.get(part, getlink=True)
        _require(not isinstance(link, h5py.ExternalLink), name, "lie in this file", "a link")
        group = group[part]
    _require(isinstance(group, h5py.Dataset), name, "be a dataset", type(group).__name__)
    plist = group.id.get_create_plist()
    is_elsewhere = group.is_virtual or plist.get_external_count() > 0
    _require(not is_elsewhere, name, "lie in this file", "other places")
    return group


def _stored_sizes(table: h5py.Dataset, rows: slice | int) -> Iterator[int]:
    n, per_chunk = table.shape[0], table.chunks[0]
    first, last, _ = (rows if isinstance(rows, slice) else slice(rows, rows + 1)).indices(n)
    rest = (0,) * (table.ndim - 1)
    for begin in range(first // per_chunk * per_chunk, last, per_chunk):
        yield table.id.get_chunk_info_by_coord((begin, *rest)).size


def _n_bytes(table: h5py.Dataset) -> int:
    return int(np.prod(table.shape, dtype=object)) * int(table.dtype.itemsize)


def _require(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise ArchiveError(f"{name} must {rule}, got {value}")
