"""The words of a DECTRIS detector's stream, version 2.

Each ZeroMQ message is one CBOR map: `start` when a series is armed, `image` for each exposure with
one array for each channel (energy threshold), `end` when it is disarmed. An array is

    40([[rows, columns], TYPED([...bytes...])])     RFC 8746, 3.1.1 and 2

where the bytes may be compressed: 56500([algorithm, element size, bytes]), with HDF5's framing of
bslz4 or lz4, or of what else `dectris.compression` knows. Rationals are two integers.

Sources: DECTRIS, Stream V2 and CBOR tag 56500 (github.com/dectris/documentation).
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np

from hrtem_stream.errors import WireError
from hrtem_stream.messages import Calibration
from hrtem_stream.series_name import series_name_of_feed
from hrtem_stream.sources.cbor import DamagedMapError, Tagged, read_map
from hrtem_stream.sources.native_wire import FeedLimits
from hrtem_stream.sources.stack import FramePixels, damaged, supported

REJECT_REASONS: Final = ("n_parts", "unreadable_message", "unknown_type", "bad_field")
MAX_CHANNELS: Final = 32
_MULTI_DIMENSIONAL, _COMPRESSED, _DATE_TIME = 40, 56500, 0
_TYPED: Final = {
    64: "|u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "|u1", 69: "<u2", 70: "<u4", 71: "<u8",
    72: "|i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8",
    80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8",
}  # fmt: skip
_FRAMED: Final = ("bslz4", "lz4", "bszstd")
"""Algorithms whose bytes begin with the length of what they decompress to."""
_MAX_INT: Final = 2**63 - 1
_MAX_TEXT: Final = 4096
_NO_COUNT: Final = 2**31 - 1
"""A series of so many images is one that runs until it is stopped."""
_NOT_METADATA: Final = frozenset(
    ("type", "flatfield", "pixel_mask", "countrate_correction_lookup_table")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorStart:
    """A series is armed."""

    series: str
    n_images: int | None
    channels: tuple[str, ...]
    calibration: Calibration
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorImage:
    """One exposure; `channels` are its readable arrays, by name, in the order of the message."""

    series: str
    image_id: int
    acquired_ns: int
    channels: dict[str, FramePixels]
    fault: str
    """Why channels may be missing; the message was damaged behind its image number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorEnd:
    """A series is disarmed, complete or not."""

    series: str


def decode_detector_message(
    message: memoryview, *, limits: FeedLimits
) -> DetectorStart | DetectorImage | DetectorEnd:
    """Read one message of the stream.

    Parameters
    ----------
    message
        The bytes as received.
    limits
        Largest sides, frame and image number accepted, checked before anything is decompressed.

    Raises
    ------
    WireError
        When it is not even known which image it is; reason is one of `REJECT_REASONS`.
    """
    fault = ""
    try:
        content = read_map(message)
    except DamagedMapError as error:
        if error.found.get("type") != "image" or "image_id" not in error.found:
            raise
        content, fault = error.found, str(error)
    match content.get("type"):
        case "start":
            return _start(content)
        case "image":
            return _image(content, fault=fault, limits=limits)
        case "end":
            return DetectorEnd(series=_series(content))
    kind = _short(content.get("type"))
    raise WireError("unknown_type", f"type must be start, image or end, got {kind}")


def decode_array(content: Any, *, limits: FeedLimits) -> FramePixels:
    """Decode one two-dimensional array, or keep its bytes with the reason why not.

    Returns
    -------
    FramePixels
        (M, N), little endian, in a dtype that the pipeline takes; masked pixels as they came.
    """
    received = memoryview(b"")
    try:
        sides, code, algorithm, element, received = _parts_of(content)
        dtype = np.dtype(code)
        if not all(1 <= side <= limits.max_side for side in sides):
            raise ValueError(f"sides must be 1 to {limits.max_side}, got {sides}")
        n_needed = sides[0] * sides[1] * dtype.itemsize
        if n_needed > limits.max_frame_bytes:
            raise ValueError(f"frame needs {n_needed} bytes, allowed {limits.max_frame_bytes}")
        plain = received if not algorithm else _decompress(algorithm, element, received, n_needed)
        if len(plain) != n_needed:
            raise ValueError(f"has {len(plain)} bytes, {sides} of {dtype.str} needs {n_needed}")
        return supported(np.frombuffer(plain, dtype).reshape(sides))
    except ValueError as error:
        return damaged(bytes(received), fault=f"array cannot be read: {error}")


def _parts_of(content: Any) -> tuple[tuple[int, int], str, str, int, memoryview]:
    """Take an array apart: sides, dtype, algorithm (or none), element size, bytes."""
    if not isinstance(content, Tagged) or content.tag != _MULTI_DIMENSIONAL:
        raise ValueError(f"must have tag {_MULTI_DIMENSIONAL}, got {_short(content)}")
    match content.content:
        case [[int(rows), int(columns)], Tagged(tag, typed)] if tag in _TYPED:
            code = _TYPED[tag]
        case [[*sides], Tagged(tag, _)]:
            raise ValueError(f"must have two sides and a typed array, got {len(sides)}, tag {tag}")
        case _:
            raise ValueError("must be its sides and a typed array")
    match typed:
        case memoryview():
            return (rows, columns), code, "", 0, typed
        case Tagged(56500, [str(algorithm), element, memoryview() as received]):
            size = element if type(element) is int and 0 <= element <= 8 else 0
            return (rows, columns), code, algorithm, size, received
    raise ValueError(f"bytes must be plain or have tag {_COMPRESSED}, got {_short(typed)}")


