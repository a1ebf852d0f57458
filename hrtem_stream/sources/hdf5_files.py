"""HDF5 and NeXus.

A dataset is named behind two colons, `F.h5::/path/to/dataset`. Without a name it is the image of an
EMD file, the data of a DECTRIS master file, the default signal of a NeXus file, else the largest
dataset that can be frames.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from hrtem_stream.errors import FeedError, FrameError
from hrtem_stream.messages import Calibration
from hrtem_stream.sources.archive_files import archive_stack, is_archive
from hrtem_stream.sources.calibration import Stated, square_pixel, stated
from hrtem_stream.sources.dectris_files import dectris_stack
from hrtem_stream.sources.emd_files import emd_stack
from hrtem_stream.sources.stack import (
    DECODE_ERRORS,
    FramePixels,
    FrameStack,
    Read,
    damaged,
    indexed_names,
    stack_shape,
    supported,
)

if TYPE_CHECKING:
    import h5py

_CHUNK_CACHE_BYTES: Final = 256 * 1024 * 1024
"""Chunks may span frames; without room for a row of them each frame decodes them all again."""


def hdf5_stack(path: Path, *, dataset: str) -> FrameStack:
    """Describe the frames of an HDF5 dataset.

    Parameters
    ----------
    path
        The file.
    dataset
        Path of the dataset in it; empty for the default one.

    Raises
    ------
    FeedError
        When the file is locked by a writer, or has no dataset of frames at that place.
    FrameError
        When the file is damaged.
    """
    if path.suffix == ".part" or (not dataset and is_archive(path)):
        return archive_stack(path)
    _register_codecs()
    with _opened(path) as file:
        known = None if dataset else emd_stack(path, file) or dectris_stack(path, file)
        if known is not None:
            return known
        frames = _dataset(file, path=path, dataset=dataset)
        said = _calibration(frames)
        n_frames, _ = stack_shape(frames.shape, path=path)
        place = frames.name
        shape = frames.shape

    @contextmanager
    def reader() -> Iterator[Read]:
        with _opened(path) as file:
            opened = file[place]
            yield lambda index: _read(opened, index, path=path)

    return FrameStack(
        path=path,
        n_frames=n_frames,
        reader=reader,
        name=indexed_names(path.stem, shape=shape),
        calibration=said.calibration,
        notes=said.notes,
    )


def _register_codecs() -> None:
    """Let HDF5 read the codecs of detectors, where the optional package is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")


def _opened(path: Path) -> h5py.File:
    import h5py

    try:
        return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except BlockingIOError as error:
        raise FeedError(f"{path}: is open for writing elsewhere") from error
    except DECODE_ERRORS as error:
        raise FrameError(f"cannot read {path.name}: {error}") from error


def _dataset(file: h5py.File, *, path: Path, dataset: str) -> h5py.Dataset:
    import h5py

    if dataset:
        found = file.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise FeedError(f"{path}: has no dataset {dataset}")
        if not _can_be_frames(found):
            raise FeedError(
                f"{path}: {dataset} must be frames (M, N) or (n, M, N) of numbers, "
                f"is {found.shape} of {found.dtype}"
            )
        return found
    signal = _default_signal(file)
    if signal is not None:
        return signal
    candidates: list[h5py.Dataset] = []

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and _can_be_frames(item):
            candidates.append(item)

    file.visititems(collect)
    if not candidates:
        raise FeedError(f"{path}: has no dataset of frames")
    return max(candidates, key=lambda item: item.size)


def _default_signal(file: h5py.File) -> h5py.Dataset | None:
    """Follow the `default` attributes from the root to the signal of an NXdata."""
    import h5py

    group: h5py.Group = file
    for _ in range(8):
        signal = _text_attribute(group, "signal")
        if signal:
            found = group.get(signal)
            is_usable = isinstance(found, h5py.Dataset) and _can_be_frames(found)
            return found if is_usable else None
        following = group.get(_text_attribute(group, "default") or "/missing")
        if not isinstance(following, h5py.Group):
            return None
        group = following
    return None


def _calibration(frames: h5py.Dataset) -> Stated:
    """Return the pixel size of an NXdata: the step of its last two axes, which have units."""
    import h5py

    names = frames.parent.attrs.get("axes", ())
    names = [names] if isinstance(names, (str, bytes)) else list(names)
    if len(names) != frames.ndim:
        return Stated(Calibration())
    steps, units = [], []
    for name in names[-2:]:
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        axis = frames.parent.get(text)
        if not isinstance(axis, h5py.Dataset) or axis.shape is None or axis.ndim != 1:
            return Stated(Calibration())
        ends = np.asarray(axis[:2], np.float64)
        steps.append(float(ends[1] - ends[0]) if ends.size == 2 else 0.0)
        units.append(_text_attribute(axis, "units"))
    if units[0] != units[1]:
        return stated(notes=[f"pixels are {units[0]!r} by {units[1]!r}: no pixel size"])
    size, note = square_pixel(steps[1], steps[0], unit=units[1])
    return stated(pixel_size_nm=size, notes=[note] if note else [])


def _text_attribute(group: h5py.Group | h5py.Dataset, name: str) -> str:
    value = group.attrs.get(name, "")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _can_be_frames(item: h5py.Dataset) -> bool:
    return (
        item.shape is not None
        and len(item.shape) in (2, 3)
        and math.prod(item.shape) > 0
        and min(item.shape[-2:]) > 1
        and item.dtype.kind in "biuf"
    )


def _read(frames: h5py.Dataset, index: int, *, path: Path) -> FramePixels:
    try:
        return supported(np.asarray(frames[index] if frames.ndim == 3 else frames[()]))
    except DECODE_ERRORS as error:
        return damaged(b"", fault=f"cannot read frame {index} of {path.name}: {error}")
