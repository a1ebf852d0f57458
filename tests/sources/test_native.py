from __future__ import annotations

import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import (
    Calibration,
    FeedFrame,
    FeedItem,
    FeedPosition,
    FeedReject,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.series_name import series_name_fault
from hrtem_stream.simulators.native import NativeSender, encode_end, encode_frame, encode_start
from hrtem_stream.sources.native import NativeSource
from hrtem_stream.sources.native_wire import REJECT_REASONS, FeedLimits, decode_feed_message
from tests.hostile_wire import FAULTY, ODD_NAMES, REJECTED

LIMITS = FeedLimits()
DTYPES = ["|u1", "<u2", ">u2", "<u4", ">u4", "<i2", ">i2", "<i4", ">i4", "<f4", ">f4", "<f8", ">f8"]


def decode(parts: list[Any], limits: FeedLimits = LIMITS) -> FeedItem:
    return decode_feed_message(parts, limits=limits)


def decode_frame(parts: list[Any], limits: FeedLimits = LIMITS) -> FeedFrame:
    item = decode(parts, limits)
    assert isinstance(item, FeedFrame)
    return item


@pytest.mark.parametrize("code", DTYPES)
def test_a_frame_arrives_as_it_was_sent_in_little_endian(code: str) -> None:
    image = np.arange(20 * 30).reshape(20, 30).astype(code)
    frame = decode_frame(
        encode_frame("S1", sequence=7, image=image, name="a", acquired_ns=5)  # type: ignore[arg-type]
    )
    assert (frame.sequence, frame.name, frame.acquired_ns, frame.series) == (7, "a", 5, "S1")
    assert frame.fault == ""
    assert frame.pixels.dtype.str == code.replace(">", "<")
    assert not frame.pixels.flags.writeable
    np.testing.assert_array_equal(frame.pixels, image)


def test_pixels_are_a_view_of_what_was_received() -> None:
    header, pixels = encode_frame("S1", sequence=0, image=np.ones((4, 4), np.uint16))
    frame = decode_frame([header, pixels])
    assert np.shares_memory(frame.pixels, np.frombuffer(pixels, np.uint8))


def test_a_dtype_may_be_given_by_its_name() -> None:
    header = {"version": 1, "type": "frame", "series": "S1", "sequence": 0, "shape": [1, 2]}
    frame = decode_frame([msgpack.packb(header | {"dtype": "uint16"}), bytes(4)])
    assert frame.pixels.dtype.str == "<u2"


def test_a_start_carries_its_calibration() -> None:
    (part,) = encode_start(
        "S1",
        n_frames=9,
        pixel_size_nm=0.02,
        exposure_s=1,
        dose_e_per_nm2=1e5,
        voltage_kv=80,
        metadata={"operator": "A\x1bB", "tilt": 1.5},
    )
    assert decode([part]) == SeriesStart(
        series="S1",
        n_expected=9,
        feed="native",
        calibration=Calibration(
            pixel_size_nm=0.02, exposure_s=1.0, dose_e_per_nm2=1e5, voltage_kv=80.0
        ),
        metadata={"operator": "A\ufffdB", "tilt": "1.5"},
    )


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "0.02", True, [1]])
def test_a_calibration_that_makes_no_sense_is_noted_and_left_out(value: Any) -> None:
    item = decode(list(encode_start("S1", pixel_size_nm=value)))
    assert isinstance(item, SeriesStart)
    assert item.calibration == Calibration()
    assert item.metadata == {"ignored_pixel_size_nm": str(value)}


def test_an_end_carries_the_count() -> None:
    assert decode(list(encode_end("S1", n_frames=4))) == SeriesEnd(series="S1", n_frames=4)
    assert decode(list(encode_end("S1", n_frames=None))) == SeriesEnd(series="S1", n_frames=None)


@pytest.mark.parametrize("name", REJECTED)
def test_a_message_that_cannot_be_understood_is_rejected(name: str) -> None:
    reason, parts = REJECTED[name]
    item = decode(list(parts))
    assert isinstance(item, FeedReject), item
    assert item.reason == reason
    assert item.reason in REJECT_REASONS
    assert 0 < len(item.message) < 500
    assert item.message.isascii()
    assert item.message.isprintable()


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=list(ODD_NAMES))
def test_a_series_whose_name_may_not_be_kept_is_mended_and_not_refused(name: str) -> None:
    start = decode(list(encode_start(name)))
    frame = decode_frame(encode_frame(name, sequence=0, image=np.ones((2, 2), np.uint16)))
    end = decode(list(encode_end(name, n_frames=1)))
    assert isinstance(start, SeriesStart)
    assert isinstance(end, SeriesEnd)
    assert not series_name_fault(start.series)
    assert start.series == frame.series == end.series
    assert start.metadata["name_at_the_feed"].isprintable()