def _decompress(algorithm: str, element: int, received: memoryview, n_needed: int) -> bytes:
    """Decompress, after a look at the length that the bytes themselves announce."""
    from dectris.compression import decompress

    if algorithm not in _FRAMED:
        raise ValueError(f"compression must be {', '.join(_FRAMED)}, got {algorithm!a:.40}")
    if len(received) < 12:
        raise ValueError(f"compressed bytes must be at least 12, got {len(received)}")
    n_announced, n_block_bytes = struct.unpack_from(">QI", received)
    if n_announced != n_needed:
        raise ValueError(f"decompresses to {n_announced} bytes, {n_needed} are needed")
    if algorithm != "lz4" and element not in (1, 2, 4, 8):
        raise ValueError(f"element size must be 1, 2, 4 or 8, got {element}")
    if n_block_bytes > max(n_needed, 65_536):
        raise ValueError(f"block of {n_block_bytes} bytes is larger than the frame")
    try:
        plain: bytes = decompress(received, algorithm, elem_size=element)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"{algorithm}: {error}") from None
    return plain


def _start(content: Mapping[str, Any]) -> DetectorStart:
    names = content.get("channels")
    names = names if isinstance(names, list) else []
    channels = tuple(name for name in names if isinstance(name, str))[:MAX_CHANNELS]
    n_images = content.get("number_of_images")
    counted = _is_count(n_images) and 0 < n_images < _NO_COUNT
    user = content.get("user_data")
    ours = user if isinstance(user, dict) else {}
    energy_ev = _positive(content.get("incident_energy"))
    return DetectorStart(
        series=_series(content),
        n_images=n_images if counted else None,
        channels=channels,
        calibration=Calibration(
            # The detector knows its own pixels, in metres; what one spans on the specimen can
            # only come from the user.
            pixel_size_nm=_positive(ours.get("pixel_size_nm")),
            dose_e_per_nm2=_positive(ours.get("dose_e_per_nm2")),
            exposure_s=_positive(content.get("count_time")),
            voltage_kv=energy_ev / 1000 if energy_ev else None,
        ),
        metadata={
            _text(key)[:128]: _text(value)
            for key, value in content.items()
            if key not in _NOT_METADATA and value is not None
        },
    )


def _image(content: Mapping[str, Any], *, fault: str, limits: FeedLimits) -> DetectorImage:
    image_id = content.get("image_id")
    if not _is_count(image_id) or image_id > limits.max_sequence:
        raise WireError(
            "bad_field", f"image_id must be 0 to {limits.max_sequence}, got {_short(image_id)}"
        )
    arrays = content.get("data")
    if not isinstance(arrays, dict) or not 1 <= len(arrays) <= MAX_CHANNELS:
        fault = fault or f"data must be a map of 1 to {MAX_CHANNELS} channels"
        arrays = {}
    return DetectorImage(
        series=_series(content),
        image_id=image_id,
        acquired_ns=_acquired_ns(content),
        channels={name: decode_array(array, limits=limits) for name, array in arrays.items()},
        fault=fault,
    )


def _series(content: Mapping[str, Any]) -> str:
    """Name a series by its number and its unique identity."""
    number, identity = content.get("series_id"), content.get("series_unique_id", "")
    if not _is_count(number) or not isinstance(identity, str):
        raise WireError(
            "bad_field", f"series_id must be a number and series_unique_id text, got "
            f"{_short(number)} and {_short(identity)}",
        )  # fmt: skip
    return series_name_of_feed(f"series-{number}-{identity}".rstrip("-"))


def _acquired_ns(content: Mapping[str, Any]) -> int:
    """Return when the exposure began, in nanoseconds since 1970; 0 when that is not said."""
    date, since = content.get("series_date"), content.get("start_time")
    match date, since:
        case Tagged(0, str(text)), [int(ticks), int(ticks_per_s)] if ticks >= 0 < ticks_per_s:
            try:
                begun = dt.datetime.fromisoformat(text)
            except ValueError:
                return 0
            epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
            if begun.tzinfo is None:
                return 0
            begun_ns = (begun - epoch) // dt.timedelta(microseconds=1) * 1000
            acquired_ns = begun_ns + ticks * 1_000_000_000 // ticks_per_s
            return acquired_ns if 0 <= acquired_ns <= _MAX_INT else 0
    return 0


def _positive(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30:
        return float(value)
    return None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MAX_INT


def _text(value: Any) -> str:
    """Return anything as printable text; arrays by their length only."""
    match value:
        case Tagged(0, str(text)):
            value = text
        case Tagged(tag, _):
            value = f"array (tag {tag})"
        case dict():
            value = ", ".join(f"{key}: {_text(one)}" for key, one in list(value.items())[:64])
        case list():
            value = ", ".join(_text(one) for one in value[:64])
        case memoryview():
            value = f"{len(value)} bytes"
    text = str(value)[:_MAX_TEXT]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _short(value: Any) -> str:
    return f"{_text(value)!a:.80}"
