"""DM3, DM4, SER and TVIPS, read by rosettasciio.

rosettasciio is under the GPL: it is an extra (`pip install 'hrtem-stream[formats]'`), imported when
such a file is met, and nothing else here needs it.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from hrtem_stream.errors import FeedError, FrameError
from hrtem_stream.sources.calibration import Stated, square_pixel, stated
from hrtem_stream.sources.stack import (
    DECODE_ERRORS,
    FramePixels,
    FrameStack,
    Read,
    indexed_names,
    stack_shape,
    supported,
)

RSCIIO_MODULES: Final = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".ser": "tia",
    ".tvips": "tvips",
}
"""Which of its modules reads which files."""

_FILETIME_1970: Final = 116_444_736_000_000_000
"""Begin of 1970 in steps of 100 ns since 1601, as Windows counts."""

_MAX_KV: Final = 3000


def rsciio_stack(path: Path) -> FrameStack:
    """Describe the frames of a file; where it holds several images, the one with most pixels.

    Raises
    ------
    FeedError
        When the extra is not installed, or the file holds no 2-D frames or stack of them.
    FrameError
        When it cannot be read.
    """
    signals = _signals(path)
    images = [signal for signal in signals if _is_frames(signal)]
    if not images:
        shapes = ", ".join(str(tuple(signal["data"].shape)) for signal in signals) or "nothing"
        raise FeedError(f"{path}: must hold frames (M, N) or (n, M, N), holds {shapes}")
    number = max(range(len(images)), key=lambda k: images[k]["data"].size)
    signal = images[number]
    shape = tuple(int(n) for n in signal["data"].shape)
    n_frames, _ = stack_shape(shape, path=path)
    said = _calibration(signal)

    @contextmanager
    def reader() -> Iterator[Read]:
        frames = [s for s in _signals(path) if _is_frames(s)][number]["data"]

        def read(index: int) -> FramePixels:
            lazy = frames[index] if frames.ndim == 3 else frames
            return supported(np.asarray(lazy.compute(scheduler="synchronous")))

        yield read

    return FrameStack(
        path=path,
        n_frames=n_frames,
        reader=reader,
        name=indexed_names(path.stem, shape=shape),
        acquired_ns=_times_of(signal),
        calibration=said.calibration,
        notes=said.notes,
    )


def _signals(path: Path) -> list[dict[str, Any]]:
    module = RSCIIO_MODULES[path.suffix.lower()]
    try:
        rsciio = importlib.import_module(f"rsciio.{module}")
        exceptions = importlib.import_module("rsciio.exceptions")
        importlib.import_module("dask.array")
    except ImportError as error:
        raise FeedError(
            f"{path}: reading {path.suffix} needs the extra 'formats': "
            "pip install 'hrtem-stream[formats]'"
        ) from error
    foreign = (
        exceptions.ByteOrderError,
        exceptions.DM3DataTypeError,
        exceptions.DM3FileVersionError,
        exceptions.DM3TagError,
        exceptions.DM3TagIDError,
        exceptions.DM3TagTypeError,
    )
    logging.getLogger("rsciio").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            signals = rsciio.file_reader(str(path), lazy=True)
    except (*DECODE_ERRORS, *foreign) as error:
        raise FrameError(f"cannot read {path.name}: {error or type(error).__name__}") from error
    return [signal for signal in signals if hasattr(signal["data"], "compute")]


def _is_frames(signal: Mapping[str, Any]) -> bool:
    """Tell whether a signal is an image or a stack of images, not spectra, not a scan."""
    is_number = np.dtype(signal["data"].dtype).kind in "biuf"
    n_signal_axes = sum(not axis["navigate"] for axis in signal["axes"])
    return is_number and n_signal_axes == 2 and signal["data"].ndim in (2, 3)


def _calibration(signal: Mapping[str, Any]) -> Stated:
    rows, columns = signal["axes"][-2:]
    notes = []
    if rows["units"] == columns["units"]:
        size, note = square_pixel(
            float(columns["scale"]), float(rows["scale"]), unit=_plain(columns["units"])
        )
    else:
        size = None
        note = f"pixels are {_plain(rows['units'])} by {_plain(columns['units'])}: no pixel size"
    if note:
        notes.append(note)
    return stated(
        pixel_size_nm=size,
        exposure_s=_exposure_s(signal),
        voltage_kv=_voltage_kv(signal),
        notes=notes,
    )


def _plain(unit: object) -> str:
    return unit if isinstance(unit, str) else ""


def _exposure_s(signal: Mapping[str, Any]) -> float | None:
    tags = _dm_tags(signal)
    for keys in (
        ("Acquisition", "Parameters", "High Level", "Exposure (s)"),
        ("Acquisition", "Parameters", "Detector", "exposure_s"),
        ("DataBar", "Exposure Time (s)"),
    ):
        value = _number(tags, keys)
        if value:
            return value
    found = _number(
        signal.get("original_metadata", {}), ("ObjectInfo", "AcquireInfo", "DwellTimePath")
    )
    return found or None


def _voltage_kv(signal: Mapping[str, Any]) -> float | None:
    volts = _number(_dm_tags(signal), ("Microscope Info", "Voltage"))
    if volts:
        return volts / 1000
    original = signal.get("original_metadata", {})
    keys = ("ObjectInfo", "ExperimentalDescription", "High_tension_kV")
    known = _number(original, keys)
    if known:
        return known
    # TVIPS writes volts into this field.
    tvips = _number(signal["metadata"], ("Acquisition_instrument", "TEM", "beam_energy"))
    return tvips / 1000 if tvips > _MAX_KV else tvips or None


def _times_of(signal: Mapping[str, Any]) -> Callable[[int], int]:
    """Return what gives the time of acquisition of a frame, in ns since 1970, 0 for unknown."""
    filetime = _number(_dm_tags(signal), ("DataBar", "Acquisition Time (OS)"))
    if filetime > _FILETIME_1970:
        start_ns = int(filetime - _FILETIME_1970) * 100
        return lambda index: start_ns
    first = signal["axes"][0]
    if first["navigate"] and first["name"] == "time" and first["units"] == "s":
        offset_s, step_s = float(first["offset"]), float(first["scale"])
        return lambda index: max(0, int((offset_s + index * step_s) * 1e9))
    return lambda index: 0


def _dm_tags(signal: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tags that DigitalMicrograph writes beside an image."""
    found: Any = signal.get("original_metadata", {})
    for key in ("ImageList", "TagGroup0", "ImageTags"):
        found = found.get(key, {}) if isinstance(found, Mapping) else {}
    return found if isinstance(found, Mapping) else {}


def _number(tags: Mapping[str, Any], keys: tuple[str, ...]) -> float:
    found: Any = tags
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, np.ndarray) and found.size:
        found = found.flat[0]
    try:
        value = float(found) if found is not None else 0.0
    except (TypeError, ValueError):
        return 0.0
    return value if np.isfinite(value) else 0.0
