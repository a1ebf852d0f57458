"""Frames of the physical simulation with their truth, as a file: `simulate --kind physical`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrtem_stream.science.physical import PhysicalFrame, simulate

WORKING_SIZE = 256
GRAPHENE, AMORPHOUS, VACUUM, BEAM_OFF = range(4)


def write_physical(path: Path, *, n_frames: int, size: int, seed: int) -> None:
    """Write simulated frames and their truth into an .npz.

    Parameters
    ----------
    path
        File with `images` (n, size, size) uint16; `labels` alike, uint8, numbered as by
        `camera.write_simulation`; `boundary` bool, clean graphene at a grain boundary;
        `pixel_size_nm` and `dose_e_per_nm2` (n,).
    size
        A multiple of 256.
    seed
        Frame i has the seed (seed, i).

    Raises
    ------
    ValueError
        The size is no multiple of 256.
    OSError
        The file cannot be written.
    """
    frames = [
        simulate(size, working_size=WORKING_SIZE, rng=np.random.default_rng((seed, index)))
        for index in range(n_frames)
    ]
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as file:
            np.savez(
                file,
                images=np.stack([frame.pixels for frame in frames]),
                labels=np.stack([_labels(frame) for frame in frames]),
                boundary=np.stack([frame.boundary for frame in frames]),
                pixel_size_nm=np.array([frame.conditions.pixel_size_nm for frame in frames]),
                dose_e_per_nm2=np.array([frame.conditions.dose_e_per_nm2 for frame in frames]),
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _labels(frame: PhysicalFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    labels = np.full(frame.pixels.shape, GRAPHENE, np.uint8)
    labels[frame.amorphous] = AMORPHOUS
    labels[frame.vacuum] = VACUUM
    labels[frame.beam_off] = BEAM_OFF
    return labels