def test_names_that_are_mended_stay_different() -> None:
    items = [decode(list(encode_start(name))) for name in ("a/b", "a:b", "a_b")]
    assert len({item.series for item in items if isinstance(item, SeriesStart)}) == 3


def test_a_series_need_not_have_a_name() -> None:
    header = {"version": 1, "type": "frame", "sequence": 0, "shape": [1, 2], "dtype": "<u2"}
    assert decode_frame([msgpack.packb(header), bytes(4)]).series == ""
    for kind in ("start", "end"):
        for fields in ({}, {"series": None}, {"series": ""}):
            item = decode([msgpack.packb({"version": 1, "type": kind, **fields})])
            assert isinstance(item, SeriesStart | SeriesEnd)
            assert item.series == ""


@pytest.mark.parametrize("name", FAULTY)
def test_a_frame_whose_pixels_cannot_be_read_keeps_its_bytes(name: str) -> None:
    parts = FAULTY[name]
    frame = decode_frame(list(parts))
    assert frame.sequence == 3
    assert 0 < len(frame.fault) < 300
    assert frame.pixels.dtype == np.uint8
    assert frame.pixels.tobytes() == parts[1]
    assert not frame.pixels.flags.writeable


def test_a_wrong_length_is_told_with_both_lengths() -> None:
    header, _ = encode_frame("S1", sequence=0, image=np.ones((10, 10), np.uint16))
    assert decode_frame([header, bytes(100)]).fault == (
        "payload has 100 bytes, shape (10, 10) of <u2 needs 200"
    )


def test_a_frame_above_the_limit_is_rejected() -> None:
    parts: list[Any] = encode_frame("S1", sequence=0, image=np.ones((10, 10), np.uint16))
    limits = FeedLimits(max_frame_bytes=199)
    item = decode(parts, limits)
    assert isinstance(item, FeedReject)
    assert item.reason == "frame_too_large"


def test_metadata_nested_without_end_is_only_text() -> None:
    head = b"\x84\xa7version\x01\xa4type\xa5start\xa6series\xa1a\xa8metadata\x81\xa1k"
    item = decode([head + b"\x91" * 400 + b"\xc0"])
    assert isinstance(item, SeriesStart)
    assert item.metadata["k"].startswith("[[[")


_scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
_values = st.recursive(
    _scalars | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
_keys = st.sampled_from(
    ["series", "sequence", "shape", "dtype", "n_frames", "metadata", "name", "acquired_ns"]
)


@given(
    kind=st.sampled_from(["start", "frame", "end"]),
    fields=st.dictionaries(_keys | st.text(max_size=5), _values, max_size=6),
    payload=st.none() | st.binary(max_size=200),
)
def test_no_header_whatever_raises(
    kind: str, fields: dict[str, Any], payload: bytes | None
) -> None:
    fields.setdefault("series", "S1")
    fields.setdefault("sequence", 0)
    header = msgpack.packb(fields | {"version": 1, "type": kind}, unicode_errors="surrogatepass")
    item = decode([header] if payload is None else [header, payload])
    assert isinstance(item, SeriesStart | SeriesEnd | FeedFrame | FeedReject)


@given(st.lists(st.binary(max_size=300), max_size=3))
def test_no_bytes_whatever_raise(parts: list[bytes]) -> None:
    assert isinstance(decode(list(parts)), SeriesStart | SeriesEnd | FeedFrame | FeedReject)


@given(
    place=st.integers(0, 200),
    byte=st.integers(0, 255),
    sides=st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_one_changed_byte_never_raises(place: int, byte: int, sides: tuple[int, int]) -> None:
    header, pixels = encode_frame("S1", sequence=0, image=np.zeros(sides, np.uint16))
    changed = bytearray(header)
    changed[place % len(changed)] = byte
    item = decode([bytes(changed), pixels])
    assert isinstance(item, FeedFrame | FeedReject)


def test_the_hostile_corpus_allocates_next_to_nothing() -> None:
    messages = [parts for _, parts in REJECTED.values()] + list(FAULTY.values())
    tracemalloc.start()
    try:
        for parts in messages:
            decode(list(parts))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


@pytest.fixture
def endpoint() -> Iterator[str]:
    # Not below tmp_path: socket paths have at most 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        yield f"ipc://{folder}/feed"


def drain(source: NativeSource, n_items: int) -> list[FeedItem]:
    items = []
    while len(items) < n_items:
        item = source.receive(10)
        assert item is not None
        items.append(item)
    return items


def test_a_series_comes_over_a_push_socket(endpoint: str) -> None:
    images = [np.full((64, 32), n, np.uint16) for n in range(5)]
    source = NativeSource(endpoint)
    source.open(None)
    try:
        with NativeSender(endpoint) as sender:
            sender.send_series("S1", images)
            items = drain(source, 7)
    finally:
        source.close()
    assert source.can_wait
    assert isinstance(items[0], SeriesStart)
    assert items[6] == SeriesEnd(series="S1", n_frames=5)
    for n, frame in enumerate(items[1:6]):
        assert isinstance(frame, FeedFrame)
        assert (frame.sequence, frame.fault) == (n, "")
        np.testing.assert_array_equal(frame.pixels, images[n])
        assert not frame.pixels.flags.writeable


def test_a_push_feed_holds_frames_back_while_we_do_not_take_them(endpoint: str) -> None:
    images = [np.full((256, 256), n, np.uint16) for n in range(300)]
    with NativeSender(endpoint, n_buffered=2) as sender:
        sending = threading.Thread(target=sender.send_series, args=("S1", images), daemon=True)
        sending.start()
        source = NativeSource(endpoint, n_buffered=2)
        source.open(FeedPosition(series="S1", next_sequence=0))
        items = drain(source, 1)
        sending.join(0.3)
        assert sending.is_alive()
        items += drain(source, 301)
        sending.join(10)
        source.close()
    frames = [item for item in items if isinstance(item, FeedFrame)]
    assert [frame.sequence for frame in frames] == list(range(300))


def test_a_feed_may_connect_and_publish(endpoint: str) -> None:
    source = NativeSource(endpoint, pattern="pub", bind=True)
    assert not source.can_wait
    source.open(None)
    try:
        with NativeSender(endpoint, pattern="pub", bind=False) as sender:
            item = None
            while item is None:
                sender.send(encode_end("S1", n_frames=0))
                item = source.receive(0.02)
    finally:
        source.close()
    assert item == SeriesEnd(series="S1", n_frames=0)


def test_hostile_messages_do_not_stop_what_follows(endpoint: str) -> None:
    hostile = [parts for _, parts in REJECTED.values() if parts]
    source = NativeSource(endpoint)
    source.open(None)
    try:
        with NativeSender(endpoint) as sender:
            for parts in hostile:
                sender.send(parts)
            sender.send([b"x"] * 50)
            sender.send(encode_end("S1", n_frames=1))
            items = drain(source, len(hostile) + 2)
    finally:
        source.close()
    assert all(isinstance(item, FeedReject) for item in items[:-1])
    assert items[-1] == SeriesEnd(series="S1", n_frames=1)


def test_a_part_beyond_any_limit_is_told_and_the_feed_goes_on(endpoint: str) -> None:
    source = NativeSource(endpoint, limits=FeedLimits(max_frame_bytes=1000))
    source.open(None)
    with NativeSender(endpoint) as sender:
        sender.send(encode_end("S1", n_frames=1))
        assert source.receive(10) == SeriesEnd(series="S1", n_frames=1)
        assert source.receive(0.01) is None
        assert source.is_connected
        sender.send([b"x", bytes(1_000_000)])
        item = None
        while item is None:
            item = source.receive(0.05)
        assert isinstance(item, FeedReject)
        assert item.reason == "connection_broken"
        sender.send(encode_end("S1", n_frames=2))
        assert source.receive(10) == SeriesEnd(series="S1", n_frames=2)
    source.close()


def test_a_feed_that_comes_back_is_no_broken_connection(endpoint: str) -> None:
    source = NativeSource(endpoint)
    source.open(None)
    for n in range(3):
        with NativeSender(endpoint) as sender:
            sender.send(encode_end("S1", n_frames=n))
            assert source.receive(10) == SeriesEnd(series="S1", n_frames=n)
        assert source.receive(0.3) is None
        assert source.receive(0.4) is None
        assert not source.is_connected
    source.close()


def test_silence_is_none_and_in_time() -> None:
    source = NativeSource("tcp://127.0.0.1:*", bind=True)
    source.open(None)
    assert source.receive(0) is None
    assert source.receive(0.01) is None
    source.close()
    source.close()


@pytest.mark.parametrize("bind", [True, False])
def test_an_endpoint_that_is_none_is_a_feed_error(bind: bool) -> None:
    source = NativeSource("tcp//nowhere", bind=bind)
    try:
        with pytest.raises(FeedError, match="tcp//nowhere"):
            source.open(None)
    finally:
        source.close()


@pytest.mark.slow
def test_a_feed_that_is_made_to_wait_for_long_loses_nothing() -> None:
    """ZeroMQ's heartbeats would end the connection after ten seconds: nobody reads the answers."""
    n_frames = 400
    image = np.zeros((512, 512), np.uint16)
    with NativeSender("tcp://127.0.0.1:*", n_buffered=16) as sender:
        source = NativeSource(sender.endpoint)
        source.open(None)
        thread = threading.Thread(
            target=lambda: [
                sender.send(encode_frame("s", sequence=n, image=image)) for n in range(n_frames)
            ]
        )
        thread.start()
        time.sleep(13.0)
        sequences = []
        while (item := source.receive(3.0)) is not None:
            assert isinstance(item, FeedFrame)
            sequences.append(item.sequence)
        thread.join()
        source.close()
    assert sequences == list(range(n_frames))
