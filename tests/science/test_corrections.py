from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hrtem_stream.science.corrections import binned, corrected, filled, filling_of


def noise(shape: tuple[int, int] = (12, 16), dtype: str = "<u2") -> NDArray[Any]:
    return np.random.default_rng(0).poisson(100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<u4", "<i2", "<f4", "<f8"])
@pytest.mark.parametrize("has_dark", [False, True])
@pytest.mark.parametrize("has_gain", [False, True])
def test_a_frame_is_less_its_dark_counts_times_the_gain(
    dtype: str, has_dark: bool, has_gain: bool
) -> None:
    frame = noise(dtype=dtype)
    rng = np.random.default_rng(1)
    dark = rng.uniform(5, 500, frame.shape).astype(np.float32) if has_dark else None
    gain = rng.uniform(0.5, 2, frame.shape).astype(np.float32) if has_gain else None
    expected = (frame.astype(np.float64) - (0 if dark is None else dark)) * (
        1 if gain is None else gain
    )
    result = corrected(frame, dark=dark, gain=gain)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-3)


def test_a_reference_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gain reference must be \(12, 16\), is \(3, 3\)"):
        corrected(noise(), dark=None, gain=np.ones((3, 3), np.float32))


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.9))
def test_good_pixels_stay_and_bad_ones_lie_between_their_neighbours(
    seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.uniform(50, 150, (12, 16)).astype(np.float32)
    bad = rng.random(image.shape) < share
    bad[0, 0] = False
    spoilt = np.where(bad, np.float32(np.nan), image)
    result = filled(spoilt, filling=filling_of(bad))
    np.testing.assert_array_equal(result[~bad], image[~bad])
    assert np.all(np.isfinite(result))
    assert result.min() >= image[~bad].min() - 1e-3
    assert result.max() <= image[~bad].max() + 1e-3


def test_a_single_bad_pixel_takes_the_mean_of_its_eight_neighbours() -> None:
    image = np.arange(25, dtype=np.float32).reshape(5, 5) ** 2
    bad = np.zeros((5, 5), np.bool_)
    bad[2, 2] = True
    around = np.delete(image[1:4, 1:4].ravel(), 4)
    assert filled(image, filling=filling_of(bad))[2, 2] == pytest.approx(around.mean())


def test_the_gap_between_two_chips_is_bridged() -> None:
    image = np.tile(np.arange(16, dtype=np.float32)[:, None], (1, 16))
    bad = np.zeros(image.shape, np.bool_)
    bad[6:10] = True
    result = filled(np.where(bad, np.float32(65535), image), filling=filling_of(bad))
    assert np.all(np.diff(result[5:11, 8]) >= 0)


def test_a_hole_too_wide_takes_the_median() -> None:
    bad = np.ones((200, 200), np.bool_)
    bad[:, :10] = False
    image = np.full(bad.shape, 7, np.float32)
    np.testing.assert_allclose(filled(image * ~bad, filling=filling_of(bad)), 7, rtol=1e-6)


def test_binning_sums_squares() -> None:
    frame = noise()
    result = binned(frame, factor=4)
    assert result.shape == (3, 4)
    assert result[1, 2] == frame[4:8, 8:12].sum()
    assert binned(frame, factor=1).dtype == np.float32


def test_binning_must_divide_the_frame() -> None:
    with pytest.raises(ValueError, match="binning must divide 12 x 16, got 5"):
        binned(noise(), factor=5)
