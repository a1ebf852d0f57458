from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hrtem_stream.errors import WireError
from hrtem_stream.messages import Calibration
from hrtem_stream.series_name import series_name_fault
from hrtem_stream.sources.native_wire import FeedLimits

cbor2 = pytest.importorskip("cbor2")
pytest.importorskip("dectris.compression")
pytest.importorskip("lz4.block")

from hrtem_stream.simulators.dectris import (  # noqa: E402
    compress_bslz4,
    compress_lz4,
    encode_array,
    encode_message,
)
from hrtem_stream.sources.dectris_wire import (  # noqa: E402
    REJECT_REASONS,
    DetectorEnd,
    DetectorImage,
    DetectorStart,
    decode_detector_message,
)

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "dectris-stream2"
LIMITS = FeedLimits()
IMAGE = np.random.default_rng(0).poisson(3, (37, 53)).astype("<u2")


def decode(message: bytes, limits: FeedLimits = LIMITS) -> Any:
    return decode_detector_message(memoryview(message), limits=limits)


def image_message(data: dict[str, Any], **fields: Any) -> bytes:
    fields = {"series": 1, "identity": "ID", "image_id": 3, **fields}
    return encode_message("image", **fields, data=data)


def decode_one(array: Any, limits: FeedLimits = LIMITS) -> tuple[NDArray[Any], str]:
    image = decode(image_message({"a": array}), limits)
    assert isinstance(image, DetectorImage)
    return image.channels["a"]


@pytest.fixture(scope="session")
def recorded() -> list[Path]:
    """Messages recorded from a detector, beside the checkout."""
    if not RECORDED.is_dir():
        pytest.skip(f"the recorded messages are not at {RECORDED}")
    return sorted(RECORDED.rglob("*.cbor"))


def hdf5_decodes(array: Any, folder: Path) -> NDArray[Any]:
    """Let HDF5's own filters decompress what cbor2 read: nothing of the source is used."""
    import h5py
    import hdf5plugin

    sides, typed = array.value
    dtype = {64: "u1", 69: "<u2", 70: "<u4"}[typed.tag]
    algorithm, _, compressed = typed.value.value
    filters = {"bslz4": hdf5plugin.Bitshuffle(cname="lz4"), "lz4": hdf5plugin.LZ4()}[algorithm]
    with h5py.File(folder / "one.h5", "w") as file:
        dataset = file.create_dataset("x", tuple(sides), dtype, chunks=tuple(sides), **filters)
        dataset.id.write_direct_chunk((0, 0), bytes(compressed))
        plain: NDArray[Any] = dataset[()]
    return plain


