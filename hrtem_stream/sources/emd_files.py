"""EMD: the Velox program's and NCEM's, both HDF5 with a layout of their own.

Velox keeps each image stack as (M, N, n), the frame last, with one JSON document a frame. NCEM
keeps an array with one vector a dimension. Formats: emdatasets.com; the Velox layout is as found
in its files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from hrtem_stream.errors import FeedError, FrameError
from hrtem_stream.sources.calibration import Stated, square_pixel, stated
from hrtem_stream.sources.stack import (
    FramePixels,
    FrameStack,
    Read,
    indexed_names,
    stack_shape,
    supported,
)

if TYPE_CHECKING:
    import h5py

_VELOX: Final = "Data/Image"
_MAX_JSON_BYTES: Final = 1 << 20
_NCEM_TYPE: Final = "emd_group_type"


class _Axis(NamedTuple):
    name: str
    unit: str
    step: float


def emd_stack(path: Path, file: h5py.File) -> FrameStack | None:
    """Describe the frames of an EMD file; None where it is neither Velox's nor NCEM's.

    Where a file holds several images, the one with most pixels is taken.

    Raises
    ------
    FeedError
        When it holds no frames.
    """
    import h5py

    if isinstance(file.get(_VELOX), h5py.Group):
        return _velox_stack(path, file[_VELOX])
    groups: list[h5py.Group] = []

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Group) and item.attrs.get(_NCEM_TYPE) == 1 and "data" in item:
            groups.append(item)

    file.visititems(collect)
    images = [group for group in groups if group["data"].ndim in (2, 3)]
    if not groups:
        return None
    if not images:
        raise FeedError(f"{path}: has no EMD group of 2-D frames or of a stack of them")
    return _ncem_stack(path, max(images, key=lambda group: group["data"].size))


def _velox_stack(path: Path, images: h5py.Group) -> FrameStack:
    import h5py

    found = [
        image["Data"]
        for image in images.values()
        if isinstance(image, h5py.Group) and isinstance(image.get("Data"), h5py.Dataset)
    ]
    found = [frames for frames in found if frames.ndim == 3 and frames.dtype.kind in "iuf"]
    if not found:
        raise FeedError(f"{path}: has no image in {_VELOX}")
    frames = max(found, key=lambda item: item.size)
    M, N, n = frames.shape
    stack_shape((n, M, N), path=path)
    told = [_velox_metadata(frames.parent, index) for index in range(min(n, 1))]
    calibration = _velox_calibration(told[0] if told else {})
    times = _VeloxTimes(frames.parent, n_frames=n)
    return FrameStack(
        path=path,
        n_frames=n,
        reader=_reader(path, place=frames.name, frame_axis=2),
        name=indexed_names(path.stem, shape=(M, N) if n == 1 else (n, M, N)),
        acquired_ns=times.acquired_ns,
        calibration=calibration.calibration,
        notes=calibration.notes,
    )


class _VeloxTimes:
    """Start of the acquisition, and the frame time after it."""

    def __init__(self, image: h5py.Group, *, n_frames: int) -> None:
        first = _velox_metadata(image, 0)
        moment = _number(first, "Acquisition", "AcquisitionStartDatetime", "DateTime")
        frame_s = _number(first, "Scan", "FrameTime") if n_frames > 1 else 0.0
        self._start_ns = int(moment * 1_000_000_000)
        self._frame_ns = int(frame_s * 1_000_000_000)

    def acquired_ns(self, index: int) -> int:
        """Return nanoseconds since 1970; 0 where the file does not say."""
        return self._start_ns + index * self._frame_ns if self._start_ns > 0 else 0


def _velox_metadata(image: h5py.Group, index: int) -> dict[str, Any]:
    """Read the JSON document of one frame: a column of bytes, filled up with zeros."""
    import h5py

    column = image.get("Metadata")
    if not isinstance(column, h5py.Dataset) or column.ndim != 2 or index >= column.shape[1]:
        return {}
    if column.shape[0] > _MAX_JSON_BYTES:
        return {}
    text = np.asarray(column[:, index]).tobytes().split(b"\0", 1)[0]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _velox_calibration(document: dict[str, Any]) -> Stated:
    size, note = square_pixel(
        _number(document, "BinaryResult", "PixelSize", "width"),
        _number(document, "BinaryResult", "PixelSize", "height"),
        unit=_text(document, "BinaryResult", "PixelUnitX") or "m",
    )
    exposure_s = _number(document, "Scan", "FrameTime")
    for detector in _items(document.get("Detectors")):
        exposure_s = _number(detector, "ExposureTime") or exposure_s
    return stated(
        pixel_size_nm=size,
        exposure_s=exposure_s,
        voltage_kv=_number(document, "Optics", "AccelerationVoltage") / 1000,
        notes=[note] if note else [],
    )


def _items(table: object) -> list[dict[str, Any]]:
    values = table.values() if isinstance(table, dict) else []
    return [value for value in values if isinstance(value, dict)]


def _text(document: dict[str, Any], *keys: str) -> str:
    found: object = document
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def _number(document: dict[str, Any], *keys: str) -> float:
    """Return a number that is kept as text; 0 where there is none."""
    found: object = document
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    try:
        value = float(found) if isinstance(found, (str, int, float)) else 0.0
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0


def _ncem_stack(path: Path, group: h5py.Group) -> FrameStack:
    frames = group["data"]
    axes = [_ncem_axis(group, number, n=n) for number, n in enumerate(frames.shape, start=1)]
    names = [axis.name for axis in axes]
    frame_axis, is_transposed = _ncem_order(names, ndim=frames.ndim)
    rows, columns = [k for k in range(frames.ndim) if k != frame_axis]
    if is_transposed:
        rows, columns = columns, rows
    n_frames = 1 if frame_axis is None else frames.shape[frame_axis]
    stack_shape((n_frames, frames.shape[rows], frames.shape[columns]), path=path)
    notes = []
    size, note = None, ""
    if axes[rows].unit == axes[columns].unit:
        size, note = square_pixel(axes[columns].step, axes[rows].step, unit=axes[columns].unit)
    else:
        note = f"pixels are {axes[rows].unit!r} by {axes[columns].unit!r}: no pixel size"
    if note:
        notes.append(note)
    said = stated(pixel_size_nm=size, notes=notes)
    return FrameStack(
        path=path,
        n_frames=n_frames,
        reader=_reader(path, place=frames.name, frame_axis=frame_axis, is_transposed=is_transposed),
        name=indexed_names(path.stem, shape=(0,) * frames.ndim),
        calibration=said.calibration,
        notes=said.notes,
    )


def _ncem_order(names: list[str], *, ndim: int) -> tuple[int | None, bool]:
    """Tell which axis counts frames, and whether an image lies with x before y.

    The format puts the slowest axis first; programs that count in columns name theirs x, y.
    """
    if "x" not in names or "y" not in names:
        return (0 if ndim == 3 else None), False
    x, y = names.index("x"), names.index("y")
    frame_axis = ({0, 1, 2} - {x, y}).pop() if ndim == 3 else None
    return frame_axis, x < y


def _ncem_axis(group: h5py.Group, number: int, *, n: int) -> _Axis:
    import h5py

    vector = group.get(f"dim{number}")
    if not isinstance(vector, h5py.Dataset) or vector.ndim != 1:
        return _Axis("", "", 0.0)
    ends = np.asarray(vector[: min(2, n)], np.float64)
    step = float(ends[1] - ends[0]) if ends.size == 2 and np.all(np.isfinite(ends)) else 0.0
    return _Axis(_attribute(vector, "name"), _ncem_unit(_attribute(vector, "units")), step)


def _ncem_unit(text: str) -> str:
    """Return a unit without the brackets and underscores of the format: '[n_m]' is nm."""
    return text.strip("[]").replace("_", "").strip()


def _attribute(item: h5py.Dataset, name: str) -> str:
    value = item.attrs.get(name, "")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _reader(path: Path, *, place: str, frame_axis: int | None, is_transposed: bool = False) -> Any:
    import h5py

    @contextmanager
    def reader() -> Iterator[Read]:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise FrameError(f"cannot read {path.name}: {error}") from error
        with file:
            frames = file[place]

            def read(index: int) -> FramePixels:
                key: tuple[Any, ...] = (slice(None), slice(None))
                if frame_axis is not None:
                    key = (*key[:frame_axis], index, *key[frame_axis:])
                image = np.asarray(frames[key])
                return supported(image.T if is_transposed else image)

            yield read

    return reader
