from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.errors import SettingsError, WireError
from hrtem_stream.messages import (
    FeedFrame,
    FeedItem,
    FeedPosition,
    FeedReject,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.simulators.merlin import (
    Depth,
    MerlinSender,
    acquisition_header,
    frame,
    message,
    pack_raw,
)
from hrtem_stream.simulators.programme import Programme, play
from hrtem_stream.sources.merlin import MerlinSource
from hrtem_stream.sources.merlin_framing import Framing
from hrtem_stream.sources.merlin_wire import (
    REJECT_REASONS,
    AcquisitionHeader,
    MerlinFrame,
    decode_payload,
)
from hrtem_stream.sources.native_wire import FeedLimits
from hrtem_stream.sources.tcp_address import tcp_address
from tests.sources.series_account import account_for

LIMITS = FeedLimits(max_frame_bytes=1 << 20)
IMAGES = [np.random.default_rng(n).integers(0, 60, (64, 128)).astype(np.uint16) for n in range(4)]


def decode(payload: bytes, limits: FeedLimits = LIMITS) -> Any:
    return decode_payload(memoryview(payload), limits=limits)


@pytest.mark.parametrize(
    ("depth", "largest", "code"),
    [
        ("U08", 255, "|u1"), ("U16", 65535, "<u2"), ("U32", 2**32 - 1, "<u4"),
        ("R1", 1, "|u1"), ("R6", 63, "|u1"), ("R12", 4095, "<u2"), ("R24", 2**24 - 1, "<u4"),
    ],
)  # fmt: skip
def test_every_depth_arrives_as_it_was_counted(depth: Depth, largest: int, code: str) -> None:
    image = np.random.default_rng(0).integers(0, largest, (64, 128), np.uint64, endpoint=True)
    found = decode(frame(image, sequence=7, depth=depth))
    assert isinstance(found, MerlinFrame)
    assert found.sequence == 6
    assert found.pixels.fault == ""
    assert found.pixels.pixels.dtype.str == code
    np.testing.assert_array_equal(found.pixels.pixels, image)


def test_the_words_of_raw_pixels_hold_the_last_pixel_first() -> None:
    image = np.zeros((1, 64), np.uint16)
    image[0, 0] = 1
    assert pack_raw(image, "R1") == bytes(7) + b"\x01"
    assert pack_raw(image, "R6")[:8] == bytes(7) + b"\x01"
    assert pack_raw(image, "R12")[:8] == bytes(7) + b"\x01"


def test_pixels_that_do_not_fill_their_words_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        pack_raw(np.zeros((10, 10), np.uint16), "R1")


@pytest.mark.parametrize("depth", ["R1", "R6", "R12"])
def test_four_chips_are_laid_out_in_a_square(depth: Depth) -> None:
    square = np.random.default_rng(1).integers(0, 2, (128, 128)).astype(np.uint16)
    upper, lower = square[:64], square[64:][::-1, ::-1]
    # As they are read out: lower right, lower left (both upside down), upper right, upper left.
    strip = np.hstack([lower[:, :64], lower[:, 64:], upper[:, 64:], upper[:, :64]])
    payload = frame(strip, sequence=1, depth=depth).replace(b",01,0256,", b",04,0256,", 1)
    found = decode(payload.replace(b"   1x1", b"   2x2", 1))
    assert found.pixels.fault == ""
    np.testing.assert_array_equal(found.pixels.pixels, square)


def test_times_and_exposure_are_read() -> None:
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
    found = decode(frame(IMAGES[0], sequence=1, exposure_s=0.0025, acquired=moment))
    assert found.acquired_ns == 1767323045678901000
    assert found.exposure_s == 0.0025


def test_a_time_without_a_zone_is_local() -> None:
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678901).astimezone()
    payload = frame(IMAGES[0], sequence=1, acquired=moment).replace(b"MQ1A", b"MQ1X")
    assert decode(payload).acquired_ns == round(moment.timestamp() * 1e6) * 1000


