"""The pass over a frame against the same steps one after the other."""

import numpy as np
import pytest
import xxhash

from hrtem_stream.archive.bands import TILE_BYTES, BandPass
from hrtem_stream.archive.encoding import DTYPES
from hrtem_stream.science.run_length import flatten


def take(flat, start, length, *, flattens, band, n_planes):
    """Give planes of each band, means and digests."""
    planes = np.zeros((n_planes, flat.itemsize * band // n_planes), np.uint8)
    bands = BandPass(flat.dtype)
    bands.begin(flat, start=start, length=length, flatten=flattens)
    taken = []
    for first in range(0, flat.size, band):
        planes[:] = 0
        bands.take(first, min(first + band, flat.size), planes=planes)
        taken.append(planes.copy())
    return taken, bands.value, bands.digests()


def plain_planes(stored, *, band, n_planes):
    padded = np.zeros(-(-stored.size // band) * band, stored.dtype)
    padded[: stored.size] = stored
    for values in padded.reshape(-1, band):
        of_values = values.view(np.uint8).reshape(-1, n_planes if n_planes > 1 else 1)
        yield of_values.T


def random_runs(rng, n):
    edges = np.unique(rng.integers(0, n, 40))
    edges = edges[: edges.size // 2 * 2].reshape(-1, 2)
    return edges[:, 0].astype(np.uint32), np.diff(edges, axis=1)[:, 0].astype(np.uint32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("band", [700, 4096, 30_001])
def test_is_flattening_digesting_and_shuffling(dtype, band):
    rng = np.random.default_rng(band)
    flat = rng.integers(0, 100, 30_001).astype(dtype)
    start, length = random_runs(rng, flat.size)
    n_planes = flat.itemsize
    stored, value = flatten(flat, start=start, length=length)

    planes, means, digests = take(flat, start, length, flattens=True, band=band, n_planes=n_planes)
    np.testing.assert_array_equal(means, value)
    assert digests == tuple(xxhash.xxh3_64_intdigest(one.data) for one in (flat, stored))
    expected = plain_planes(stored, band=band, n_planes=n_planes)
    for one, other in zip(planes, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["<u2", "<f4"])
def test_keeps_pixels_that_are_not_to_be_flattened(dtype):
    rng = np.random.default_rng(0)
    flat = rng.integers(0, 1000, 20_000).astype(dtype)
    start, length = random_runs(rng, flat.size)
    planes, means, digests = take(flat, start, length, flattens=False, band=20_000, n_planes=1)
    np.testing.assert_array_equal(planes[0][0], flat.view(np.uint8))
    np.testing.assert_array_equal(means, flatten(flat, start=start, length=length)[1])
    assert digests == (xxhash.xxh3_64_intdigest(flat.data),) * 2


@pytest.mark.parametrize("n", [1, 120, 121, TILE_BYTES // 2, TILE_BYTES // 2 + 1])
def test_takes_a_frame_of_any_size_that_is_one_run(n):
    flat = np.random.default_rng(n).integers(0, 1000, n).astype(np.uint16)
    start, length = np.array([0], np.uint32), np.array([n], np.uint32)
    _, means, digests = take(flat, start, length, flattens=True, band=n, n_planes=2)
    stored, value = flatten(flat, start=start, length=length)
    np.testing.assert_array_equal(means, value)
    assert digests == tuple(xxhash.xxh3_64_intdigest(one.data) for one in (flat, stored))


def test_a_pass_is_used_for_one_frame_after_the_other():
    rng = np.random.default_rng(1)
    planes = np.zeros((2, 5000), np.uint8)
    bands = BandPass(np.dtype("<u2"))
    for n_runs in (1, 0, 1):
        flat = rng.integers(0, 1000, 5000).astype("<u2")
        start, length = np.array([10], np.uint32)[:n_runs], np.array([99], np.uint32)[:n_runs]
        bands.begin(flat, start=start, length=length, flatten=True)
        bands.take(0, 5000, planes=planes)
        stored, _ = flatten(flat, start=start, length=length)
        assert bands.digests() == tuple(xxhash.xxh3_64_intdigest(a.data) for a in (flat, stored))
