"""The physical simulation as a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrtem_stream.simulators.physical import write_physical


def test_frames_come_with_labels_boundaries_and_calibration(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    write_physical(path, n_frames=2, size=256, seed=3)
    with np.load(path) as found:
        assert found["images"].dtype == np.uint16
        assert found["images"].shape == found["labels"].shape == (2, 256, 256)
        assert set(np.unique(found["labels"])) <= {0, 1, 2, 3}
        assert ((found["pixel_size_nm"] > 0.02) & (found["pixel_size_nm"] < 0.09)).all()
        again = tmp_path / "again.npz"
        write_physical(again, n_frames=1, size=256, seed=3)
        with np.load(again) as one:
            assert np.array_equal(one["images"][0], found["images"][0])


def test_a_size_that_does_not_reduce_to_the_working_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 256"):
        write_physical(tmp_path / "p.npz", n_frames=1, size=300, seed=0)
    assert not any(tmp_path.iterdir())