def test_the_header_of_an_acquisition_is_read() -> None:
    found = decode(acquisition_header(n_frames=12, depth=6))
    assert isinstance(found, AcquisitionHeader)
    assert found.n_frames == 12
    assert found.metadata["Counter Depth (number)"] == "6"
    assert found.metadata["Sensor Bias (V)"] == "120 V"
    assert decode(acquisition_header(n_frames=0, depth=6)).n_frames is None
    assert decode(b"HDR,\t\nFrames in Acquisition (Number):\tmany\nEnd\t").n_frames is None


GOOD = frame(IMAGES[0], sequence=3)
RAW = GOOD.replace(b",U16,", b",R64,")
FOUR = RAW.replace(b"1x1", b"2x2").replace(b"384,01", b"384,04")
FAULTY: dict[str, Callable[[bytes], bytes]] = {
    "pixels that are missing": lambda payload: payload[:-1],
    "pixels too many": lambda payload: payload + b"\0",
    "no pixels": lambda payload: payload[:384],
    "a header that is cut": lambda payload: payload[:30],
    "few fields": lambda payload: b"MQ1,000003,",
    "a header beyond the message": lambda payload: payload.replace(b"00384", b"99999"),
    "a header of nothing": lambda payload: payload.replace(b"00384", b"00000"),
    "no width": lambda payload: payload.replace(b",0128,", b",0000,"),
    "a width beyond bounds": lambda payload: payload.replace(b",0128,", b",99999999,"),
    "a width that is no number": lambda payload: payload.replace(b",0128,", b",-128,"),
    "a frame beyond bounds": lambda payload: payload.replace(b",0128,0064,", b",9999,9999,"),
    "an unknown type": lambda payload: payload.replace(b",U16,", b",F32,"),
    "raw pixels of 7 bits": lambda payload: RAW.replace(b"ns,12,", b"ns,7,"),
    "raw pixels of too few bytes": lambda payload: RAW[:-8],
    "a square of four that is none": lambda payload: FOUR,
    "three chips": lambda payload: RAW.replace(b"384,01", b"384,03"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_a_frame_that_cannot_be_read_keeps_its_bytes(name: str) -> None:
    payload = FAULTY[name](GOOD)
    found = decode(payload)
    assert isinstance(found, MerlinFrame)
    assert found.sequence == 2
    assert 0 < len(found.pixels.fault) < 300
    assert found.pixels.fault.isprintable()
    assert found.pixels.pixels.tobytes() == payload


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "unknown_type"), (b"\xff" * 40, "unknown_type"), (b"MQ1,", "bad_field"),
        (b"MQ1,0,384,", "bad_field"), (b"MQ1,-1,384,", "bad_field"), (b"MQ1,x", "bad_field"),
        (b"MQ1," + b"9" * 30 + b",384", "bad_field"),
    ],
)  # fmt: skip
def test_a_message_without_a_number_is_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(payload)
    assert caught.value.reason == reason
    assert reason in REJECT_REASONS


@settings(max_examples=200)
@given(
    changes=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=8),
    n_bytes=st.integers(0, len(GOOD)) | st.just(len(GOOD)),
)
def test_changed_and_missing_bytes_never_do_more_than_a_fault(
    changes: list[tuple[int, int]], n_bytes: int
) -> None:
    payload = bytearray(GOOD)
    for place, byte in changes:
        payload[place] = byte
    try:
        found = decode(bytes(payload[:n_bytes]))
    except WireError as error:
        assert error.reason in REJECT_REASONS
        return
    if isinstance(found, MerlinFrame):
        assert found.pixels.fault or found.pixels.pixels.ndim == 2


