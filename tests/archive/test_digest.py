import numpy as np
import pytest
import xxhash

from hrtem_stream.archive.digest import LEAST_BYTES, DigestState, absorb

STRIPE, BLOCK = 64, 1024


def digest_in_parts(data, *, size):
    state = DigestState()
    for first in range(0, data.size, size):
        part = data[first : first + size]
        absorb(part, first + size < data.size, state.sums, state.held, state.counts)
    return state.finish()


def random_bytes(n):
    return np.random.default_rng(n).integers(0, 256, n, dtype=np.uint8)


@pytest.mark.parametrize(
    "n",
    [
        *(LEAST_BYTES, LEAST_BYTES + 1, 300, BLOCK - 1, BLOCK, BLOCK + 1),
        *(BLOCK + STRIPE - 1, BLOCK + STRIPE, BLOCK + STRIPE + 1),
        *(2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 100_003),
    ],
)
def test_is_that_of_the_library_however_the_bytes_are_cut(n):
    data = random_bytes(n)
    expected = xxhash.xxh3_64_intdigest(data.data)
    for size in (7, STRIPE - 1, STRIPE, 500, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, n):
        assert digest_in_parts(data, size=size) == expected


def test_takes_parts_that_begin_anywhere_in_memory():
    data = random_bytes(10_001)[1:]
    assert digest_in_parts(data, size=3000) == xxhash.xxh3_64_intdigest(data.data)


def test_a_state_is_used_again():
    state = DigestState()
    for n in (5000, 1500):
        data = random_bytes(n)
        state.begin()
        absorb(data, False, state.sums, state.held, state.counts)
        assert state.finish() == xxhash.xxh3_64_intdigest(data.data)
        assert state.finish() == xxhash.xxh3_64_intdigest(data.data)


def test_refuses_what_has_another_algorithm():
    with pytest.raises(ValueError, match="at least, got 240"):
        digest_in_parts(random_bytes(LEAST_BYTES - 1), size=BLOCK)
