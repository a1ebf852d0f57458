"""The wire format: round trips, and a corpus of messages that must not hurt."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.errors import WireError
from hrtem_stream.messages import (
    Calibration,
    ControlRecord,
    Delivery,
    FrameHeader,
    FrameSummary,
    LossRange,
    Mark,
    NormalisedFrame,
    RawFrame,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
    SeriesStatus,
)
from hrtem_stream.transport.summaries import (
    decode_status,
    decode_summary,
    encode_status,
    encode_summary,
)
from hrtem_stream.transport.wire import (
    WIRE_VERSION,
    decode,
    decode_record,
    encode,
    encode_record,
    topic,
)

DELIVERY = Delivery(
    log_id=2**62, ordinal=5, offset=640, pub=9, shard=3, floor=2, attempt=2, digest=77
)
HEADER = FrameHeader(
    series="séries", series_id="abc", sequence=4, row=3, shape=(12, 10), dtype="<u2",
    received_ns=10**18, acquired_ns=1, name="a.png", fault="", digest=77,
)  # fmt: skip


def _normalised(p: int, q: int, seed: int) -> NormalisedFrame:
    rng = np.random.default_rng(seed)
    return NormalisedFrame(
        delivery=DELIVERY,
        header=HEADER,
        image=rng.standard_normal((p, q)).astype(np.float32),
        coefficients=rng.standard_normal((3, 3)).astype(np.float32),
        vacuum=rng.random((p, q)) < 0.5,
        beam_off=rng.random((p, q)) < 0.5,
        thumbnail=rng.integers(0, 256, (16, 12)).astype(np.uint8),
        reflections=rng.standard_normal((seed % 14, 3)) if seed % 15 else None,
        scale="spectrum",
        working_pixel_nm=0.045,
    )


def _segmented(p: int, q: int, seed: int) -> SegmentedFrame:
    frame = _normalised(p, q, seed)
    rng = np.random.default_rng(seed)
    return SegmentedFrame(
        delivery=DELIVERY, header=HEADER, amorphous=~frame.vacuum,
        vacuum=rng.random((16, 12)) < 0.5, beam_off=rng.random((16, 12)) < 0.5,
        coefficients=frame.coefficients, thumbnail=frame.thumbnail,
        method="bragg", graphene_fraction=0.25, amorphous_fraction=0.5, vacuum_fraction=0.125,
        beam_off_fraction=0.125, confidence=0.75, agreement=0.5,
        scale="calibration", working_pixel_nm=0.0625,
    )  # fmt: skip


def _same(a: object, b: object) -> bool:
    for name in type(a).__dataclass_fields__:  # type: ignore[attr-defined]
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, np.ndarray):
            if left.dtype != right.dtype or not np.array_equal(left, right):
                return False
        elif left != right:
            return False
    return type(a) is type(b)


def _bytes(parts: list) -> list[bytes]:
    return [bytes(part) for part in parts]


@settings(max_examples=30, deadline=None)
@given(p=st.integers(1, 40), q=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_frames_of_any_working_shape_survive_the_wire(p: int, q: int, seed: int) -> None:
    for frame in (_normalised(p, q, seed), _segmented(p, q, seed)):
        decoded = decode(_bytes(encode(frame)))
        assert _same(frame, decoded)


@pytest.mark.parametrize(
    "message",
    [
        Mark(delivery=DELIVERY),
        RawFrame(delivery=DELIVERY, header=HEADER),
        ControlRecord(delivery=DELIVERY, record=LossRange(
            series="s", series_id="x", first=3, n_frames=2, reason="missing")),
        ControlRecord(delivery=DELIVERY, record=SeriesEnd(series_id="x", n_frames=4)),
        ControlRecord(delivery=DELIVERY, record=SeriesStart(
            series="s", calibration=Calibration(pixel_size_nm=0.02), metadata={"a": "b"})),
    ],
)  # fmt: skip
def test_messages_without_arrays_survive_the_wire(message: object) -> None:
    assert decode(_bytes(encode(message))) == message


def test_a_frame_without_vacuum_sends_no_bytes_for_it() -> None:
    for frame in (_normalised(8, 8, 0), _segmented(8, 8, 0)):
        frame = dataclasses.replace(frame, vacuum=np.zeros_like(frame.vacuum))
        parts = _bytes(encode(frame))
        assert parts.count(b"") == 1
        assert _same(frame, decode(parts))


def test_a_mask_of_amorphous_pixels_without_bytes_is_refused() -> None:
    parts = _bytes(encode(_segmented(8, 8, 0)))
    parts[5] = b""
    with pytest.raises(WireError, match="mask"):
        decode(parts)


def test_arrays_off_the_wire_are_read_only() -> None:
    frame = _normalised(8, 8, 0)
    frame = dataclasses.replace(frame, beam_off=np.zeros_like(frame.beam_off))
    decoded = decode(_bytes(encode(frame)))
    assert isinstance(decoded, NormalisedFrame)
    for array in (decoded.image, decoded.vacuum, decoded.beam_off, decoded.thumbnail):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_a_summary_survives_the_wire() -> None:
    frame = _segmented(16, 12, 1)
    summary = FrameSummary(
        series="s", series_id="x", sequence=1, row=1, name="n", shape=(32, 32), method="bragg",
        fault="", graphene_fraction=0.5, amorphous_fraction=0.5, vacuum_fraction=0.0,
        beam_off_fraction=0.0, confidence=0.9, agreement=0.95, rank=3, latency_s=0.01,
        received_ns=10**18, thumbnail=frame.thumbnail, amorphous=frame.amorphous,
        vacuum=frame.vacuum,
    )  # fmt: skip
    assert _same(summary, decode_summary(_bytes(encode_summary(summary))))


STATUS = SeriesStatus(
    series="s", series_id="x", n_expected=None, pixel_size_nm=0.02, n_archived=5, n_lost=1,
    lost_reason="gap", archive="/runs/s.nxs", is_closed=False,
)  # fmt: skip


def test_a_status_survives_the_wire() -> None:
    assert decode_status(_bytes(encode_status(STATUS))) == STATUS


@pytest.mark.parametrize(
    "change", [{"n_archived": "5"}, {"archive": 1}, {"pixel_size_nm": [1]}, {"extra": 0}]
)
def test_a_status_with_other_fields_is_refused(change: dict[str, Any]) -> None:
    fields = dataclasses.asdict(STATUS) | change
    with pytest.raises(WireError):
        decode_status([b"series:", msgpack.packb([WIRE_VERSION, fields])])


def test_no_topic_begins_another() -> None:
    topics = [topic(shard) for shard in range(120)]
    assert not any(a != b and b.startswith(a) for a in topics for b in topics)


def _changed(number: int, part: bytes) -> list[bytes]:
    parts = _bytes(encode(_normalised(8, 8, 0)))
    parts[number] = part
    return parts


def _sizes(
    *shape: int, small: tuple[int, int] = (16, 12), scale: object = "none", pixel_nm: object = 0.0
) -> bytes:
    return msgpack.packb([*shape, *small, scale, pixel_nm])


def _header(**fields: object) -> bytes:
    kind, content = msgpack.unpackb(encode_record(HEADER))
    return msgpack.packb([kind, {**content, **fields}])


HOSTILE = [
    ([], "parts"),
    ([b"", b""], "parts"),
    (_changed(1, b""), "meta"),
    (_changed(1, b"\xc1"), "meta"),
    (_changed(1, b"x" * 300), "size"),
    (_changed(1, msgpack.packb([1, 1, *range(8)])), "version"),
    (_changed(1, msgpack.packb([WIRE_VERSION, 9, *range(8)])), "envelope"),
    (_changed(1, msgpack.packb([WIRE_VERSION, 1, "a", *range(7)])), "envelope"),
    (_changed(1, msgpack.packb([WIRE_VERSION, 1])), "envelope"),
    (_changed(2, b""), "meta"),
    (_changed(2, b"\x91" * 60_000), "meta"),
    (_changed(2, b"\xdd\xff\xff\xff\xff"), "meta"),
    (_changed(2, b"\xc6\xff\xff\xff\xff"), "meta"),
    (_changed(2, b"x" * 70_000), "size"),
    (_changed(2, msgpack.packb([9, {}])), "meta"),
    (_changed(2, msgpack.packb([1, {}])), "meta"),
    (_changed(2, msgpack.packb({"a": 1})), "meta"),
    (_changed(2, _header(shape=[-1, 4])), "meta"),
    (_changed(2, _header(shape=[2**40, 4])), "meta"),
    (_changed(2, _header(shape="ab")), "meta"),
    (_changed(2, _header(dtype="O")), "meta"),
    (_changed(2, _header(dtype="<U9999999")), "meta"),
    (_changed(2, _header(unknown=1)), "meta"),
    (_changed(2, _header(dtype=["<u2"])), "meta"),
    (_changed(2, _header(shape=[True, True])), "meta"),
    (_changed(2, _header(series_id=["not", "hashable"])), "meta"),
    (_changed(2, _header(sequence="4")), "meta"),
    (_changed(2, _header(row=True)), "meta"),
    (_changed(2, _header(received_ns=1.5)), "meta"),
    (_changed(2, _header(series="../../etc/cron.d/x")), "meta"),
    (_changed(2, _header(series="/etc/passwd")), "meta"),
    (_changed(2, _header(series="a\0b")), "meta"),
    (_changed(2, _header(series="CON: ")), "meta"),
    (_changed(2, msgpack.packb([True, {}])), "meta"),
    (_changed(2, msgpack.packb([[], {}])), "meta"),
    (_changed(2, msgpack.packb([2, {"series": "../x", "calibration": {}}])), "meta"),
    (_changed(2, msgpack.packb([2, {"series": "s", "calibration": "map"}])), "meta"),
    (_changed(2, msgpack.packb([2, {"series": "s", "calibration": {"exposure_s": "1"}}])), "meta"),
    (_changed(2, msgpack.packb([2, {"series": "s", "calibration": {}, "metadata": {"a": 1}}])),
     "meta"),
    (_changed(1, msgpack.packb([WIRE_VERSION, 1, 1, 5, 0, 9, 10_000, 0, 1, 0])), "envelope"),
    (_changed(1, msgpack.packb([WIRE_VERSION, 1, 1, -2, 0, 9, 0, 0, 1, 0])), "envelope"),
    ([*_bytes(encode(_normalised(8, 8, 0))), b"not the pixels of the header"], "size"),
    ([*_bytes(encode(_normalised(8, 8, 0))), b"", b""], "parts"),
    ([*_bytes(encode(RawFrame(delivery=DELIVERY, header=HEADER))), b"too short"], "size"),
    (_changed(2, _header(pixel_size_nm="0.02")), "meta"),
    (_changed(2, _header(pixel_size_nm=float("nan"))), "meta"),
    (_changed(2, _header(pixel_size_nm=-1.0)), "meta"),
    (_changed(3, msgpack.packb([8, 8])), "meta"),
    (_changed(3, _sizes(8, 8, 200)), "meta"),
    (_changed(3, _sizes(0, 8, 3)), "meta"),
    (_changed(3, _sizes(2**31, 2**31, 3)), "meta"),
    (_changed(3, _sizes(8, 8, 3, small=(2**31, 2**31))), "meta"),
    (_changed(3, _sizes(8, 8, 3, scale=7)), "meta"),
    (_changed(3, _sizes(8, 8, 3, pixel_nm="x")), "meta"),
    (_changed(3, _sizes(8, 8, 3, small=(17, 12))), "size"),
    (_changed(4, b"too short"), "size"),
    (_changed(9, b""), "meta"),
    (_changed(9, b"x" * 3000), "size"),
    (_changed(9, msgpack.packb(np.ones((65, 3)).tobytes())), "size"),
    (_changed(9, msgpack.packb(np.ones(2).tobytes())), "meta"),
    (_changed(9, msgpack.packb(np.array([0.1, 0.2, np.nan]).tobytes())), "meta"),
    (_changed(9, msgpack.packb(np.array([0.1, 0.2, np.inf]).tobytes())), "meta"),
    (_changed(9, msgpack.packb([[0.1, 0.2, 2.0]])), "meta"),
    (_changed(9, msgpack.packb({"a": 1})), "meta"),
    (_changed(6, b"x"), "size"),
    (_changed(7, bytes(9)), "size"),
    (_bytes(encode(_normalised(8, 8, 0)))[:-1], "parts"),
]  # fmt: skip


def test_pixels_travel_behind_the_other_parts() -> None:
    pixels = np.arange(120, dtype="<u2").reshape(12, 10)
    raw = RawFrame(delivery=DELIVERY, header=HEADER, pixels=pixels)
    for frame in (
        raw,
        dataclasses.replace(_normalised(8, 8, 0), pixels=pixels),
        dataclasses.replace(_segmented(8, 8, 0), pixels=pixels),
    ):
        found = decode(_bytes(encode(frame)))
        assert _same(frame, found)
        assert not found.pixels.flags.writeable  # type: ignore[union-attr]


def test_the_bytes_of_a_torn_frame_travel_as_one_row() -> None:
    header = dataclasses.replace(HEADER, shape=(7, 0), dtype="|u1", fault="cut")
    frame = RawFrame(delivery=DELIVERY, header=header, pixels=np.arange(7, dtype=np.uint8))
    found = decode(_bytes(encode(frame)))
    assert isinstance(found, RawFrame)
    assert found.pixels is not None
    assert found.pixels.tolist() == [list(range(7))]


@pytest.mark.parametrize(("parts", "reason"), HOSTILE)
def test_a_hostile_message_is_refused_with_its_reason(parts: list[bytes], reason: str) -> None:
    with pytest.raises(WireError) as error:
        decode(parts)
    assert error.value.reason == reason


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.binary(max_size=200), max_size=9))
def test_random_bytes_raise_nothing_but_a_wire_error(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode(parts)
    with pytest.raises(WireError):
        decode_summary(parts)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_message_with_one_changed_byte_never_raises_anything_else(data: st.DataObject) -> None:
    parts = [bytearray(part) for part in encode(_segmented(8, 8, 0))]
    part = parts[data.draw(st.integers(1, len(parts) - 1))]
    part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode([bytes(part) for part in parts])
    except WireError:
        return


def test_a_record_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(WireError) as error:
        decode_record(b"\x92" + b"\x00" * 65_536)
    assert error.value.reason == "size"
