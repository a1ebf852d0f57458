import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hrtem_stream.science.run_length import (
    are_canonical,
    fill_runs,
    flatten,
    mask_of_runs,
    mean_of_runs,
    runs_of_mask,
)

DTYPES = ("u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8")

compiles = settings(deadline=None)  # the first call may compile

sides = st.integers(1, 20)
masks = st.tuples(sides, sides).flatmap(lambda shape: arrays(np.bool_, shape))
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def enlarged(mask, shape):
    """The plain version: every detector pixel looks up the mask pixel that it belongs to."""
    rows = (2 * np.arange(shape[0]) + 1) * mask.shape[0] // (2 * shape[0])
    columns = (2 * np.arange(shape[1]) + 1) * mask.shape[1] // (2 * shape[1])
    return mask[np.ix_(rows, columns)]


def plain_runs(full):
    edges = np.flatnonzero(np.diff(np.r_[0, full.ravel().astype(np.int8), 0]))
    return edges[::2], edges[1::2] - edges[::2]


@compiles
@given(mask=masks, shape=shapes)
def test_runs_are_those_of_the_enlarged_mask(mask, shape):
    start, length = runs_of_mask(mask, shape=shape)
    expected_start, expected_length = plain_runs(enlarged(mask, shape))
    assert start.dtype == length.dtype == np.uint32
    np.testing.assert_array_equal(start, expected_start)
    np.testing.assert_array_equal(length, expected_length)
    assert are_canonical(start, length=length, n_pixels=shape[0] * shape[1])


@pytest.mark.parametrize("shape", [(1024, 1024), (100, 77), (512, 700), (3, 300)])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_runs_of_a_wide_mask_are_those_of_the_enlarged_mask(share, shape):
    for width in (64, 255, 256, 257):
        mask = np.random.default_rng(width).random((64, width)) < share
        start, length = runs_of_mask(mask, shape=shape)
        expected_start, expected_length = plain_runs(enlarged(mask, shape))
        np.testing.assert_array_equal(start, expected_start)
        np.testing.assert_array_equal(length, expected_length)


@compiles
@given(mask=masks, shape=shapes)
def test_the_mask_comes_back_from_its_runs(mask, shape):
    start, length = runs_of_mask(mask, shape=shape)
    np.testing.assert_array_equal(
        mask_of_runs(start, length=length, shape=shape), enlarged(mask, shape)
    )


@compiles
@given(mask=masks, shape=shapes, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**32 - 1))
def test_flattening_keeps_the_pixels_outside_the_runs_and_repeats_one_value_within(
    mask, shape, dtype, seed
):
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 1000, shape).astype(dtype)
    pixels.flags.writeable = False
    start, length = runs_of_mask(mask, shape=shape)
    flat, value = flatten(pixels, start=start, length=length)
    full = enlarged(mask, shape)
    assert flat.dtype == value.dtype == pixels.dtype
    np.testing.assert_array_equal(flat[~full], pixels[~full])
    np.testing.assert_array_equal(flat.ravel()[full.ravel()], np.repeat(value, length))


@compiles
@given(
    dtype=st.sampled_from(("u1", "u2", "u4", "i1", "i2", "i4")),
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 50),
)
def test_the_value_of_integers_is_the_mean_rounded_halves_upwards(dtype, seed, n):
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(limits.min, limits.max, n, dtype=dtype, endpoint=True)
    value = mean_of_runs(pixels, start=np.zeros(1, "u4"), length=np.array([n], "u4"))
    total = sum(int(pixel) for pixel in pixels)
    assert int(value[0]) == (2 * total + n) // (2 * n)


def test_the_value_of_floats_is_the_mean_summed_in_double_precision():
    pixels = np.full(100_001, 0.1, np.float32)
    value = mean_of_runs(pixels, start=np.zeros(1, "u4"), length=np.array([100_001], "u4"))
    assert value.dtype == np.float32
    assert value[0] == np.float32(0.1)


def test_a_run_with_nan_has_the_value_nan():
    pixels = np.array([1.0, np.nan, 3.0])
    value = mean_of_runs(pixels, start=np.array([0, 2], "u4"), length=np.array([2, 1], "u4"))
    assert np.isnan(value[0])
    assert value[1] == 3.0


def test_a_mask_without_amorphous_pixels_has_no_runs():
    start, length = runs_of_mask(np.zeros((4, 4), bool), shape=(100, 100))
    assert start.size == length.size == 0


def test_a_mask_that_is_amorphous_everywhere_is_one_run():
    start, length = runs_of_mask(np.ones((4, 4), bool), shape=(101, 99))
    assert start.tolist() == [0]
    assert length.tolist() == [101 * 99]


def test_a_run_goes_on_over_the_end_of_a_row():
    mask = np.array([[False, True], [True, False]])
    start, length = runs_of_mask(mask, shape=(2, 2))
    assert (start.tolist(), length.tolist()) == ([1], [2])


def test_filling_a_frame_stretch_by_stretch_is_filling_it_at_once():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, (37, 23))
    start, length = runs_of_mask(rng.random((9, 9)) < 0.6, shape=pixels.shape)
    flat, value = flatten(pixels, start=start, length=length)
    out, first = pixels.ravel().copy(), 0
    for origin in range(0, out.size, 50):
        first = fill_runs(
            out[origin : origin + 50],
            start=start,
            length=length,
            value=value,
            origin=origin,
            first=first,
        )
    np.testing.assert_array_equal(out, flat.ravel())


@pytest.mark.parametrize(
    ("start", "length"),
    [([0, 2], [2, 1]), ([3, 0], [1, 1]), ([0], [0]), ([9], [2]), ([0, 1], [2, 1]), ([0], [1, 1])],
)
def test_runs_that_touch_overlap_are_out_of_order_empty_or_outside_are_not_canonical(start, length):
    assert not are_canonical(np.array(start, "u4"), length=np.array(length, "u4"), n_pixels=10)


@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4)), np.zeros(4, bool), np.zeros((0, 4), bool), np.zeros((1, 2, 2), bool)]
)
def test_what_is_not_a_mask_is_refused(mask):
    with pytest.raises(ValueError, match="mask must be"):
        runs_of_mask(mask, shape=(8, 8))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2**16, 2**16)])
def test_a_frame_without_pixels_or_with_too_many_to_count_is_refused(shape):
    with pytest.raises(ValueError, match="shape must have"):
        runs_of_mask(np.ones((2, 2), bool), shape=shape)


def test_a_run_that_leaves_the_frame_is_refused():
    with pytest.raises(ValueError, match="leaves the frame"):
        mask_of_runs(np.array([3], "u4"), length=np.array([2], "u4"), shape=(2, 2))
    with pytest.raises(ValueError, match="leaves the frame"):
        mean_of_runs(np.zeros((2, 2)), start=np.array([2**32 - 1], "u4"), length=np.ones(1, "u4"))
