from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrtem_stream.simulators.camera import SimulatedCamera, write_simulation
from hrtem_stream.sources.files import read_frames


def test_a_camera_gives_its_frames_in_order() -> None:
    camera = SimulatedCamera(n_frames=3, size=64, seed=1)
    frames = list(camera)
    assert len(frames) == 3
    assert camera.shape == (64, 64)
    np.testing.assert_array_equal(frames[2].pixels, camera.frame(2).pixels)
    with pytest.raises(IndexError, match="frame must be 0 to 2, got 3"):
        camera.frame(3)
    with pytest.raises(ValueError, match="n_frames must be 0 or above"):
        SimulatedCamera(n_frames=-1, size=64, seed=1)


@pytest.mark.parametrize("n_frames", [0, 1, 4])
def test_a_recording_holds_the_frames_and_the_truth(tmp_path: Path, n_frames: int) -> None:
    path = tmp_path / "a.npz"
    write_simulation(path, n_frames=n_frames, size=96, seed=3)
    camera = SimulatedCamera(n_frames=n_frames, size=96, seed=3)
    with np.load(path) as recorded:
        images, labels = recorded["images"], recorded["labels"]
    assert (images.shape, images.dtype) == ((n_frames, 96, 96), np.uint16)
    assert (labels.shape, labels.dtype) == ((n_frames, 96, 96), np.uint8)
    for index, frame in enumerate(camera):
        np.testing.assert_array_equal(images[index], frame.pixels)
        np.testing.assert_array_equal(labels[index], frame.labels)
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_can_be_replayed(tmp_path: Path) -> None:
    write_simulation(tmp_path / "a.npz", n_frames=2, size=64, seed=3)
    frames = list(read_frames([tmp_path / "a.npz"]))
    assert [frame.fault for frame in frames] == ["", ""]


def test_a_recording_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sides must be"):
        write_simulation(tmp_path / "a.npz", n_frames=2, size=1, seed=3)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No such file"):
        write_simulation(tmp_path / "none" / "a.npz", n_frames=2, size=64, seed=3)
