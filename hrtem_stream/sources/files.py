"""Recorded frames: from paths to frames in order, whatever files they are in.

A path is a folder of images, taken in order of name; a PNG or TIFF; an .npy; an .npz with `images`;
an MRC; an HDF5, NeXus or EMD file, with `::/path/to/dataset` if need be; a DM3, DM4, SER or TVIPS.
Several paths follow each other. `NAME_LABEL.png` beside `NAME.png` is a label and no frame; the
files of frames of a DECTRIS master are read through it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import Calibration
from hrtem_stream.sources.array_files import mrc_stack, npy_stack, npz_stack
from hrtem_stream.sources.calibration import common
from hrtem_stream.sources.hdf5_files import hdf5_stack
from hrtem_stream.sources.image_files import png_stack, tiff_stack
from hrtem_stream.sources.rsciio_files import RSCIIO_MODULES, rsciio_stack
from hrtem_stream.sources.stack import (
    DECODE_ERRORS,
    FramePixels,
    FrameStack,
    Read,
    damaged_file,
    damaged_stack,
)

HDF5_SUFFIXES: Final = (".h5", ".hdf5", ".nxs", ".nx", ".hdf", ".emd", ".he5", ".part")
_STACKS: Final = {
    **dict.fromkeys(RSCIIO_MODULES, rsciio_stack),
    ".png": png_stack,
    ".tif": tiff_stack,
    ".tiff": tiff_stack,
    ".npy": npy_stack,
    ".npz": npz_stack,
    ".mrc": mrc_stack,
    ".mrcs": mrc_stack,
}
IMAGE_SUFFIXES: Final = (".png", ".tif", ".tiff", ".mrc", ".emd", *RSCIIO_MODULES)
"""Files that a folder of frames may consist of."""
FRAME_SUFFIXES: Final = (*_STACKS, *HDF5_SUFFIXES)
"""All endings of files that can hold frames."""
_LABEL: Final = "_LABEL"

FramePath: TypeAlias = str | Path


class ReadFrame(NamedTuple):
    """One frame out of a file."""

    name: str
    pixels: NDArray[np.generic]
    """(M, N), read-only; with a `fault`, the bytes of the damaged frame as 1-D uint8."""
    fault: str


class LabelledPair(NamedTuple):
    """An image with its label drawn by hand."""

    name: str
    image_path: Path
    label_path: Path


class Missing(NamedTuple):
    """Frames that a file announces and does not hold."""

    n_frames: int
    reason: str


class FrameFiles:
    """The frames of several files as one sequence; one file is open at a time."""

    def __init__(self, stacks: Sequence[FrameStack]) -> None:
        self._stacks = stacks
        self._ends = list(accumulate(stack.n_frames + stack.n_missing for stack in stacks))
        self._opened = ExitStack()
        self._readers: dict[int, Read] = {}

    @property
    def n_frames(self) -> int:
        """Number of frames, the missing ones included."""
        return self._ends[-1] if self._ends else 0

    @property
    def calibration(self) -> Calibration:
        """What all files state alike."""
        return common([stack.calibration for stack in self._stacks]).calibration

    @property
    def calibration_notes(self) -> tuple[str, ...]:
        """What has to be said of it: where files differ, or state what cannot be."""
        disagreements = common([stack.calibration for stack in self._stacks]).notes
        told = (note for stack in self._stacks for note in stack.notes)
        return tuple(dict.fromkeys((*told, *disagreements)))

    def acquired_ns(self, index: int) -> int:
        """Return when a frame was acquired, in nanoseconds since 1970; 0 when not known."""
        k, inner = self._locate(index)
        stack = self._stacks[k]
        return stack.acquired_ns(inner) if inner < stack.n_frames else 0

    def missing(self, index: int) -> Missing | None:
        """Return how many frames are missing from this one on, None when it is there."""
        k, inner = self._locate(index)
        stack = self._stacks[k]
        if inner < stack.n_frames:
            return None
        n_total = stack.n_frames + stack.n_missing
        return Missing(n_total - inner, f"{stack.path.name} is truncated: announces {n_total}")

    def read(self, index: int) -> ReadFrame:
        """Read a frame that is not missing; what cannot be read becomes a fault."""
        k, inner = self._locate(index)
        stack = self._stacks[k]
        try:
            pixels, fault = self._reader(k)(inner)
        except DECODE_ERRORS as error:
            fault = f"cannot read frame {inner} of {stack.path.name}: {error}"
            if stack.n_frames == 1:
                pixels, fault = damaged_file(stack.path, fault=fault)
            else:
                pixels, fault = FramePixels(np.zeros(0, np.uint8), fault)
        return ReadFrame(stack.name(inner), pixels, fault)

    def close(self) -> None:
        """Close the file that is open; it is opened again when a frame is read."""
        self._readers.clear()
        self._opened.close()

    def _locate(self, index: int) -> tuple[int, int]:
        k = bisect_right(self._ends, index)
        return k, index - (self._ends[k - 1] if k else 0)

    def _reader(self, k: int) -> Read:
        if k not in self._readers:
            self.close()
            self._readers[k] = self._opened.enter_context(self._stacks[k].reader())
        return self._readers[k]


def open_frames(paths: Sequence[FramePath]) -> FrameFiles:
    """Find the frames behind `paths`; pixels are not read yet.

    Raises
    ------
    FeedError
        When a path does not exist, is of an unknown kind, or holds no frame. A file that is of a
        known kind but damaged is no error: it counts as one frame with a fault.
    """
    if not paths:
        raise FeedError("there must be at least one path to replay")
    files = FrameFiles([stack for path in paths for stack in _stacks_of(str(path))])
    if files.n_frames == 0:
        raise FeedError(f"there is no frame in {', '.join(str(path) for path in paths)}")
    return files


def read_frames(paths: Sequence[FramePath]) -> Iterator[ReadFrame]:
    """Read the frames behind `paths` one after the other.

    Frames that a truncated file announces and does not hold come as one frame with a fault.

    Raises
    ------
    FeedError
        As `open_frames`, when the first frame is asked for.
    """
    files = open_frames(paths)
    try:
        index = 0
        while index < files.n_frames:
            missing = files.missing(index)
            if missing is None:
                yield files.read(index)
                index += 1
            else:
                fault = f"{missing.n_frames} frames are missing: {missing.reason}"
                yield ReadFrame(f"missing[{index}]", np.zeros(0, np.uint8), fault)
                index += missing.n_frames
    finally:
        files.close()


def labelled_pairs(folder: FramePath) -> list[LabelledPair]:
    """Find each `NAME.png` of a folder that has a `NAME_LABEL.png` beside it, by name.

    Raises
    ------
    FeedError
        When there is no such folder, or no such pair in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FeedError(f"{folder}: is no folder")
    labels = sorted(folder.glob(f"*{_LABEL}.png"))
    pairs = [
        LabelledPair(image.stem, image, label)
        for label in labels
        if (image := label.with_name(label.name.replace(f"{_LABEL}.png", ".png"))).is_file()
    ]
    if not pairs:
        raise FeedError(f"{folder}: has no NAME.png with a NAME{_LABEL}.png beside it")
    return sorted(pairs)