def cut(stream: bytes, sizes: list[int], max_bytes: int = 1000) -> list[bytes | str]:
    """Give a stream to the framing in pieces of these sizes, over and over."""
    framing, found = Framing(max_bytes), []
    place = number = 0
    while place < len(stream):
        room = framing.room()
        piece = stream[place : place + min(len(room), sizes[number % len(sizes)])]
        room[: len(piece)] = piece
        for one in framing.received(len(piece)):
            found.append(one.reason if isinstance(one, FeedReject) else bytes(one))
        place += len(piece)
        number += 1
    return found


@given(
    payloads=st.lists(st.binary(min_size=1, max_size=60), max_size=5),
    garbage=st.lists(
        st.binary(max_size=50).filter(lambda b: b"M" not in b), min_size=5, max_size=5
    ),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
def test_payloads_are_found_between_garbage_however_they_come(
    payloads: list[bytes], garbage: list[bytes], sizes: list[int]
) -> None:
    stream = b"".join(g + message(p) for g, p in zip(garbage, payloads, strict=False))
    found = cut(stream, sizes)
    assert [one for one in found if isinstance(one, bytes)] == payloads
    n_garbage = sum(1 for g in garbage[: len(payloads)] if g)
    assert found.count("framing") == n_garbage


@given(st.binary(max_size=300), st.integers(1, 20))
def test_no_bytes_whatever_take_more_than_their_room(stream: bytes, size: int) -> None:
    for one in cut(stream, [size]):
        assert isinstance(one, str) or len(one) <= 1000


def test_a_length_beyond_bounds_is_not_believed() -> None:
    stream = b"MPX,9999999999," + b"x" * 100 + message(b"good")
    assert cut(stream, [1000]) == ["framing", b"good"]


def receive(
    send: Callable[[MerlinSender], object],
    *,
    position: FeedPosition | None = None,
    depth: Depth = "U16",
) -> list[FeedItem]:
    """Let a simulated detector send, and take what comes until it is silent."""
    with MerlinSender("tcp://127.0.0.1:0", depth=depth, client_within_s=20) as sender:
        source = MerlinSource(sender.endpoint, limits=LIMITS)
        sending = threading.Thread(target=send, args=(sender,))
        source.open(position)
        sending.start()
        items = []
        while (item := source.receive(0.3)) is not None:
            items.append(item)
        sending.join()
        source.close()
    return items


def playing(programme: Programme) -> Callable[[MerlinSender], object]:
    return lambda sender: play(programme, sender, IMAGES)


def test_an_acquisition_becomes_a_series() -> None:
    start, *middle, end = receive(playing(Programme(n_frames=6)))
    assert isinstance(start, SeriesStart)
    assert (start.n_expected, start.feed, start.series) == (6, "merlin", "")
    assert start.calibration.exposure_s == 0.001
    assert end == SeriesEnd(n_frames=6)
    for number, one in enumerate(middle):
        assert isinstance(one, FeedFrame)
        assert (one.sequence, one.fault) == (number, "")
        assert abs(one.acquired_ns - time.time_ns()) < 60e9
        np.testing.assert_array_equal(one.pixels, IMAGES[number % 4])


def test_two_acquisitions_in_a_row_are_two_series() -> None:
    items = receive(playing(Programme(n_frames=3, n_series=2)))
    assert account_for(items) == [(3, 3, 0, ""), (3, 3, 0, "")]


def test_frames_that_are_missing_are_lost() -> None:
    items = receive(playing(Programme(n_frames=8, gaps=frozenset({0, 3, 4}))))
    assert account_for(items) == [(8, 5, 3, "")]


def test_a_frame_that_is_cut_is_archived_raw() -> None:
    items = receive(playing(Programme(n_frames=4, damaged=frozenset({1}))))
    assert account_for(items) == [(4, 4, 0, "")]
    assert sum(bool(item.fault) for item in items if isinstance(item, FeedFrame)) == 1


def test_an_aborted_acquisition_ends_when_the_next_begins() -> None:
    items = receive(playing(Programme(n_frames=8, abort_after=5, n_series=2)))
    assert account_for(items) == [(5, 5, 0, "another acquisition began after frame 5 of 8")]
    assert not isinstance(items[-1], SeriesEnd), "of the second one, nothing says that it ended"


def test_an_aborted_acquisition_ends_when_the_connection_is_closed() -> None:
    def send(sender: MerlinSender) -> None:
        play(Programme(n_frames=8, abort_after=5), sender, IMAGES)
        sender.hang_up()

    assert account_for(receive(send)) == [
        (5, 5, 0, "the detector closed the connection after frame 5 of 8")
    ]


def test_a_detector_that_runs_until_it_is_stopped_has_no_count() -> None:
    items = receive(playing(Programme(n_frames=3, is_counted=False)))
    assert isinstance(items[0], SeriesStart)
    assert items[0].n_expected is None
    assert [type(item) for item in items[1:]] == [FeedFrame] * 3


def test_the_source_connects_again_and_says_what_was_cut() -> None:
    def send(sender: MerlinSender) -> None:
        sender.begin(1, n_frames=2)
        sender.send(0, IMAGES[0])
        sender.send_bytes(message(frame(IMAGES[1], sequence=2))[:1000])
        sender.hang_up()
        sender.begin(2, n_frames=1)
        sender.send(0, IMAGES[2])

    with MerlinSender("tcp://127.0.0.1:0", client_within_s=20) as sender:
        source = MerlinSource(sender.endpoint, limits=LIMITS)
        source.open(None)
        sending = threading.Thread(target=send, args=(sender,))
        sending.start()
        items: list[FeedItem] = []
        while sum(isinstance(item, SeriesEnd) for item in items) < 2:
            item = source.receive(0.1)
            items += [item] if item is not None else []
        sending.join()
        source.close()
    assert any(isinstance(item, FeedReject) and item.reason == "framing" for item in items)
    assert [n_lost for _, _, n_lost, _ in account_for(items)] == [0, 0]


def test_garbage_before_the_first_frame_is_told_and_skipped() -> None:
    def send(sender: MerlinSender) -> None:
        sender.send_bytes(b"GARBAGE" * 5000)
        play(Programme(n_frames=2), sender, IMAGES)

    items = receive(send)
    assert items[0] == FeedReject(reason="framing", message="35000 bytes without a frame")
    assert account_for(items) == [(2, 2, 0, "")]


def test_a_source_that_comes_late_knows_where_the_acquisition_ends() -> None:
    def send(sender: MerlinSender) -> None:
        for sequence in (6, 7):
            sender.send(sequence, IMAGES[0])

    items = receive(send, position=FeedPosition(series="s", next_sequence=5, n_expected=8))
    assert [type(item) for item in items] == [FeedFrame, FeedFrame, SeriesEnd]
    assert items[-1] == SeriesEnd(n_frames=8)


def test_a_detector_that_is_not_there_is_tried_again() -> None:
    with MerlinSender("tcp://127.0.0.1:0") as sender:
        endpoint = sender.endpoint
    source = MerlinSource(endpoint)
    source.open(None)
    assert source.receive(0.05) is None
    assert not source.is_connected
    with MerlinSender(endpoint, client_within_s=20) as sender:
        sending = threading.Thread(target=playing(Programme(n_frames=1)), args=(sender,))
        sending.start()
        item = None
        while item is None:
            item = source.receive(0.1)
        sending.join()
    source.close()
    source.close()


NO_ENDPOINTS = ["merlin:6342", "tcp://merlin", "tcp://:1", "tcp://a:0", "tcp://a:99999", "ipc://x"]


@pytest.mark.parametrize("endpoint", NO_ENDPOINTS)
def test_an_endpoint_that_is_none_is_a_settings_error(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="must be tcp://HOST:PORT"):
        MerlinSource(endpoint)


def test_an_endpoint_may_be_a_name_or_a_number() -> None:
    assert tcp_address("tcp://merlin-pc.lab:6342") == ("merlin-pc.lab", 6342)
    assert tcp_address("tcp://[::1]:6342") == ("::1", 6342)
