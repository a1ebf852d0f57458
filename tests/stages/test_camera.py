"""camera: what is analysed is corrected, what is archived is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from hrtem_stream.errors import SettingsError
from hrtem_stream.pipeline.camera import make_camera
from hrtem_stream.science.illumination import normalise_frame
from hrtem_stream.settings import load_settings
from hrtem_stream.stages.camera import CorrectedCamera, RawCamera
from hrtem_stream.stages.normalise import Normalise
from tests.stages.frames import raw
from tests.stages.test_normalise import Memory

SHAPE = (128, 128)


def _counts(seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).poisson(300, SHAPE).astype(np.uint16)


def _header(sequence: int = 0, series_id: str = "a") -> Any:
    return replace(raw(sequence).header, sequence=sequence, series_id=series_id)


def test_a_corrected_frame_is_analysed_as_if_the_camera_had_been_perfect() -> None:
    rng = np.random.default_rng(1)
    dark = rng.uniform(50, 90, SHAPE).astype(np.float32)
    gain = rng.uniform(0.5, 1.5, SHAPE).astype(np.float32)
    bad = rng.random(SHAPE) < 0.01
    perfect = _counts()
    received = np.rint(perfect / gain + dark).astype(np.uint16)
    received[bad] = 65535
    camera = RawCamera(dark=dark, gain=gain, bad=bad)
    stage = Normalise(Memory(received), working_size=64, camera=camera)  # type: ignore[arg-type]
    (result,) = stage.process([raw(0)])
    expected = normalise_frame(perfect, shape=(64, 64))
    assert np.corrcoef(result.image.ravel(), expected.image.ravel())[0, 1] > 0.99
    assert result.header.fault == ""


def test_the_analysis_of_a_frame_unlike_its_reference_is_a_fault() -> None:
    camera = RawCamera(dark=np.zeros((64, 64), np.float32))
    stage = Normalise(Memory(_counts()), working_size=64, camera=camera)  # type: ignore[arg-type]
    (result,) = stage.process([raw(0)])
    assert result.header.fault == "dark reference must be (128, 128), is (64, 64)"


def test_pixels_that_a_detector_marks_by_the_largest_number_are_filled() -> None:
    received = _counts()
    received[40:44] = 65535
    camera = RawCamera(fills_largest=True)
    assert camera.analysed(_header(), received).max() < 1000
    received[40:44] = 300
    received[:, 7] = 65535  # other pixels in the next frame
    assert camera.analysed(_header(1), received).max() < 1000


def test_each_frame_is_analysed_as_the_sum_of_the_last_ones() -> None:
    camera = RawCamera(n_summed=3)
    sums = [camera.analysed(_header(k), _counts(k)) for k in range(5)]
    np.testing.assert_array_equal(sums[0], _counts(0))
    np.testing.assert_array_equal(sums[1], _counts(0).astype(int) + _counts(1))
    np.testing.assert_array_equal(sums[4], sum(_counts(k).astype(int) for k in (2, 3, 4)))


def test_a_sum_leaves_out_what_is_missing_and_what_is_of_another_series() -> None:
    camera = RawCamera(n_summed=3)
    for sequence in (0, 1, 5):
        last = camera.analysed(_header(sequence), _counts(sequence))
    np.testing.assert_array_equal(last, _counts(5))
    other = camera.analysed(_header(6, series_id="b"), _counts(6))
    np.testing.assert_array_equal(other, _counts(6))


def test_a_frame_that_is_sent_again_has_the_sum_it_had() -> None:
    camera = RawCamera(n_summed=3)
    sums = [camera.analysed(_header(k), _counts(k)) for k in range(4)]
    np.testing.assert_array_equal(camera.analysed(_header(3), _counts(3)), sums[3])


def _camera(**flags: Any) -> Any:
    return make_camera(load_settings(None, {f"normalise.{k}": v for k, v in flags.items()}))


def test_without_settings_frames_are_analysed_as_they_come() -> None:
    assert isinstance(_camera(), CorrectedCamera)


def test_references_are_read_from_files_and_averaged(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "dark.tif", np.stack([np.full(SHAPE, 10), np.full(SHAPE, 30)])
                     .astype(np.uint16), photometric="minisblack")  # fmt: skip
    gain = np.full(SHAPE, 2, np.float32)
    gain[3, 4] = 0
    np.save(tmp_path / "gain.npy", gain)
    camera = _camera(dark=str(tmp_path / "dark.tif"), gain=str(tmp_path / "gain.npy"))
    result = camera.analysed(_header(), np.full(SHAPE, 120, np.uint16))
    np.testing.assert_allclose(result, 200)  # the pixel without gain is filled


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("dark", np.full(SHAPE, np.nan, np.float32), "must be finite, 16384 pixels are not"),
        ("gain", np.full(SHAPE, -1, np.float32), "must not be negative, has -1"),
        ("bad_pixels", np.ones(SHAPE, np.uint8), "all pixels are bad"),
        ("bad_pixels", np.ones((2, *SHAPE), np.uint8), "must hold one map"),
        ("dark", None, "does not exist"),
    ],
)
def test_a_bad_reference_is_refused_before_the_session(
    tmp_path: Path, name: str, content: Any, words: str
) -> None:
    path = tmp_path / "reference.npy"
    if content is not None:
        np.save(path, content)
    with pytest.raises(SettingsError, match=words):
        _camera(**{name: str(path)})


def test_references_must_have_one_shape(tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", np.zeros((4, 4), np.float32))
    np.save(tmp_path / "gain.npy", np.ones((4, 5), np.float32))
    with pytest.raises(SettingsError, match=r"normalise\.gain must have the shape"):
        _camera(dark=str(tmp_path / "dark.npy"), gain=str(tmp_path / "gain.npy"))
