import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.archive import encoding
from hrtem_stream.archive.codec import decode_chunk, filters_of
from hrtem_stream.archive.encoding import DTYPES, FrameEncoder, chunk_shape, set_aside
from hrtem_stream.errors import ArchiveError
from hrtem_stream.science.run_length import flatten, runs_of_mask

CODECS = ("deflate", "zstd", "none")


def decoded(encoded, encoder):
    """Put a frame together from its chunks."""
    frame = np.zeros(encoder.shape, encoder.dtype)
    rows, N = encoder.chunk_shape
    for chunk in encoded.chunks:
        band = decode_chunk(
            chunk.payload,
            filter_mask=chunk.filter_mask,
            filters=filters_of(encoder.codec, encoder.dtype),
            dtype=encoder.dtype,
            n_values=rows * N,
        ).reshape(rows, N)
        top = chunk.corner[0]
        frame[top : top + rows] = band[: encoder.shape[0] - top]
    return frame


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(DTYPES),
    codec=st.sampled_from(CODECS),
    keep=st.sampled_from(("graphene", "all")),
    band_bytes=st.sampled_from((1, 100, 1 << 20)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_frame_comes_back_flattened_and_its_digests_are_those_of_the_plain_version(
    shape, dtype, codec, keep, band_bytes, seed
):
    rng = np.random.default_rng(seed)
    pixels = rng.normal(50, 20, shape).astype(dtype)
    pixels.flags.writeable = False
    amorphous = rng.random((7, 9)) < rng.random()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "BAND_BYTES", band_bytes)
        encoder = FrameEncoder(shape, dtype=dtype, codec=codec, keep=keep)
    encoded = encoder.encode(pixels, amorphous)
    start, length = runs_of_mask(amorphous, shape=shape)
    flat, value = flatten(pixels, start=start, length=length)
    stored = flat if keep == "graphene" else pixels
    assert decoded(encoded, encoder).tobytes() == stored.tobytes()
    np.testing.assert_array_equal(encoded.start, start)
    np.testing.assert_array_equal(encoded.length, length)
    assert encoded.value.tobytes() == value.tobytes()
    assert encoded.digest == xxhash.xxh3_64_intdigest(pixels.tobytes())
    assert encoded.stored_digest == xxhash.xxh3_64_intdigest(stored.tobytes())
    assert encoded.raw_bytes == pixels.nbytes
    assert encoded.stored_bytes == sum(len(chunk.payload) for chunk in encoded.chunks)


def test_a_frame_as_received_has_no_runs_and_keeps_nan():
    pixels = np.array([[np.nan, 1.0], [np.inf, -0.0]], np.float32)
    encoder = FrameEncoder((2, 2), dtype="<f4")
    encoded = encoder.encode_as_received(pixels)
    assert encoded.start.size == encoded.length.size == encoded.value.size == 0
    assert encoded.digest == encoded.stored_digest
    assert decoded(encoded, encoder).tobytes() == pixels.tobytes()


@pytest.mark.parametrize("codec", ["deflate", "zstd"])
def test_flattened_counting_noise_is_stored_in_less_than_a_third(codec):
    pixels = np.random.default_rng(0).poisson(200, (512, 512)).astype("<u2")
    amorphous = np.zeros((16, 16), bool)
    amorphous[:, :5] = True
    encoded = FrameEncoder(pixels.shape, dtype="<u2", codec=codec).encode(pixels, amorphous)
    assert encoded.stored_bytes * 3 < encoded.raw_bytes


@pytest.mark.parametrize("codec", ["deflate", "zstd"])
def test_what_does_not_compress_is_stored_uncompressed(codec):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    encoder = FrameEncoder(pixels.shape, dtype="|u1", codec=codec)
    encoded = encoder.encode_as_received(pixels)
    assert encoded.stored_bytes == encoded.raw_bytes
    np.testing.assert_array_equal(decoded(encoded, encoder), pixels)


def test_many_threads_may_encode_at_once():
    encoder = FrameEncoder((64, 64), dtype="<u2")
    frames = [np.random.default_rng(i).poisson(100, (64, 64)).astype("<u2") for i in range(40)]
    masks = [np.random.default_rng(i).random((8, 8)) < 0.5 for i in range(40)]
    expected = [
        encoder.encode(frame, mask).stored_digest for frame, mask in zip(frames, masks, strict=True)
    ]
    found = [0] * 40

    def work(first):
        for i in range(first, 40, 4):
            found[i] = encoder.encode(frames[i], masks[i]).stored_digest

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_frame_in_column_order_or_with_gaps_is_encoded_alike():
    pixels = np.random.default_rng(0).poisson(100, (32, 48)).astype("<u2")
    encoder = FrameEncoder((32, 48), dtype="<u2")
    plain = encoder.encode_as_received(pixels)
    assert encoder.encode_as_received(np.asfortranarray(pixels)).chunks == plain.chunks
    wide = np.zeros((32, 96), "<u2")
    wide[:, ::2] = pixels
    assert encoder.encode_as_received(wide[:, ::2]).chunks == plain.chunks


