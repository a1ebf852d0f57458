"""The wire format between stages: messages to multipart and back, as pure functions.

A message is `[topic, envelope, meta, part...]`:

- topic, 5 bytes: the shard as four digits and a colon, so that no topic is the start of another;
- envelope, msgpack array: version, kind, then the fields of `Delivery`;
- meta, msgpack map: the frame header or the control record, as it lies in the frame log;
- meta of a mark: whether it is the last, and what the stages that it passed say of themselves;
  nothing where it is not and has passed none;
- parts: arrays as raw little-endian bytes whose shapes stand in the meta of the kind; masks with
  eight pixels a byte, those of vacuum and beam off with none where no pixel is set;
- the pixels of the frame, as its header says, for stages that cannot see the frame log.

Nothing is allocated for what a message claims of itself: sizes are checked against what came.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from hrtem_stream.checked import checked_record
from hrtem_stream.errors import WireError
from hrtem_stream.messages import (
    Calibration,
    ControlRecord,
    Delivery,
    FrameHeader,
    LossRange,
    Mark,
    NormalisedFrame,
    Pixels,
    RawFrame,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.series_name import series_name_fault
from hrtem_stream.transport.parts import (
    MAX_META_BYTES,
    Part,
    any_bits,
    bits,
    need_parts,
    pack,
    raw,
    read_any_bits,
    read_array,
    read_bits,
    read_rows,
    rows,
    unpack,
    working_shape,
)
from hrtem_stream.transport.station_parts import mark_meta, read_mark

WIRE_VERSION = 4
MAX_SIDE = 16_384
MAX_RAW_BYTES = 8 * MAX_SIDE * MAX_SIDE
MAX_SHARDS = 10_000
"""A topic has four digits."""
MAX_REFLECTIONS = 64
DTYPES = frozenset({"|u1", "<u2", "<u4", "|i1", "<i2", "<i4", "<f4", "<f8"})

RAW, NORMALISED, SEGMENTED, CONTROL, MARK = range(5)
FRAME_RECORD, START_RECORD, LOSS_RECORD, END_RECORD = range(1, 5)

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
    flat = isinstance(record, FrameHeader)  # which `asdict` would copy deeply, frame by frame
    fields = _flat(record) if flat else dataclasses.asdict(record)
    packed = pack([_RECORD_KINDS[type(record)], fields])
    if len(packed) > MAX_META_BYTES:
        raise WireError("size", f"a record may have {MAX_META_BYTES} bytes, got {len(packed)}")
    return packed


def decode_record(meta: Part, *, digest: int | None = None) -> Record:
    """Decode a header or control record.

    Parameters
    ----------
    digest
        Of the pixels, as the envelope of a frame says; None leaves what stands in the header.

    Raises
    ------
    WireError
        The bytes are too many, are not msgpack, or break a rule of the record's fields.
    """
    content = unpack(meta, MAX_META_BYTES, "meta")
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
        if kind == FRAME_RECORD:
            given_digest = {} if digest is None else {"digest": digest}
            fields = {**fields, "shape": _sound_shape(fields), **given_digest}
        record: Record = checked_record(_RECORD_TYPES[kind](**fields))
        if isinstance(record, FrameHeader) and not 0.0 <= record.pixel_size_nm < math.inf:
            raise ValueError(f"pixel_size_nm must be 0 or above, got {record.pixel_size_nm!r}")
        fault = series_name_fault(record.series) if record.series else ""
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
            return encode_publication(delivery, mark_meta(message), kind=MARK)
        case NormalisedFrame():
            return [
                *encode_publication(delivery, encode_record(message.header), kind=NORMALISED),
                _sizes(message, message.image.shape),
                raw(message.image),
                raw(message.coefficients),
                any_bits(message.vacuum),
                any_bits(message.beam_off),
                raw(message.thumbnail),
                rows(message.reflections),
                *_encode_pixels(message.pixels),
            ]
        case SegmentedFrame():
            return [
                *encode_publication(delivery, encode_record(message.header), kind=SEGMENTED),
                _sizes(message, message.amorphous.shape),
                pack(
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
                bits(message.amorphous),
                raw(message.coefficients),
                any_bits(message.vacuum),
                any_bits(message.beam_off),
                raw(message.thumbnail),
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
        return read_mark(delivery, parts[2])
    record = decode_record(parts[2], digest=delivery.digest)
    if kind == CONTROL:
        if isinstance(record, FrameHeader):
            raise WireError("meta", "a control record must not be a frame header")
        return ControlRecord(delivery=delivery, record=record)
    if not isinstance(record, FrameHeader):
        raise WireError("meta", "a frame must carry a frame header")
    if kind == RAW:
        return RawFrame(delivery=delivery, header=record, pixels=_take_pixels(record, parts[3:], 0))
    if kind == NORMALISED:
        return _decode_normalised(delivery, record, parts[3:])
    return _decode_segmented(delivery, record, parts[3:])


def _decode_normalised(
    delivery: Delivery, header: FrameHeader, parts: Sequence[Part]
) -> NormalisedFrame:
    pixels = _take_pixels(header, parts, 7)
    shape, side, small, scale, working_pixel_nm = _read_sizes(parts[0])
    image = read_array(parts[1], np.float32, shape)
    return NormalisedFrame(
        delivery=delivery,
        header=header,
        image=image,
        coefficients=read_array(parts[2], np.float32, (side, side)),
        vacuum=read_any_bits(parts[3], image),
        beam_off=read_any_bits(parts[4], image),
        thumbnail=read_array(parts[5], np.uint8, small),
        reflections=read_rows(parts[6], MAX_REFLECTIONS, "reflections"),
        scale=scale,
        working_pixel_nm=working_pixel_nm,
        pixels=pixels,
    )


def _decode_segmented(
    delivery: Delivery, header: FrameHeader, parts: Sequence[Part]
) -> SegmentedFrame:
    pixels = _take_pixels(header, parts, 7)
    shape, side, small, scale, working_pixel_nm = _read_sizes(parts[0])
    scores = unpack(parts[1], 1024, "scores")
    if not (isinstance(scores, list) and len(scores) == 7 and isinstance(scores[0], str)):
        raise WireError("meta", "scores must be an array of a method and six numbers")
    if not all(isinstance(value, float) for value in scores[1:]):
        raise WireError("meta", "fractions must be floating-point numbers")
    thumbnail = read_array(parts[6], np.uint8, small)
    return SegmentedFrame(
        delivery=delivery,
        header=header,
        amorphous=read_bits(parts[2], shape),
        coefficients=read_array(parts[3], np.float32, (side, side)),
        vacuum=read_any_bits(parts[4], thumbnail),
        beam_off=read_any_bits(parts[5], thumbnail),
        thumbnail=thumbnail,
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
    return [] if pixels is None else [raw(pixels)]


def _take_pixels(header: FrameHeader, parts: Sequence[Part], n_parts: int) -> Pixels | None:
    """Read the pixels behind the other parts, if there are any."""
    if len(parts) == n_parts:
        return None
    need_parts(parts, n_parts + 1)
    M, N = header.shape
    return read_array(parts[-1], np.dtype(header.dtype), (M, N) if N else (1, M))


def _sound_shape(fields: dict[str, Any]) -> tuple[int, int]:
    """Give the shape that stands in a frame header, with a dtype to match."""
    shape, dtype = fields["shape"], fields["dtype"]
    if not (isinstance(shape, list) and len(shape) == 2):
        raise ValueError(f"shape must have two numbers, got {shape!a:.80}")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"shape must be whole numbers from 0, got {shape!a:.80}")
    if (max(shape) > MAX_SIDE) if shape[1] else (shape[0] > MAX_RAW_BYTES):
        raise ValueError(f"sides must be at most {MAX_SIDE}, got {shape!r}")
    if type(dtype) is not str or dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {dtype!a:.80}")
    if not shape[1] and dtype != "|u1":
        raise ValueError(f"raw bytes must be of dtype |u1, got {dtype!r}")
    return shape[0], shape[1]


def _flat(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _envelope(kind: int, delivery: Delivery) -> bytes:
    return pack([WIRE_VERSION, kind, *(getattr(delivery, name) for name in _PACKED_FIELDS)])


def _read_envelope(part: Part) -> tuple[int, Delivery]:
    content = unpack(part, 256, "envelope")
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
    return pack(
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
    content = unpack(part, 128, "shape")
    if not (isinstance(content, list) and len(content) == 7):
        raise WireError("meta", "array shapes must be five numbers, a word and a number")
    side, scale, working_pixel_nm = content[2], content[5], content[6]
    if not (isinstance(scale, str) and isinstance(working_pixel_nm, float)):
        raise WireError("meta", f"scale must be a word and a number, got {content[5:]!a:.80}")
    if not (isinstance(side, int) and 1 <= side <= 8):
        raise WireError("meta", f"coefficients must be 1 to 8 a side, got {side!r}")
    small = working_shape(content[3:5])
    return working_shape(content[:2]), side, small, scale, working_pixel_nm
