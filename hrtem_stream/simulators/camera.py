"""A simulated camera that knows the truth, and how to record it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np

from hrtem_stream.science.synthetic import SyntheticFrame, SyntheticSeries

_LEVEL: Final = 1


class SimulatedCamera:
    """A camera of square frames; the same seed gives the same frames."""

    def __init__(self, *, n_frames: int, size: int, seed: int) -> None:
        """Make the specimen.

        Parameters
        ----------
        n_frames
            Length of the series, 0 or more.
        size
            Height and width of a frame in pixels, from 64.
        seed
            Seed of everything random, 0 or above.

        Raises
        ------
        ValueError
            When one of them is out of range.
        """
        if n_frames < 0:
            raise ValueError(f"n_frames must be 0 or above, got {n_frames}")
        self.n_frames = n_frames
        self._series = SyntheticSeries(shape=(size, size), seed=seed)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, N) of a frame."""
        return self._series.shape

    @property
    def pixel_size_nm(self) -> float:
        """Side of a pixel on the specimen."""
        return self._series.pixel_size_nm

    def frame(self, index: int) -> SyntheticFrame:
        """Take the frame with this index.

        Raises
        ------
        IndexError
            When the series has no such frame.
        """
        if not 0 <= index < self.n_frames:
            raise IndexError(f"frame must be 0 to {self.n_frames - 1}, got {index}")
        return self._series.frame(index)

    def __iter__(self) -> Iterator[SyntheticFrame]:
        """Take all frames in order."""
        return (self.frame(index) for index in range(self.n_frames))


def write_simulation(path: Path, *, n_frames: int, size: int, seed: int) -> None:
    """Write frames and their truth into an .npz, one frame in memory at a time.

    Parameters
    ----------
    path
        File with the arrays `images` (n, size, size) uint16 and `labels` (n, size, size) uint8:
        0 graphene, 1 amorphous, 2 vacuum, 3 beam off. It appears when it is complete, and
        replaces what was there.
    n_frames, size, seed
        As for `SimulatedCamera`.

    Raises
    ------
    ValueError
        When a number is out of range.
    OSError
        When the file cannot be written.
    """
    camera = SimulatedCamera(n_frames=n_frames, size=size, seed=seed)
    unfinished = path.with_name(path.name + ".part")
    shape = (n_frames, *camera.shape)
    # A zip takes one member after the other; labels wait compressed, to a hundredth.
    waiting = []
    try:
        with zipfile.ZipFile(unfinished, "w") as archive:
            with archive.open("images.npy", "w", force_zip64=True) as images:
                _write_header(images, shape=shape, dtype=np.dtype("<u2"))
                for frame in camera:
                    images.write(frame.pixels.astype("<u2", copy=False).tobytes())
                    waiting.append(zlib.compress(frame.labels.tobytes(), _LEVEL))
            member = zipfile.ZipInfo("labels.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as labels:
                _write_header(labels, shape=shape, dtype=np.dtype("u1"))
                for compressed in waiting:
                    labels.write(zlib.decompress(compressed))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_header(file: IO[bytes], *, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    np.lib.format.write_array_header_2_0(
        file,
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
        },
    )
