"""NumPy's .npy and .npz, and MRC."""

from __future__ import annotations

import tokenize
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np

from hrtem_stream.errors import FeedError, FrameError
from hrtem_stream.sources.calibration import Stated, square_pixel, stated
from hrtem_stream.sources.stack import (
    FramePixels,
    FrameStack,
    Read,
    damaged,
    indexed_names,
    raw_stack,
    read_into,
    stack_shape,
    supported,
)

_DAYS_1970: Final = 25_569
"""1970 in days since 1899-12-30, as FEI counts."""
_MEMBER: Final = "images.npy"
_MAX_NPY_HEADER: Final = 10_000
_HEADER_ERRORS: Final = (EOFError, SyntaxError, TypeError, ValueError, tokenize.TokenError)


class _Layout(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


def npy_stack(path: Path) -> FrameStack:
    """Describe an array of one frame (M, N) or of several (n, M, N).

    Raises
    ------
    FeedError
        When the array has another shape, or holds objects.
    FrameError
        When the file is no .npy.
    """
    with path.open("rb") as file:
        layout = _npy_layout(file, path=path)
    return raw_stack(path, offset=layout.offset, shape=layout.shape, dtype=layout.dtype)


def npz_stack(path: Path) -> FrameStack:
    """Describe the array `images` of an .npz, compressed or not; it is read frame by frame.

    Raises
    ------
    FeedError
        When there is no such array, or it has not the shape of frames.
    FrameError
        When the file is no .npz.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if _MEMBER not in archive.namelist():
                names = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:8])
                raise FeedError(f"{path}: must have an array 'images', has {names or 'none'}")
            n_bytes = archive.getinfo(_MEMBER).file_size
            with archive.open(_MEMBER) as member:
                layout = _npy_layout(member, path=path)
    except zipfile.BadZipFile as error:
        raise FrameError(f"cannot read {path.name}: {error}") from error
    n_claimed, (M, N) = stack_shape(layout.shape, path=path)
    n_frames = min(n_claimed, (n_bytes - layout.offset) // (M * N * layout.dtype.itemsize))

    @contextmanager
    def reader() -> Iterator[Read]:
        with zipfile.ZipFile(path) as archive, archive.open(_MEMBER) as member:
            yield lambda index: _read_member(member, index, layout=layout, path=path)

    return FrameStack(
        path=path,
        n_frames=n_frames,
        n_missing=n_claimed - n_frames,
        reader=reader,
        name=indexed_names(path.stem, shape=layout.shape),
    )


def mrc_stack(path: Path) -> FrameStack:
    """Describe an MRC image or stack; rows are kept in the order of the file.

    Raises
    ------
    FeedError
        When its frames are not 2-D, or of a mode that holds no counts.
    FrameError
        When the file is no MRC.
    """
    mrc = _mrc_header(path)
    n, M, N = mrc.shape
    return _mrc_frames(path, mrc, shape=(M, N) if n == 1 else (n, M, N))


def growing_mrc_stack(path: Path) -> FrameStack:
    """Describe the complete frames of an MRC stack that is still being written.

    Its header may say how many there will be, how many there were, or nothing.

    Raises
    ------
    FeedError, FrameError
        As `mrc_stack`.
    """
    mrc = _mrc_header(path)
    _, M, N = mrc.shape
    n_frame_bytes = max(1, M * N * mrc.dtype.itemsize)
    n_complete = max(0, path.stat().st_size - mrc.offset) // n_frame_bytes
    return _mrc_frames(path, mrc, shape=(n_complete, M, N))


class _Mrc(NamedTuple):
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    said: Stated
    times_ns: list[int]


def _mrc_header(path: Path) -> _Mrc:
    import mrcfile

    try:
        with warnings.catch_warnings(action="ignore"):
            mrc = mrcfile.open(path, header_only=True, permissive=True)
        with mrc, np.errstate(all="ignore"):
            header = mrc.header
            if not bytes(header.map).startswith(b"MAP"):
                raise FrameError(f"cannot read {path.name}: it is no MRC")
            dtype = mrcfile.utils.data_dtype_from_header(header)
            n, M, N = (int(header[axis]) for axis in ("nz", "ny", "nx"))
            offset = 1024 + int(header.nsymbt)
            voxel_nm = [float(mrc.voxel_size[axis]) / 10 for axis in ("x", "y")]
            is_fei = bytes(header.exttyp) in (b"FEI1", b"FEI2")
            sections = mrc.indexed_extended_header if is_fei else None
            said, times_ns = _mrc_calibration(voxel_nm, sections)
    except (ValueError, KeyError) as error:
        raise FrameError(f"cannot read {path.name}: {error}") from error
    if dtype.kind not in "iuf":
        raise FeedError(f"{path}: MRC mode must be 0, 1, 2, 6 or 12, got {header.mode}")
    return _Mrc((n, M, N), dtype, offset, said, times_ns)


def _mrc_frames(path: Path, mrc: _Mrc, *, shape: tuple[int, ...]) -> FrameStack:
    return raw_stack(
        path,
        offset=mrc.offset,
        shape=shape,
        dtype=mrc.dtype,
        calibration=mrc.said.calibration,
        notes=mrc.said.notes,
        acquired_ns=lambda index: mrc.times_ns[index] if index < len(mrc.times_ns) else 0,
    )


def _npy_layout(file: IO[bytes], *, path: Path) -> _Layout:
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise FrameError(f"cannot read {path.name}: unknown .npy version {version}")
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        with warnings.catch_warnings(action="ignore"):
            shape, is_fortran, dtype = read(file, max_header_size=_MAX_NPY_HEADER)
    except _HEADER_ERRORS as error:
        raise FrameError(f"cannot read {path.name}: {error}") from error
    if dtype.hasobject or dtype.kind not in "biuf":
        raise FeedError(f"{path}: must hold integers or floats, holds {dtype}")
    if is_fortran and len(shape) > 1:
        raise FeedError(f"{path}: is in Fortran order; save numpy.ascontiguousarray of it")
    return _Layout(shape, dtype, file.tell())


def _read_member(member: IO[bytes], index: int, *, layout: _Layout, path: Path) -> FramePixels:
    """Read one frame out of a zip, which is cheap in order and dear out of it."""
    n_frame_bytes = layout.dtype.itemsize * layout.shape[-2] * layout.shape[-1]
    received = np.empty(n_frame_bytes, np.uint8)
    member.seek(layout.offset + index * n_frame_bytes)
    n_read = read_into(member, received)
    if n_read < n_frame_bytes:
        fault = f"{path.name} is truncated: {n_read} of {n_frame_bytes} bytes"
        return damaged(received[:n_read].tobytes(), fault=fault)
    return supported(received.view(layout.dtype).reshape(layout.shape[-2:]))


def _mrc_calibration(voxel_nm: list[float], sections: Any) -> tuple[Stated, list[int]]:
    """Return the calibration, and the time of each section in ns since 1970 where it is known.

    0 and exactly 1 Å are what writers put when they do not know the pixel size. FEI's extended
    header has one record a section, with lengths in m, dose in electrons per m², and days since
    1899-12-30 as time, which is local time and taken for UTC.
    """
    horizontal, vertical = voxel_nm
    is_stated = horizontal > 0 and abs(horizontal - 0.1) > 1e-9
    size, note = square_pixel(horizontal, vertical, unit="nm") if is_stated else (None, "")
    notes = [note] if note else []
    if sections is None or sections.dtype.names is None or len(sections) == 0:
        return stated(pixel_size_nm=size, notes=notes), []
    first = sections[0]
    fei_size, fei_note = square_pixel(
        float(first["Pixel size X"]), float(first["Pixel size Y"]), unit="m"
    )
    if fei_note:
        notes.append(fei_note)
    days = np.asarray(sections["Timestamp"], np.float64)
    is_date = np.isfinite(days) & (days > _DAYS_1970) & (days < 2 * _DAYS_1970)
    if np.any(is_date):
        notes.append("times of acquisition are without a zone and taken for UTC")
    times_ns = np.where(is_date, (days - _DAYS_1970) * 86_400e9, 0)
    said = stated(
        pixel_size_nm=fei_size or size,
        exposure_s=float(first["Integration time"]),
        dose_e_per_nm2=float(first["Dose"]) * 1e-18,
        voltage_kv=float(first["HT"]) / 1000,
        notes=notes,
    )
    return said, [int(time_ns) for time_ns in times_ns]
