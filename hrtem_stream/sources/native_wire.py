"""The words of the native feed: any camera script with ZeroMQ and msgpack can feed us.

The feed sends multipart messages over PUSH, which waits while we are busy, or over PUB, which
drops what we do not take in time. Part 1 is a msgpack map, part 2, in a frame only, the pixels in
row-major order. `?` marks a key that may be left out or nil.

start
    version 1, type "start", series? str, n_frames? int, pixel_size_nm? float, exposure_s? float,
    dose_e_per_nm2? float, voltage_kv? float, metadata? map
frame
    version 1, type "frame", series? str, sequence int from 0, shape [M, N], dtype str,
    acquired_ns? int since 1970, name? str; then the pixels
end
    version 1, type "end", series? str, n_frames? int

The dtype is numpy's: u1, u2, u4, i2, i4, f4 or f8 behind `<` or `>`, or its name, such as uint16,
for little endian. Frames may come without a start. A series without a name has that of the
settings, a frame or end without one belongs to the present series; a name under which no file may
be kept is mended. Keys that are not listed are ignored.

Every length is checked before anything is decoded or allocated: what comes off the wire may be
wrong or hostile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeGuard

import msgpack
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import WireError
from hrtem_stream.messages import (
    Calibration,
    FeedFrame,
    FeedItem,
    FeedReject,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.series_name import series_name_of_feed

VERSION: Final = 1
FEED: Final = "native"
REJECT_REASONS: Final = (
    "n_parts",
    "header_too_long",
    "unreadable_header",
    "unknown_version",
    "unknown_type",
    "bad_field",
    "frame_too_large",
    "connection_broken",
)
"""All values of `FeedReject.reason` that this feed gives."""

Part: TypeAlias = bytes | memoryview

_CODES: Final = ("u2", "u4", "i2", "i4", "f4", "f8")
_DTYPES: Final = {
    **{f"{order}{code}": f"{order}{code}" for order in "<>" for code in _CODES},
    **{np.dtype(f"<{code}").name: f"<{code}" for code in _CODES},
    **dict.fromkeys(("u1", "|u1", "<u1", ">u1", "uint8"), "|u1"),
}
_MAX_INT: Final = 2**63 - 1
_MAX_ITEMS: Final = 256
_MAX_TEXT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedLimits:
    """How large a message may be."""

    max_header_bytes: int = 64 * 1024
    max_side: int = 16384
    """Of a frame, in pixels."""
    max_frame_bytes: int = 512 * 1024 * 1024
    max_sequence: int = 2**31 - 1
    """A number far ahead would declare all frames before it lost."""


def decode_feed_message(parts: Sequence[Part], *, limits: FeedLimits) -> FeedItem:
    """Read one message of the native feed.

    Parameters
    ----------
    parts
        The parts as received. Pixels become a read-only view of the second one, except that big
        endian ones are converted.
    limits
        Bounds that are checked before decoding.

    Returns
    -------
    FeedItem
        `FeedFrame` with a `fault` and the payload as bytes where only the pixels cannot be read,
        `FeedReject` where it is not even known which frame it is. Never raises.
    """
    try:
        header = _decode_header(parts, limits=limits)
        kind = header.get("type")
        if kind == "frame":
            return _decode_frame(header, parts, limits=limits)
        if kind not in ("start", "end"):
            raise WireError("unknown_type", f"type must be start, frame or end, got {kind!a:.80}")
        if len(parts) != 1:
            raise WireError("n_parts", f"{kind} must have 1 part, has {len(parts)}")
        return _decode_start(header) if kind == "start" else _decode_end(header)
    except WireError as error:
        return FeedReject(reason=error.reason, message=str(error))
    except RecursionError:
        return FeedReject(reason="unreadable_header", message="header is nested too deeply")


def _decode_header(parts: Sequence[Part], *, limits: FeedLimits) -> dict[str, Any]:
    if not 1 <= len(parts) <= 2:
        raise WireError("n_parts", f"message must have 1 or 2 parts, has {len(parts)}")
    n_bytes = len(parts[0])
    if n_bytes > limits.max_header_bytes:
        raise WireError(
            "header_too_long",
            f"header must have at most {limits.max_header_bytes} bytes, has {n_bytes}",
        )
    try:
        header = msgpack.unpackb(
            parts[0],
            raw=False,
            strict_map_key=True,
            max_str_len=limits.max_header_bytes,
            max_bin_len=limits.max_header_bytes,
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_ITEMS,
            max_ext_len=64,
        )
    except (ValueError, OverflowError, msgpack.UnpackException) as error:
        raise WireError("unreadable_header", f"header is no msgpack: {error!a:.200}") from error
    if not isinstance(header, dict) or not all(isinstance(key, str) for key in header):
        raise WireError("unreadable_header", "header must be a map with text for keys")
    version = header.get("version")
    if type(version) is not int or version != VERSION:
        raise WireError("unknown_version", f"version must be {VERSION}, got {version!a:.80}")
    return header


def _decode_start(header: Mapping[str, Any]) -> SeriesStart:
    ignored: dict[str, str] = {}
    series = _series(header)
    if header.get("series") and series != header["series"]:
        ignored["name_at_the_feed"] = _text(header["series"])[:256]
    calibration = Calibration(
        pixel_size_nm=_positive(header, "pixel_size_nm", ignored=ignored),
        exposure_s=_positive(header, "exposure_s", ignored=ignored),
        dose_e_per_nm2=_positive(header, "dose_e_per_nm2", ignored=ignored),
        voltage_kv=_positive(header, "voltage_kv", ignored=ignored),
    )
    n_expected = _count(header, ignored=ignored)
    metadata = header.get("metadata") or {}
    if not isinstance(metadata, dict):
        ignored["ignored_metadata"] = _text(metadata)
        metadata = {}
    return SeriesStart(
        series=series,
        n_expected=n_expected,
        feed=FEED,
        calibration=calibration,
        metadata={_text(key)[:128]: _text(value) for key, value in metadata.items()} | ignored,
    )


def _decode_end(header: Mapping[str, Any]) -> SeriesEnd:
    return SeriesEnd(series=_series(header), n_frames=_count(header, ignored={}))


def _decode_frame(
    header: Mapping[str, Any], parts: Sequence[Part], *, limits: FeedLimits
) -> FeedFrame:
    series = _series(header)
    sequence = header.get("sequence")
    if type(sequence) is not int or not 0 <= sequence <= limits.max_sequence:
        raise WireError(
            "bad_field",
            f"sequence must be a whole number from 0 to {limits.max_sequence}, "
            f"got {sequence!a:.80}",
        )
    if len(parts) != 2:
        raise WireError("n_parts", f"frame {sequence} must have 2 parts, has {len(parts)}")
    n_bytes = len(parts[1])
    if n_bytes > limits.max_frame_bytes:
        raise WireError(
            "frame_too_large",
            f"frame {sequence} must have at most {limits.max_frame_bytes} bytes, has {n_bytes}",
        )
    pixels, fault = _decode_pixels(header, parts[1], limits=limits)
    acquired_ns = header.get("acquired_ns")
    return FeedFrame(
        sequence=sequence,
        pixels=pixels,
        name=_text(header.get("name") or "")[:256],
        acquired_ns=acquired_ns if _is_int(acquired_ns, least=0) else 0,
        fault=fault,
        series=series,
    )


def _decode_pixels(
    header: Mapping[str, Any], payload: Part, *, limits: FeedLimits
) -> tuple[NDArray[np.generic], str]:
    """Return the pixels and no fault, or the bytes as received and the fault."""
    received = np.frombuffer(payload, np.uint8)
    received.flags.writeable = False
    shape = header.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(_is_int(side, least=1) and side <= limits.max_side for side in shape)
    ):
        return received, f"shape must be two sides of 1 to {limits.max_side}, got {shape!a:.80}"
    code = header.get("dtype")
    if not isinstance(code, str) or code not in _DTYPES:
        return received, f"dtype must be u1, u2, u4, i2, i4, f4 or f8, got {code!a:.80}"
    dtype = np.dtype(_DTYPES[code])
    n_needed = shape[0] * shape[1] * dtype.itemsize
    if received.size != n_needed:
        return received, (
            f"payload has {received.size} bytes, shape ({shape[0]}, {shape[1]}) of {dtype.str} "
            f"needs {n_needed}"
        )
    pixels: NDArray[np.generic] = received.view(dtype).reshape(shape[0], shape[1])
    if dtype.byteorder == ">":
        pixels = pixels.astype(dtype.newbyteorder("<"))
        pixels.flags.writeable = False
    return pixels, ""


def _series(header: Mapping[str, Any]) -> str:
    series = header.get("series")
    if series is None:
        return ""
    if not isinstance(series, str):
        raise WireError("bad_field", f"series must be text, got {series!a:.80}")
    return series_name_of_feed(series)


def _count(header: Mapping[str, Any], *, ignored: dict[str, str]) -> int | None:
    n_frames = header.get("n_frames")
    if _is_int(n_frames, least=0):
        return n_frames
    if n_frames is not None:
        ignored["ignored_n_frames"] = _text(n_frames)
    return None


def _positive(header: Mapping[str, Any], key: str, *, ignored: dict[str, str]) -> float | None:
    """Return a quantity above 0; one that is not is no reason to lose the series, but noted."""
    value = header.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30:
        return float(value)
    if value is not None:
        ignored[f"ignored_{key}"] = _text(value)
    return None


def _is_int(value: object, *, least: int) -> TypeGuard[int]:
    return type(value) is int and least <= value <= _MAX_INT


def _text(value: object) -> str:
    """Return anything as short printable text: archives refuse NUL, terminals obey escapes."""
    text = value if isinstance(value, str) else str(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_MAX_TEXT])
