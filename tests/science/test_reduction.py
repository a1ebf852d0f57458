"""Reduction: area averages of any frame, against a plain NumPy reference; faults of frames."""

import numpy as np
import pytest

from hrtem_stream.science.reduction import check_frame, reduce_frame


def area_weights(n: int, p: int) -> np.ndarray:
    """Return (p, n) weights: the share of pixel j in working pixel i, rows summing to one."""
    edges = np.arange(p + 1) * n / p
    pixels = np.arange(n)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0.0, None) * p / n


def reduce_plainly(frame: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = (area_weights(n, p) for n, p in zip(frame.shape, shape, strict=True))
    return rows @ frame.astype(np.float64) @ columns.T


def counts(shape: tuple[int, int], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(shape[0])
    largest = 200 if dtype.endswith("1") else 60_000
    return rng.integers(0, largest, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "f2", "f4", "f8", ">u2", ">f4"])
@pytest.mark.parametrize("shape", [(256, 256), (1024, 512), (600, 1000), (100, 300), (257, 255)])
def test_working_pixels_are_area_averages(shape: tuple[int, int], dtype: str) -> None:
    frame = counts(shape, dtype)
    reduced = reduce_frame(frame)
    assert reduced.shape == (256, 256)
    assert reduced.dtype == np.float32
    assert np.allclose(reduced, reduce_plainly(frame, (256, 256)), rtol=1e-6)


@pytest.mark.parametrize("factors", [(3, 6), (5, 2), (8, 8), (4, 16), (1, 10)])
@pytest.mark.parametrize("first", [0, 1])
def test_pixels_of_16_bits_that_are_summed_two_by_two_are_exact(
    factors: tuple[int, int], first: int
) -> None:
    rows, columns = 16 * factors[0], 24 * factors[1]
    # From the second pixel on, no word of 32 bits lies where the processor expects it.
    pixels = np.random.default_rng(0).integers(0, 2**16, rows * columns + 1).astype(np.uint16)
    frame = pixels[first : first + rows * columns].reshape(rows, columns)
    sums = frame.astype(np.float64).reshape(16, factors[0], 24, factors[1]).sum(axis=(1, 3))
    plain = (sums * (1.0 / (factors[0] * factors[1]))).astype(np.float32)
    assert (reduce_frame(frame, shape=(16, 24)) == plain).all()


def test_a_large_frame_of_full_scale_does_not_overflow() -> None:
    for dtype in ("u1", "u2", "u4"):
        frame = np.full((8192, 256), np.iinfo(dtype).max, dtype)
        assert np.allclose(reduce_frame(frame), np.iinfo(dtype).max, rtol=1e-6)


@pytest.mark.parametrize("shape", [(256, 256), (511, 730), (64, 64), (90, 2048)])
def test_the_mean_is_kept(shape: tuple[int, int]) -> None:
    frame = counts(shape, "u2")
    assert reduce_frame(frame).mean(dtype=np.float64) == pytest.approx(frame.mean(), rel=1e-6)


def test_no_block_is_too_tall_for_its_sum() -> None:
    frame = np.full((32_772, 2), 65_535, np.uint16)
    assert reduce_frame(frame, shape=(1, 1)) == pytest.approx(65_535)


def test_a_frame_of_the_working_size_comes_through_unchanged() -> None:
    frame = counts((256, 256), "u2")
    assert (reduce_frame(frame) == frame).all()


def test_any_working_shape_can_be_asked_for() -> None:
    frame = counts((300, 500), "u2")
    expected = reduce_plainly(frame, (128, 160))
    assert np.allclose(reduce_frame(frame, shape=(128, 160)), expected, rtol=1e-6)


def test_a_view_that_is_not_contiguous_and_read_only_is_taken() -> None:
    frame = counts((512, 1024), "u2")[:, ::2]
    frame.flags.writeable = False
    assert np.allclose(reduce_frame(frame), reduce_plainly(frame, (256, 256)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(512, 512), (500, 300)])
def test_nan_and_infinity_come_through(shape: tuple[int, int]) -> None:
    for value in (np.nan, np.inf):
        frame = np.ones(shape, np.float32)
        frame[17, 33] = value
        assert not np.isfinite(reduce_frame(frame)).all()


def test_frames_that_cannot_be_reduced_are_refused() -> None:
    with pytest.raises(ValueError, match="frame must be a non-empty"):
        reduce_frame(np.zeros((0, 4), np.uint16))
    with pytest.raises(ValueError, match="unsigned integers or floats, got int16"):
        reduce_frame(np.zeros((4, 4), np.int16))
    with pytest.raises(ValueError, match="shape must be at least"):
        reduce_frame(np.zeros((4, 4), np.uint16), shape=(0, 4))


def test_an_ordinary_frame_has_no_fault() -> None:
    for dtype in ("u1", "u2", "u4", "f4", "f8"):
        assert check_frame(counts((512, 512), dtype)) == ""


@pytest.mark.parametrize("position", [(0, 0), (511, 511), (100, 257)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_not_finite_is_found(value: float, position: tuple[int, int]) -> None:
    frame = counts((512, 512), "f4")
    frame[position] = value
    assert "must be finite" in check_frame(frame)


def test_a_blank_and_a_constant_frame_are_told_apart() -> None:
    assert "got zero everywhere" in check_frame(np.zeros((300, 300), np.uint16))
    assert "got 7 everywhere" in check_frame(np.full((300, 300), 7, np.uint8))
    assert "got 1.5 everywhere" in check_frame(np.full((256, 256), 1.5, np.float64))


def test_one_count_keeps_a_frame_from_being_blank() -> None:
    frame = np.zeros((4096, 4096), np.uint16)
    frame[4000, 5] = 1
    assert check_frame(frame) == ""


def test_a_frame_at_full_scale_is_saturated() -> None:
    for dtype, level in (("u1", 255), ("u2", 65535), ("u2", 4095), ("u2", 16383)):
        frame = counts((512, 512), dtype) % level
        frame[:50] = level
        assert f"must not be saturated, got 10% of the pixels at {level}" in check_frame(frame)


def test_an_8_bit_image_that_clips_a_little_is_not_saturated() -> None:
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(128, 55, (256, 256)), 0, 255).astype(np.uint8)
    assert 0.005 < (image == 255).mean() < 0.02
    assert check_frame(image) == ""


def test_a_counting_frame_of_ones_and_zeros_is_not_saturated() -> None:
    frame = np.random.default_rng(0).integers(0, 2, (512, 512)).astype(np.uint8)
    assert check_frame(frame) == ""


def test_other_shapes_and_dtypes_are_faults() -> None:
    assert "non-empty (M, N) array" in check_frame(np.zeros(16, np.uint8))
    assert "unsigned integers or floats, got int32" in check_frame(np.zeros((4, 4), np.int32))


def test_the_fault_is_the_same_when_the_reduced_frame_is_at_hand() -> None:
    frame = np.full((512, 512), 3, np.uint16)
    assert check_frame(frame, reduced=reduce_frame(frame)) == check_frame(frame)