def test_recorded_images_are_bit_for_bit_those_of_an_independent_decoder(
    recorded: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("hdf5plugin")
    n_arrays = 0
    for path in recorded:
        message = path.read_bytes()
        found = decode(message)
        if not isinstance(found, DetectorImage):
            assert isinstance(found, DetectorEnd)
            continue
        theirs = cbor2.loads(message, tag_hook=lambda tag, immutable: tag)
        assert found.image_id == theirs["image_id"]
        begun_ns = round(theirs["series_date"].timestamp() * 1000) * 1_000_000
        ticks, per_s = theirs["start_time"]
        assert found.acquired_ns == begun_ns + ticks * 10**9 // per_s
        assert list(found.channels) == list(theirs["data"])
        for name, array in theirs["data"].items():
            expected = hdf5_decodes(array, tmp_path)
            assert found.channels[name].fault == ""
            assert found.channels[name].pixels.dtype == expected.dtype
            np.testing.assert_array_equal(found.channels[name].pixels, expected)
            n_arrays += 1
    assert n_arrays == 18


@pytest.mark.parametrize("compression", ["bslz4", "lz4", "none"])
@pytest.mark.parametrize("code", ["|u1", "<u2", "<u4", "<f4", "<f8"])
def test_an_array_arrives_as_it_was_sent(compression: Any, code: str) -> None:
    image = (np.arange(37 * 53) % 251).reshape(37, 53).astype(code)
    if compression == "bslz4" and code == "<f8":
        image = image[:, :51]
    pixels, fault = decode_one(encode_array(image, compression=compression))
    assert fault == ""
    assert pixels.dtype.str == code
    assert not pixels.flags.writeable
    np.testing.assert_array_equal(pixels, image)


TYPED = {
    64: "u1", 65: ">u2", 66: ">u4", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8", 67: ">u8",
    72: "i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8",
    80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8",
}  # fmt: skip


@pytest.mark.parametrize("tag", TYPED)
def test_every_typed_array_of_the_standard_is_known(tag: int) -> None:
    values = np.arange(12).reshape(3, 4).astype(TYPED[tag])
    pixels, fault = decode_one(cbor2.CBORTag(40, [[3, 4], cbor2.CBORTag(tag, values.tobytes())]))
    assert fault == ""
    np.testing.assert_array_equal(pixels, values)


def test_masked_pixels_come_as_the_detector_marks_them() -> None:
    image = IMAGE.copy()
    image[5], image[:, 7] = 65535, 65535
    pixels, _ = decode_one(encode_array(image))
    np.testing.assert_array_equal(pixels, image)


def test_a_start_carries_what_is_known() -> None:
    start = decode(
        encode_message(
            "start",
            series=7,
            identity="X",
            number_of_images=12,
            channels=["a", "b"],
            count_time=0.5,
            incident_energy=300e3,
            pixel_size_x=7.5e-5,
            detector_description="ARINA",
            arm_date=cbor2.CBORTag(0, "2026-01-02T03:04:05Z"),
            flatfield={"a": encode_array(IMAGE)},
            user_data={"pixel_size_nm": 0.02, "dose_e_per_nm2": 1e4, "operator": "A\x1bB"},
        )
    )
    assert isinstance(start, DetectorStart)
    assert (start.series, start.n_images, start.channels) == ("series-7-X", 12, ("a", "b"))
    assert start.calibration == Calibration(
        pixel_size_nm=0.02, exposure_s=0.5, dose_e_per_nm2=1e4, voltage_kv=300.0
    )
    assert start.metadata["arm_date"] == "2026-01-02T03:04:05Z"
    assert start.metadata["pixel_size_x"] == "7.5e-05"
    assert "operator: A\ufffdB" in start.metadata["user_data"]
    assert "flatfield" not in start.metadata


@pytest.mark.parametrize("count", [None, 0, 2**31, "12", True])
def test_a_series_without_a_count_has_none(count: Any) -> None:
    start = decode(encode_message("start", series=7, identity="X", number_of_images=count))
    assert start.n_images is None


def test_the_detector_pixel_is_not_taken_for_that_on_the_specimen() -> None:
    start = decode(encode_message("start", series=1, identity="X", pixel_size_x=7.5e-5))
    assert start.calibration.pixel_size_nm is None


@pytest.mark.parametrize("date", ["2026-01-02T03:04:05", "tomorrow", "", None])
def test_a_time_that_cannot_be_read_is_none(date: Any) -> None:
    tagged = cbor2.CBORTag(0, date) if isinstance(date, str) else date
    found = decode(
        encode_message(
            "image",
            series=1,
            identity="",
            image_id=0,
            series_date=tagged,
            start_time=[1, 2],
            data={"a": encode_array(IMAGE)},
        )
    )
    assert found.acquired_ns == 0


START = encode_message("start", series=1, identity="X")
REJECTED: dict[str, tuple[str, bytes]] = {
    "no CBOR": ("unreadable_message", b"\xff\xff"),
    "a start that is cut": ("unreadable_message", START[:-3]),
    "another type": ("unknown_type", encode_message("hello", series=1, identity="X")),
    "no type": ("unknown_type", cbor2.dumps({"series_id": 1})),
    "no image number": ("bad_field", encode_message("image", series=1, identity="X", data={})),
    "an image number below 0": ("bad_field", image_message({}, image_id=-1)),
    "an image number beyond all": ("bad_field", image_message({}, image_id=2**40)),
    "a series that is no number": ("bad_field", image_message({}, series="1")),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTED)
def test_a_message_that_cannot_be_understood_is_rejected(name: str) -> None:
    reason, message = REJECTED[name]
    with pytest.raises(WireError) as caught:
        decode(message)
    assert caught.value.reason == reason
    assert reason in REJECT_REASONS
    assert str(caught.value).isprintable()


def test_a_name_that_is_a_path_is_mended() -> None:
    start = decode(encode_message("start", series=1, identity="../../x"))
    image = decode(image_message({}, identity="../../x"))
    assert series_name_fault(start.series) == ""
    assert image.series == start.series


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(max_size=8)
    | st.builds(cbor2.CBORTag, st.sampled_from([0, 1, 40, 69, 56500]), st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_fields = st.sampled_from(
    ["series_id", "series_unique_id", "image_id", "channels", "number_of_images", "user_data",
     "incident_energy", "count_time", "data", "series_date", "start_time", "other"]
)  # fmt: skip


@given(
    kind=st.sampled_from(["start", "image", "end"]),
    fields=st.dictionaries(_fields, _values, max_size=3),
)
def test_no_value_of_a_field_does_more_than_reject_the_message(
    kind: str, fields: dict[str, Any]
) -> None:
    known = {"type": kind, "series_id": 1, "series_unique_id": "X", "image_id": 0, "data": {}}
    try:
        decode(cbor2.dumps(known | fields))
    except WireError as error:
        assert error.reason in REJECT_REASONS


@pytest.mark.parametrize("channels", [5, True, "ab", {"a": 1}, b"ab"])
def test_channels_that_are_no_list_are_not_taken(channels: Any) -> None:
    assert decode(encode_message("start", series=1, identity="X", channels=channels)).channels == ()


def tagged(sides: Any, tag: int, content: Any) -> Any:
    return cbor2.CBORTag(40, [sides, cbor2.CBORTag(tag, content)])


def framed(n_bytes: int, n_block: int, rest: bytes = b"\0" * 20, *, algorithm: str = "lz4") -> Any:
    return cbor2.CBORTag(56500, [algorithm, 2, struct.pack(">QI", n_bytes, n_block) + rest])


FAULTY: dict[str, Any] = {
    "no array": 7,
    "bytes without a tag": b"1234",
    "one side": tagged([4], 64, b"1234"),
    "three sides": tagged([1, 2, 2], 64, b"1234"),
    "sides of zero": tagged([0, 4], 64, b""),
    "sides below zero": tagged([-2, -2], 64, b"1234"),
    "sides beyond all memory": tagged([2**31, 2**31], 69, b"1234"),
    "sides within bounds, product beyond": tagged([16384, 16384], 70, b"1234"),
    "bytes too few": tagged([2, 3], 64, b"1234"),
    "bytes too many": tagged([1, 3], 64, b"1234"),
    "a typed array that is unknown": tagged([2, 2], 76, b"1234"),
    "text for bytes": tagged([2, 2], 64, "1234"),
    "a compression that is unknown": tagged(
        [2, 2], 69, cbor2.CBORTag(56500, ["zip", 2, b"1" * 40])
    ),
    "no compressed bytes": tagged([2, 2], 69, cbor2.CBORTag(56500, ["lz4", 0, b""])),
    "a length beyond all memory": tagged([2, 2], 69, framed(2**63, 8192)),
    "a length that is not the array's": tagged([2, 2], 69, framed(80, 8192)),
    "a block beyond all memory": tagged([2, 2], 69, framed(8, 2**32 - 1)),
    "a block of nothing": tagged([2, 2], 69, framed(8, 0)),
    "bslz4 with a block of nothing": tagged([2, 2], 69, framed(8, 0, algorithm="bslz4")),
    "an element of three bytes": tagged(
        [2, 2], 69, cbor2.CBORTag(56500, ["bslz4", 3, struct.pack(">QI", 8, 8192) + bytes(20)])
    ),
    "garbage behind a good head": tagged([2, 2], 69, framed(8, 8, b"\xff" * 40)),
    "64-bit counts that do not fit": tagged([1, 1], 71, b"\xff" * 8),
}


@pytest.mark.parametrize("name", FAULTY)
def test_an_array_that_cannot_be_read_is_a_fault_that_keeps_its_bytes(name: str) -> None:
    pixels, fault = decode_one(FAULTY[name])
    assert 0 < len(fault) < 400
    assert fault.isprintable()
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 1


def test_the_bytes_that_are_kept_are_those_that_came() -> None:
    packed = compress_lz4(IMAGE.tobytes())[:-5]
    pixels, fault = decode_one(tagged([37, 53], 69, cbor2.CBORTag(56500, ["lz4", 0, packed])))
    assert "lz4" in fault
    assert pixels.tobytes() == packed


def test_a_frame_above_the_limit_is_a_fault_before_it_is_decompressed() -> None:
    _, fault = decode_one(encode_array(IMAGE), FeedLimits(max_frame_bytes=IMAGE.nbytes - 1))
    assert fault.endswith(f"frame needs {IMAGE.nbytes} bytes, allowed {IMAGE.nbytes - 1}")


def test_an_image_that_is_cut_short_still_has_its_number() -> None:
    message = image_message({"a": encode_array(IMAGE), "b": encode_array(IMAGE)})
    found = decode(message[:-5])
    assert isinstance(found, DetectorImage)
    assert found.image_id == 3
    assert found.channels == {}
    assert "ends early" in found.fault


@pytest.fixture(scope="module")
def genuine() -> Iterator[list[bytes]]:
    yield [
        image_message({"a": encode_array(IMAGE, compression=compression)})  # type: ignore[arg-type]
        for compression in ("bslz4", "lz4", "none")
    ]


@settings(max_examples=300)
@given(data=st.data())
def test_changed_and_missing_bytes_never_do_more_than_a_fault(
    genuine: list[bytes], data: st.DataObject
) -> None:
    message = bytearray(data.draw(st.sampled_from(genuine)))
    # Half of the changes hit the first bytes, where all lengths are.
    places = st.integers(0, 250) | st.integers(0, len(message) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        message[place] = byte
    n_bytes = data.draw(st.just(len(message)) | st.integers(0, len(message)))
    try:
        found = decode(bytes(message[:n_bytes]))
    except WireError as error:
        assert error.reason in REJECT_REASONS
        return
    for pixels, fault in getattr(found, "channels", {}).values():
        assert fault or pixels.ndim == 2


def test_the_simulator_leaves_the_last_elements_plain_as_hdf5_does(tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    for shape in ((3, 5), (64, 64), (65, 67), (100, 41)):
        image = np.random.default_rng(1).poisson(4, shape).astype("<u2")
        packed = compress_bslz4(image.tobytes(), element_bytes=2)
        array = tagged(list(shape), 69, cbor2.CBORTag(56500, ["bslz4", 2, packed]))
        np.testing.assert_array_equal(hdf5_decodes(array, tmp_path), image)