def _stacks_of(text: str) -> list[FrameStack]:
    file_text, _, dataset = text.partition("::")
    path = Path(file_text)
    if path.is_dir():
        images = _images_of(path)
        if not images:
            known = " ".join(IMAGE_SUFFIXES)
            raise FeedError(f"{path}: has no file that ends with one of {known}")
        return [frame_stack(image) for image in images]
    if not path.exists():
        raise FeedError(f"{path}: does not exist")
    if path.suffix.lower() not in FRAME_SUFFIXES:
        known = " ".join(FRAME_SUFFIXES)
        raise FeedError(f"{path}: must be a folder or end with one of {known}")
    try:
        return [describe(path, dataset=dataset)]
    except DECODE_ERRORS as error:
        return [damaged_stack(path, fault=str(error))]


def describe(path: Path, *, dataset: str = "") -> FrameStack:
    """Describe the frames of one file of a known ending.

    Raises
    ------
    FeedError
        When it can be read, and what it holds can be no frames; or an extra is missing.
    FrameError, OSError, ValueError, ...
        One of `DECODE_ERRORS` when it cannot be read.
    """
    suffix = path.suffix.lower()
    return hdf5_stack(path, dataset=dataset) if suffix in HDF5_SUFFIXES else _STACKS[suffix](path)


def frame_stack(path: Path) -> FrameStack:
    """Describe a file among others; one that cannot be used is a fault, not the end."""
    try:
        return describe(path)
    except (*DECODE_ERRORS, FeedError) as error:
        return damaged_stack(path, fault=str(error))


def _images_of(folder: Path) -> list[Path]:
    images = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and path.name[0] != "."
    ]
    names = {path.name for path in images}
    return sorted(path for path in images if not is_label(path, names=names))


def is_label(path: Path, *, names: set[str]) -> bool:
    """Tell whether a file is a label: `NAME_LABEL.png` where there is a `NAME.png` beside it."""
    if not path.stem.endswith(_LABEL):
        return False
    return path.stem.removesuffix(_LABEL) + path.suffix in names