@pytest.mark.parametrize("shape", [(1, 1), (2048, 2048), (8192, 8192), (1000, 777), (3, 65535)])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f8"])
def test_bands_are_whole_rows_within_the_limit_and_leave_little_empty(shape, dtype):
    rows, N = chunk_shape(shape, dtype=np.dtype(dtype))
    assert shape[1] == N
    assert rows == 1 or rows * N * np.dtype(dtype).itemsize <= encoding.BAND_BYTES
    n_bands = -(-shape[0] // rows)
    assert n_bands * rows - shape[0] < n_bands


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"shape": (0, 4)}, "shape must be"),
        ({"shape": (4, 70_000)}, "shape must be"),
        ({"shape": (65_535, 65_535 + 1)}, "shape must be"),
        ({"dtype": ">u2"}, "dtype must be"),
        ({"dtype": "c8"}, "dtype must be"),
        ({"dtype": "i8"}, "dtype must be"),
        ({"dtype": "nonsense"}, "dtype must be"),
        ({"codec": "lzma"}, "codec must be"),
        ({"keep": "some"}, "keep must be"),
    ],
)
def test_what_an_archive_cannot_hold_is_refused(arguments, match):
    arguments = {"shape": (4, 4), "dtype": "<u2"} | arguments
    with pytest.raises(ValueError, match=match):
        FrameEncoder(arguments.pop("shape"), **arguments)


def test_a_frame_of_another_shape_or_dtype_is_refused():
    encoder = FrameEncoder((4, 4), dtype="<u2")
    for pixels in (np.zeros((4, 5), "<u2"), np.zeros((4, 4), "<i2"), np.zeros((4, 4), ">u2")):
        with pytest.raises(ValueError, match="frame must be"):
            encoder.encode(pixels, np.zeros((2, 2), bool))


def test_a_frame_set_aside_keeps_bytes_and_reason():
    aside = set_aside(
        np.arange(6, dtype="<u2").reshape(2, 3), shape=(2, 3), dtype="<u2", reason="x"
    )
    assert aside.payload == np.arange(6, dtype="<u2").tobytes()
    assert aside == set_aside(aside.payload, shape=(2, 3), dtype="<u2", reason="x")


@pytest.mark.parametrize("codec", ["deflate", "zstd"])
@given(payload=st.binary(max_size=100))
@settings(deadline=None)
def test_a_damaged_chunk_is_an_archive_error(codec, payload):
    dtype = np.dtype("<u2")
    with pytest.raises(ArchiveError):
        decode_chunk(
            payload, filter_mask=0, filters=filters_of(codec, dtype), dtype=dtype, n_values=1000
        )


def test_an_unknown_filter_is_an_archive_error():
    with pytest.raises(ArchiveError, match="number 32008"):
        decode_chunk(b"", filter_mask=0, filters=(32008,), dtype=np.dtype("u1"), n_values=1)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_encodes_the_same_with_a_helper_even_where_it_is_called_by_its_only_thread(n_threads):
    rng = np.random.default_rng(3)
    pixels = rng.poisson(300, (1500, 2048)).astype("<u2")
    amorphous = rng.random((64, 64)) < 0.3
    encoder = FrameEncoder(pixels.shape, dtype="<u2", codec="zstd")
    expected = encoder.encode(pixels, amorphous)
    assert len(expected.chunks) > 3
    with ThreadPoolExecutor(n_threads) as threads:
        for _ in range(3):
            encoding = threads.submit(encoder.encode, pixels, amorphous, helper=threads)
            encoded = encoding.result(timeout=60)
            assert encoded.chunks == expected.chunks
            assert encoded.digest == expected.digest
            assert encoded.stored_digest == expected.stored_digest


def test_a_helper_that_takes_no_work_is_done_without():
    pixels = np.random.default_rng(3).poisson(300, (1024, 1024)).astype("<u2")
    encoder = FrameEncoder(pixels.shape, dtype="<u2", codec="zstd")
    busy, free = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: (busy.set(), free.wait(60)))
        busy.wait(60)
        encoded = encoder.encode(pixels, np.zeros((8, 8), np.bool_), helper=threads)
        free.set()
    assert encoded.chunks == encoder.encode(pixels, np.zeros((8, 8), np.bool_)).chunks
