"""The wire format between stages: messages to multipart and back, as pure functions.

A message is `[topic, envelope, meta, part...]`:

- topic, 5 bytes: the shard as four digits and a colon, so that no topic is the start of another;
- envelope, msgpack array: version, kind, then the fields of `Delivery`;
- meta, msgpack map: the frame header or the control record, as it lies in the frame log;
- parts: arrays as raw little-endian bytes whose shapes stand in the meta of the kind;
- the pixels of the frame, as its header says, for stages that cannot see the frame log.

Nothing is allocated for what a message claims of itself: sizes are checked against what came.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgpack
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.checked import checked_record
from hrtem_stream.errors import WireError
from hrtem_stream.messages import (
    Bits,
    Calibration,
    ControlRecord,
    Delivery,
    FrameHeader,
    FrameSummary,
    LossRange,
    Mark,
    NormalisedFrame,
    Pixels,
    RawFrame,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
    SeriesStatus,
)
from hrtem_stream.series_name import series_name_fault

WIRE_VERSION = 2
MAX_META_BYTES = 65_536
MAX_SIDE = 16_384
MAX_RAW_BYTES = 8 * MAX_SIDE * MAX_SIDE
MAX_SHARDS = 10_000
"""A topic has four digits."""
MAX_WORKING_PIXELS = 4096 * 4096
DTYPES = frozenset({"|u1", "<u2", "<u4", "|i1", "<i2", "<i4", "<f4", "<f8"})

RAW, NORMALISED, SEGMENTED, CONTROL, MARK = range(5)
FRAME_RECORD, START_RECORD, LOSS_RECORD, END_RECORD = range(1, 5)
SUMMARY_TOPIC, STATUS_TOPIC = b"frame:", b"series:"

_UNPACK_ERRORS = (
    ValueError, OverflowError, TypeError, RecursionError, msgpack.exceptions.UnpackException,
)  # fmt: skip

Part: TypeAlias = bytes | memoryview
StageMessage: TypeAlias = RawFrame | NormalisedFrame | SegmentedFrame | ControlRecord | Mark
Record: TypeAlias = FrameHeader | SeriesStart | LossRange | SeriesEnd

_RECORD_TYPES: dict[int, type[Any]] = {
    FRAME_RECORD: FrameHeader,
    START_RECORD: SeriesStart,
    LOSS_RECORD: LossRange,
    END_RECORD: SeriesEnd,
}
_RECORD_KINDS = {kind: number for number, kind in _RECORD_TYPES.items()}
_PACKED_FIELDS = ("log_id", "ordinal", "offset", "pub", "shard", "floor", "attempt", "digest")


def topic(shard: int) -> bytes:
    """Give the topic of a shard: fixed width and a terminator."""
    return b"%04d:" % shard


def encode_record(record: Record) -> bytes:
    """Encode a header or control record as it stands in the frame log and on the wire.

    Raises
    ------
    WireError
        The record is too long to be read again.
    """
    packed = _pack([_RECORD_KINDS[type(record)], dataclasses.asdict(record)])
    if len(packed) > MAX_META_BYTES:
        raise WireError("size", f"a record may have {MAX_META_BYTES} bytes, got {len(packed)}")
    return packed


def decode_record(meta: Part) -> Record:
    """Decode a header or control record.

    Raises
    ------
    WireError
        The bytes are too many, are not msgpack, or break a rule of the record's fields.
    """
    content = _unpack(meta, MAX_META_BYTES, "meta")
    if not (isinstance(content, list) and len(content) == 2 and isinstance(content[1], dict)):
        raise WireError("meta", "meta must be an array of kind and map")
    kind, fields = content
    if type(kind) is not int or kind not in _RECORD_TYPES:
        raise WireError("meta", f"record kind must be one of {sorted(_RECORD_TYPES)}, got {kind!r}")
    try:
        if kind == START_RECORD:
            given = fields["calibration"]
            if not isinstance(given, dict):
                raise ValueError(f"calibration must be a map, got {given!a:.80}")
            fields = {**fields, "calibration": checked_record(Calibration(**given))}
        record: Record = _RECORD_TYPES[kind](**fields)
        if isinstance(record, FrameHeader):
            record = _with_sound_shape(record)
        fault = series_name_fault(checked_record(record).series) if record.series else ""
        if fault:
            raise ValueError(fault)
    except (TypeError, KeyError, ValueError) as error:
        raise WireError("meta", f"record of kind {kind}: {error}") from None
    return record


def encode_publication(
    delivery: Delivery, meta: bytes, *, kind: int, pixels: Part | None = None
) -> list[Part]:
    """Encode what `ingest` publishes: a raw frame, a control record or a mark."""
    parts: list[Part] = [topic(delivery.shard), _envelope(kind, delivery), meta]
    return parts if pixels is None else [*parts, pixels]


def encode(message: StageMessage) -> list[Part]:
    """Encode a message for the next stage."""
    delivery = message.delivery
    match message:
        case RawFrame():
            return [
                *encode_publication(delivery, encode_record(message.header), kind=RAW),
                *_encode_pixels(message.pixels),
            ]
        case ControlRecord():
            return encode_publication(delivery, encode_record(message.record), kind=CONTROL)
        case Mark():
            return encode_publication(delivery, b"", kind=MARK)
        case NormalisedFrame():
            return [
                *encode_publication(delivery, encode_record(message.header), kind=NORMALISED),
                _sizes(message, message.image.shape),
                _raw(message.image),
                _raw(message.coefficients),
                _bits(message.vacuum),
                _bits(message.beam_off),
                _raw(message.thumbnail),
                *_encode_pixels(message.pixels),
            ]
        case SegmentedFrame():
            return [
                *encode_publication(delivery, encode_record(message.header), kind=SEGMENTED),
                _sizes(message, message.amorphous.shape),
                _pack(
                    [
                        message.method,
                        message.graphene_fraction,
                        message.amorphous_fraction,
                        message.vacuum_fraction,
                        message.beam_off_fraction,
                        message.confidence,
                        message.agreement,
                    ]
                ),
                _bits(message.amorphous),
                _raw(message.coefficients),
                _bits(message.vacuum),
                _bits(message.beam_off),
                _raw(message.thumbnail),
                *_encode_pixels(message.pixels),
            ]


def decode(parts: Sequence[Part]) -> StageMessage:
    """Decode a message of a stage. Arrays are read-only views of the parts.

    Raises
    ------
    WireError
        The message breaks the format; `reason` is one of version, envelope, meta, parts, size.
    """
    if len(parts) < 3:
        raise WireError("parts", f"a message must have at least 3 parts, got {len(parts)}")
    kind, delivery = _read_envelope(parts[1])
    if kind == MARK:
        return Mark(delivery=delivery)
    record = decode_record(parts[2])
    if kind == CONTROL:
        if isinstance(record, FrameHeader):
            raise WireError("meta", "a control record must not be a frame header")
        return ControlRecord(delivery=delivery, record=record)
    if not isinstance(record, FrameHeader):
        raise WireError("meta", "a frame must carry a frame header")
    record = dataclasses.replace(record, digest=delivery.digest)
    if kind == RAW:
        return RawFrame(delivery=delivery, header=record, pixels=_take_pixels(record, parts[3:], 0))
    if kind == NORMALISED:
        return _decode_normalised(delivery, record, parts[3:])
    return _decode_segmented(delivery, record, parts[3:])


def encode_summary(summary: FrameSummary) -> list[Part]:
    """Encode what watchers hear of a frame."""
    fields = {
        name: getattr(summary, name)
        for name in FrameSummary.__dataclass_fields__
        if name not in ("thumbnail", "amorphous", "vacuum")
    }
    return [
        SUMMARY_TOPIC,
        _pack([WIRE_VERSION, list(summary.thumbnail.shape), fields]),
        _raw(summary.thumbnail),
        _bits(summary.amorphous),
        _bits(summary.vacuum),
    ]


def decode_summary(parts: Sequence[Part]) -> FrameSummary:
    """Decode what `encode_summary` made; raises WireError as `decode` does."""
    _need_parts(parts, 5)
    content = _unpack(parts[1], MAX_META_BYTES, "meta")
    try:
        version, shape, fields = content
        if version != WIRE_VERSION:
            raise WireError("version", f"wire version must be {WIRE_VERSION}, got {version!r}")
        rows, columns = _working_shape(shape)
        return checked_record(
            FrameSummary(
                **{**fields, "shape": tuple(fields["shape"])},
                thumbnail=_array(parts[2], np.uint8, (rows, columns)),
                amorphous=_unbits(parts[3], (rows, columns)),
                vacuum=_unbits(parts[4], (rows, columns)),
            )
        )
    except (TypeError, ValueError, KeyError) as error:
        raise WireError("meta", f"summary: {error}") from None


def encode_status(status: SeriesStatus) -> list[Part]:
    """Encode what watchers hear of a series."""
    return [STATUS_TOPIC, _pack([WIRE_VERSION, dataclasses.asdict(status)])]


def decode_status(parts: Sequence[Part]) -> SeriesStatus:
    """Decode what `encode_status` made; raises WireError as `decode` does."""
    _need_parts(parts, 2)
    content = _unpack(parts[1], MAX_META_BYTES, "meta")
    try:
        version, fields = content
        if version != WIRE_VERSION:
            raise WireError("version", f"wire version must be {WIRE_VERSION}, got {version!r}")
        return checked_record(SeriesStatus(**fields))
    except (TypeError, ValueError) as error:
        raise WireError("meta", f"status: {error}") from None


def _decode_normalised(
    delivery: Delivery, header: FrameHeader, parts: Sequence[Part]
) -> NormalisedFrame:
    pixels = _take_pixels(header, parts, 6)
    shape, side, small, scale, working_pixel_nm = _read_sizes(parts[0])
    return NormalisedFrame(
        delivery=delivery,
        header=header,
        image=_array(parts[1], np.float32, shape),
        coefficients=_array(parts[2], np.float32, (side, side)),
        vacuum=_unbits(parts[3], shape),
        beam_off=_unbits(parts[4], shape),
        thumbnail=_array(parts[5], np.uint8, small),
        scale=scale,
        working_pixel_nm=working_pixel_nm,
        pixels=pixels,
    )


def _decode_segmented(
    delivery: Delivery, header: FrameHeader, parts: Sequence[Part]
) -> SegmentedFrame:
    pixels = _take_pixels(header, parts, 7)
    shape, side, small, scale, working_pixel_nm = _read_sizes(parts[0])
    scores = _unpack(parts[1], 1024, "scores")
    if not (isinstance(scores, list) and len(scores) == 7 and isinstance(scores[0], str)):
        raise WireError("meta", "scores must be an array of a method and six numbers")
    if not all(isinstance(value, float) for value in scores[1:]):
        raise WireError("meta", "fractions must be floating-point numbers")
    return SegmentedFrame(
        delivery=delivery,
        header=header,
        amorphous=_unbits(parts[2], shape),
        coefficients=_array(parts[3], np.float32, (side, side)),
        vacuum=_unbits(parts[4], small),
        beam_off=_unbits(parts[5], small),
        thumbnail=_array(parts[6], np.uint8, small),
        method=scores[0],
        graphene_fraction=scores[1],
        amorphous_fraction=scores[2],
        vacuum_fraction=scores[3],
        beam_off_fraction=scores[4],
        confidence=scores[5],
        agreement=scores[6],
        scale=scale,
        working_pixel_nm=working_pixel_nm,
        pixels=pixels,
    )


def _encode_pixels(pixels: Pixels | None) -> list[Part]:
    return [] if pixels is None else [_raw(pixels)]


def _take_pixels(header: FrameHeader, parts: Sequence[Part], n_parts: int) -> Pixels | None:
    """Read the pixels behind the other parts, if there are any."""
    if len(parts) == n_parts:
        return None
    _need_parts(parts, n_parts + 1)
    M, N = header.shape
    return _array(parts[-1], np.dtype(header.dtype), (M, N) if N else (1, M))


def _with_sound_shape(header: FrameHeader) -> FrameHeader:
    shape: Any = header.shape
    if not (isinstance(shape, list) and len(shape) == 2):
        raise ValueError(f"shape must have two numbers, got {shape!a:.80}")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"shape must be whole numbers from 0, got {shape!a:.80}")
    if (max(shape) > MAX_SIDE) if shape[1] else (shape[0] > MAX_RAW_BYTES):
        raise ValueError(f"sides must be at most {MAX_SIDE}, got {shape!r}")
    if type(header.dtype) is not str or header.dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {header.dtype!a:.80}")
    if not shape[1] and header.dtype != "|u1":
        raise ValueError(f"raw bytes must be of dtype |u1, got {header.dtype!r}")
    if not 0.0 <= header.pixel_size_nm < math.inf:
        raise ValueError(f"pixel_size_nm must be 0 or above, got {header.pixel_size_nm!r}")
    return dataclasses.replace(header, shape=(shape[0], shape[1]))


def _envelope(kind: int, delivery: Delivery) -> bytes:
    return _pack([WIRE_VERSION, kind, *(getattr(delivery, name) for name in _PACKED_FIELDS)])


def _read_envelope(part: Part) -> tuple[int, Delivery]:
    content = _unpack(part, 256, "envelope")
    if not (isinstance(content, list) and content):
        raise WireError("envelope", "the envelope must be an array")
    if content[0] != WIRE_VERSION:
        raise WireError("version", f"wire version must be {WIRE_VERSION}, got {content[0]!r}")
    if len(content) != 2 + len(_PACKED_FIELDS) or not all(type(v) is int for v in content):
        raise WireError("envelope", f"the envelope must hold {2 + len(_PACKED_FIELDS)} integers")
    kind = content[1]
    if not RAW <= kind <= MARK:
        raise WireError("envelope", f"kind must be 0 to 4, got {kind}")
    delivery = Delivery(**dict(zip(_PACKED_FIELDS, content[2:], strict=True)))
    if not 0 <= delivery.shard < MAX_SHARDS or delivery.ordinal < -1 or delivery.floor < 0:
        raise WireError("envelope", f"shard, ordinal or floor are impossible: {delivery}")
    return kind, delivery


def _sizes(message: NormalisedFrame | SegmentedFrame, shape: tuple[int, ...]) -> bytes:
    return _pack(
        [
            *shape,
            len(message.coefficients),
            *message.thumbnail.shape,
            message.scale,
            message.working_pixel_nm,
        ]
    )


def _read_sizes(part: Part) -> tuple[tuple[int, int], int, tuple[int, int], str, float]:
    """Read the shape of the working image, the side of the coefficients, and what follows."""
    content = _unpack(part, 128, "shape")
    if not (isinstance(content, list) and len(content) == 7):
        raise WireError("meta", "array shapes must be five numbers, a word and a number")
    side, scale, working_pixel_nm = content[2], content[5], content[6]
    if not (isinstance(scale, str) and isinstance(working_pixel_nm, float)):
        raise WireError("meta", f"scale must be a word and a number, got {content[5:]!a:.80}")
    if not (isinstance(side, int) and 1 <= side <= 8):
        raise WireError("meta", f"coefficients must be 1 to 8 a side, got {side!r}")
    small = _working_shape(content[3:5])
    return _working_shape(content[:2]), side, small, scale, working_pixel_nm


def _working_shape(shape: Any) -> tuple[int, int]:
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(v) is int for v in shape)):
        raise WireError("meta", f"a working shape must be two whole numbers, got {shape!r}")
    if min(shape) < 1 or shape[0] * shape[1] > MAX_WORKING_PIXELS:
        raise WireError("meta", f"a working image must have 1 to {MAX_WORKING_PIXELS} pixels")
    return shape[0], shape[1]


def _need_parts(parts: Sequence[Part], n_parts: int) -> None:
    if len(parts) != n_parts:
        raise WireError("parts", f"need {n_parts} parts here, got {len(parts)}")


def _array(part: Part, dtype: Any, shape: tuple[int, int]) -> NDArray[Any]:
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(part) != expected:
        raise WireError(
            "size", f"an array of {shape} {np.dtype(dtype)} needs {expected} bytes, got {len(part)}"
        )
    array = np.frombuffer(part, dtype).reshape(shape)
    array.flags.writeable = False
    return array


def _bits(mask: Bits) -> Part:
    return np.packbits(mask).data


def _unbits(part: Part, shape: tuple[int, int]) -> Bits:
    n_pixels = math.prod(shape)
    if len(part) != (n_pixels + 7) // 8:
        raise WireError(
            "size", f"a mask of {shape} needs {(n_pixels + 7) // 8} bytes, got {len(part)}"
        )
    mask = (
        np.unpackbits(np.frombuffer(part, np.uint8), count=n_pixels).view(np.bool_).reshape(shape)
    )
    mask.flags.writeable = False
    return mask


def _raw(array: NDArray[Any]) -> Part:
    return np.ascontiguousarray(array).data.cast("B")


def _pack(content: Any) -> bytes:
    packed: bytes = msgpack.packb(content)
    return packed


def _unpack(part: Part, limit: int, what: str) -> Any:
    if len(part) > limit:
        raise WireError("size", f"{what} must have at most {limit} bytes, got {len(part)}")
    try:
        return msgpack.unpackb(part)
    except _UNPACK_ERRORS as error:
        raise WireError("meta", f"{what} is not msgpack: {error!a:.200}") from None
