"""Lossless writers of whole frames, run in the peers' own environment: `FRAMES.npy` -> JSON.

Each writes the same frames one after the other, in one thread, as its manual says; printed is the
processor time and the size of what lies on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

for name in ("BLOSC_NTHREADS", "OMP_NUM_THREADS"):
    os.environ[name] = "1"


def h5py_writer(filters: Callable[[], dict[str, Any]]) -> Callable[[Path, Any], None]:
    def write(path: Path, frames: Any) -> None:
        import h5py

        with h5py.File(path, "w") as file:
            dataset = file.create_dataset(
                "images", frames.shape, frames.dtype, chunks=(1, *frames.shape[1:]), **filters()
            )
            for n, frame in enumerate(frames):
                dataset[n] = frame

    return write


def bitshuffle() -> dict[str, Any]:
    import hdf5plugin

    return dict(hdf5plugin.Bitshuffle(cname="lz4"))


def zstd() -> dict[str, Any]:
    import hdf5plugin

    return {**hdf5plugin.Zstd(clevel=1), "shuffle": True}


def blosc2_writer(path: Path, frames: Any) -> None:
    import blosc2  # type: ignore[import-not-found,unused-ignore]

    path.mkdir()
    parameters = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "nthreads": 1}
    for n, frame in enumerate(frames):
        blosc2.asarray(frame, urlpath=str(path / f"{n}.b2nd"), cparams=parameters)


def zarr_writer(path: Path, frames: Any) -> None:
    import zarr  # type: ignore[import-not-found,unused-ignore]

    array = zarr.create_array(
        str(path), shape=frames.shape, dtype=frames.dtype, chunks=(1, *frames.shape[1:])
    )
    for n, frame in enumerate(frames):
        array[n] = frame


WRITERS = {
    "h5py gzip 4, shuffle": h5py_writer(
        lambda: {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    ),
    "hdf5plugin bitshuffle-lz4": h5py_writer(bitshuffle),
    "hdf5plugin zstd 1, shuffle": h5py_writer(zstd),
    "blosc2 zstd 1, shuffle": blosc2_writer,
    "zarr, its default codec": zarr_writer,
}


def main() -> None:
    frames = np.load(sys.argv[1])
    found = {}
    for name, write in WRITERS.items():
        try:
            found[name] = measured(write, frames)
        except ImportError as error:
            found[name] = {"skipped": str(error)}
    print(json.dumps(found))


def measured(write: Callable[[Path, Any], None], frames: Any) -> dict[str, Any]:
    times, size = [], 0
    for _ in range(3):
        with place() as path:
            began = time.process_time()
            write(path, frames)
            times.append((time.process_time() - began) / len(frames))
            size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
    return {"seconds": times, "bytes": size / len(frames)}


@contextlib.contextmanager
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder / "written"
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
