import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.archive import zstd_frame
from hrtem_stream.archive.finite_state import state_table
from hrtem_stream.archive.prefix_code import MAX_BITS, code_lengths
from hrtem_stream.archive.zstd_frame import FrameCompressor

BLOCK = zstd_frame.BLOCK_BYTES


def compress(planes):
    """Compress (n_planes, n) bytes."""
    compressor = FrameCompressor(*planes.shape)
    compressor.planes[:, : planes.shape[1]] = planes
    return compressor.compress()


def planes_of(values):
    return np.ascontiguousarray(values.view(np.uint8).reshape(values.size, -1).T)


def flattened(rng, mean, *, size=1 << 19):
    """Give counts with runs, as a chunk of a flattened frame has them."""
    values = rng.poisson(mean, size).astype("<u2")
    for begin in rng.integers(0, size, size // 600):
        values[begin : begin + rng.integers(1, 400)] = rng.poisson(mean)
    return values


KINDS = {
    "noise": lambda rng, n: rng.integers(0, 256, n),
    "one value": lambda rng, n: np.full(n, rng.integers(0, 256)),
    "two values": lambda rng, n: rng.random(n) < 0.4,
    "few values": lambda rng, n: rng.poisson(2, n),
    "sixteen values": lambda rng, n: rng.integers(0, 16, n),
    "narrow": lambda rng, n: rng.poisson(20, n),
    "round the corner": lambda rng, n: rng.normal(256, 20, n).astype(int) & 255,
    "steep": lambda rng, n: (rng.exponential(3, n) ** 2.2).clip(0, 255),
    "rare": lambda rng, n: np.where(rng.random(n) < 1e-3, rng.integers(0, 256, n), 7),
    "runs": lambda rng, n: np.repeat(rng.integers(0, 256, n), rng.integers(1, 300, n))[:n],
}


@settings(deadline=None, max_examples=150)
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4),
    n=st.one_of(
        st.integers(1, 300), st.sampled_from((BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77))
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_decoder_gives_back_whatever_was_compressed(kinds, n, seed):
    rng = np.random.default_rng(seed)
    planes = np.stack([KINDS[kind](rng, n).astype(np.uint8) for kind in kinds])
    frame = compress(planes)
    assert zstandard.ZstdDecompressor().decompress(frame) == planes.tobytes()
    assert len(frame) <= planes.size + 3 * len(kinds) * (n // BLOCK + 1) + 9


def test_a_compressor_leaves_nothing_of_a_chunk_in_the_next():
    rng = np.random.default_rng(0)
    compressor = FrameCompressor(2, 5000)
    for mean in (300, 3, 20_000, 300):
        planes = planes_of(rng.poisson(mean, 5000).astype("<u2"))
        compressor.planes[:, :5000] = planes
        assert zstandard.ZstdDecompressor().decompress(compressor.compress()) == planes.tobytes()


@pytest.mark.parametrize("mean", [5, 50, 200, 500, 2000])
def test_counting_noise_takes_no_more_than_with_the_plain_compressor(mean):
    planes = planes_of(flattened(np.random.default_rng(1), mean))
    plain = zstandard.ZstdCompressor(level=1).compress(planes.tobytes())
    assert len(compress(planes)) < 1.01 * len(plain)


@pytest.mark.parametrize("mean", [50, 200])
def test_counting_noise_comes_within_two_per_cent_of_its_entropy(mean):
    values = np.random.default_rng(2).poisson(mean, 1 << 19).astype("<u2")
    share = np.bincount(values) / values.size
    entropy_bits = -np.sum(share[share > 0] * np.log2(share[share > 0]))
    assert 8 * len(compress(planes_of(values))) < 1.02 * entropy_bits * values.size


def test_a_hot_pixel_costs_next_to_nothing():
    values = np.random.default_rng(3).poisson(100, 1 << 19).astype("<u2")
    without = len(compress(planes_of(values)))
    values[::10_000] = 60_000
    assert len(compress(planes_of(values))) < 1.01 * without


@settings(deadline=None, max_examples=100)
@given(
    counts=st.lists(st.integers(0, 2**40), min_size=256, max_size=256),
    most=st.sampled_from((8, MAX_BITS)),
)
def test_code_lengths_fill_the_code_and_stay_below_their_limit(counts, most):
    counts[0], counts[255] = 1, 3
    lengths = np.empty(256, np.int64)
    longest = code_lengths(np.array(counts, np.int64), most, lengths)
    used = lengths[lengths > 0]
    assert used.size == np.count_nonzero(counts)
    assert longest == used.max() <= most
    assert np.sum(0.5**used) == 1.0


def test_shares_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="shares must add up to 32, got 31"):
        state_table((16, 15), accuracy=5)
