"""HDF5 and NeXus, our own archives among them.

A dataset is named behind two colons, `F.h5::/path/to/dataset`. Without a name it is the default
signal of the NeXus file, else the largest dataset that can be frames.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import FeedError, FrameError
from hrtem_stream.messages import Calibration
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
_NAMES: Final = ("/entry/scores/name", "/entry/images/name")
_TIMES_NS: Final = ("/entry/scores/acquired_ns", "/entry/images/acquired_ns")
_PIXEL_SIZES_NM: Final = ("/entry/instrument/pixel_size_nm", "/entry/images/pixel_size_nm")


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
    _register_codecs()
    with _opened(path) as file:
        frames = _dataset(file, path=path, dataset=dataset)
        n_frames, _ = stack_shape(frames.shape, path=path)
        names = _column(file, _NAMES, n_frames=n_frames)
        times_ns = _column(file, _TIMES_NS, n_frames=n_frames)
        place = frames.name
        shape = frames.shape
        calibration = _calibration(file)

    @contextmanager
    def reader() -> Iterator[Read]:
        with _opened(path) as file:
            opened = file[place]
            yield lambda index: _read(opened, index, path=path)

    return FrameStack(
        path=path,
        n_frames=n_frames,
        reader=reader,
        name=_names(path.stem, names, shape=shape),
        acquired_ns=(lambda index: 0) if times_ns is None else lambda index: int(times_ns[index]),
        calibration=calibration,
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


def _text_attribute(group: h5py.Group, name: str) -> str:
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


def _column(file: h5py.File, places: tuple[str, ...], *, n_frames: int) -> NDArray[Any] | None:
    """Return the first of the datasets that holds one value for each frame."""
    import h5py

    for place in places:
        item = file.get(place)
        if isinstance(item, h5py.Dataset) and item.shape == (n_frames,):
            text = h5py.check_string_dtype(item.dtype) is not None
            return np.asarray(item.asstr(errors="replace")[()] if text else item[()])
    return None


def _names(
    stem: str, names: NDArray[Any] | None, *, shape: tuple[int, ...]
) -> Callable[[int], str]:
    """Name the frames as the file does, else after the file."""
    fallback = indexed_names(stem, shape=shape)
    if names is None:
        return fallback
    return lambda index: str(names[index]) or fallback(index)


def _calibration(file: h5py.File) -> Calibration:
    import h5py

    for place in _PIXEL_SIZES_NM:
        item = file.get(place)
        if isinstance(item, h5py.Dataset) and item.shape == () and item.dtype.kind == "f":
            pixel_size_nm = float(item[()])
            if 0 < pixel_size_nm < math.inf:
                return Calibration(pixel_size_nm=pixel_size_nm)
    return Calibration()
