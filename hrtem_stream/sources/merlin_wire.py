"""The words of a Merlin (Medipix) detector on its data socket.

Everything is framed as `MPX,<ten digits>,` and as many bytes less one, as the number counts the
comma. An acquisition begins with its header, text that starts with `HDR`: one `name:` TAB `value`
a line. Then come frames: a header in ASCII, filled up with NUL,

    MQ1,sequence from 1,header bytes,chips,width,height,type,layout,chip select,time,exposure,...
    ...,MQ1A,ISO time,exposure in ns,bits,

and the pixels, big endian: U08, U16, U32, or R64, the counters as they were read out. That is
rows of 64-bit words that hold pixels of 1, 6 (in 8) or 12 (in 16) bits, the first one lowest; 24
bits are two images of 12, the higher one first. Four chips in a square lie in one row of blocks,
the last one first, the lower two upside down.

Sources: Quantum Detectors, Merlin user manual; the layout of R64 as LiberTEM 0.16 reads it.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import WireError
from hrtem_stream.sources.native_wire import FeedLimits
from hrtem_stream.sources.stack import FramePixels, damaged, supported

PREFIX_BYTES: Final = 15
MAX_HEADER_BYTES: Final = 65_536
REJECT_REASONS: Final = ("framing", "frame_too_large", "unknown_type", "bad_field")

PREFIX: Final = re.compile(rb"MPX,([0-9]{10}),")
_FIELDS: Final = re.compile(rb"[\x20-\x7e]*")
_UNSIGNED: Final = {"U08": "|u1", "U8": "|u1", "U16": ">u2", "U32": ">u4"}
_RAW: Final = {1: 1, 6: 8, 12: 16, 24: 32}
"""Bits that a pixel of so many counter bits takes."""
_MAX_TEXT: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquisitionHeader:
    """An acquisition begins."""

    n_frames: int | None
    """None where it runs until it is stopped."""
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MerlinFrame:
    """One frame."""

    sequence: int
    """From 0."""
    acquired_ns: int
    exposure_s: float | None
    pixels: FramePixels


def payload_bytes(prefix: bytes) -> int | None:
    """Return how many bytes follow a prefix; None where it is none."""
    found = PREFIX.fullmatch(prefix)
    return max(0, int(found[1]) - 1) if found else None


def decode_payload(payload: memoryview, *, limits: FeedLimits) -> AcquisitionHeader | MerlinFrame:
    """Read what follows a prefix.

    Raises
    ------
    WireError
        When it is not even known which frame it is; reason is one of `REJECT_REASONS`.
    """
    start = bytes(payload[:4])
    if start.startswith(b"HDR"):
        return _acquisition_header(bytes(payload[:MAX_HEADER_BYTES]))
    if start == b"MQ1,":
        return _frame(payload, limits=limits)
    raise WireError("unknown_type", f"must begin with HDR or MQ1, begins with {start!a}")


def _acquisition_header(header: bytes) -> AcquisitionHeader:
    found: dict[str, str] = {}
    for line in header.decode("latin1").splitlines():
        name, tab, value = line.partition("\t")
        if tab and name.strip().rstrip(":"):
            found[_text(name.strip().rstrip(":"))[:128]] = _text(value.strip())
    counts = [found[name] for name in found if name.lower().startswith("frames in acquisition")]
    n_frames = int(counts[0]) if counts and counts[0].isascii() and counts[0].isdigit() else 0
    return AcquisitionHeader(
        n_frames=n_frames if 0 < n_frames < 2**31 else None,
        metadata=found,
    )


def _frame(payload: memoryview, *, limits: FeedLimits) -> MerlinFrame:
    begun = bytes(payload[:MAX_HEADER_BYTES])
    fields = [field.strip() for field in _printable(begun).split(",")]
    sequence = _whole(fields[1]) if len(fields) > 1 else None
    if sequence is None or not 1 <= sequence <= limits.max_sequence:
        raise WireError(
            "bad_field", f"sequence must be 1 to {limits.max_sequence}, got {fields[1:2]!a:.80}"
        )
    try:
        pixels = _pixels(payload, fields, limits=limits)
    except ValueError as error:
        pixels = damaged(bytes(payload), fault=f"frame cannot be read: {error}")
    acquired_ns, exposure_s = _times(fields)
    return MerlinFrame(
        sequence=sequence - 1, acquired_ns=acquired_ns, exposure_s=exposure_s, pixels=pixels
    )


def _pixels(payload: memoryview, fields: list[str], *, limits: FeedLimits) -> FramePixels:
    if len(fields) < 9:
        raise ValueError(f"header must have 9 fields or more, has {len(fields)}")
    n_header, n_chips, width, height = (_whole(field) for field in fields[2:6])
    if n_header is None or not 0 < n_header <= min(len(payload), MAX_HEADER_BYTES):
        raise ValueError(f"header length must be 1 to {len(payload)}, got {fields[2]!a:.40}")
    # The bits of a pixel are the last field of the header, which the NULs end.
    bits = _whole(_printable(bytes(payload[:n_header])).rstrip(", ").rpartition(",")[2])
    sides = (height, width)
    if (
        width is None
        or height is None
        or not all(1 <= s <= limits.max_side for s in (width, height))
    ):
        raise ValueError(f"sides must be 1 to {limits.max_side}, got {sides}")
    plain = payload[n_header:]
    kind = fields[6].upper()
    if kind in _UNSIGNED:
        dtype = np.dtype(_UNSIGNED[kind])
        _require_bytes(len(plain), width * height * dtype.itemsize, limits=limits)
        return supported(np.frombuffer(plain, dtype).reshape(height, width))
    if kind != "R64" or bits not in _RAW:
        raise ValueError(
            f"type must be U08, U16, U32 or R64 of 1, 6, 12, 24 bits, got {kind!a:.20}, {bits}"
        )
    if bits == 24:
        if width % 2 or n_chips != 1:
            raise ValueError(f"24 bits are known of one chip only, got {n_chips}")
        width //= 2
    _require_bytes(len(plain), width * height * _RAW[bits] // 8, limits=limits)
    image = _counters(plain, bits).reshape(height, width)
    if n_chips == 4 and fields[7].upper().strip("G") == "2X2":
        image = _square_of_four(image)
    elif n_chips != 1:
        raise ValueError(
            f"layout must be one chip or 2x2 of four, got {fields[7]!a:.20}, {n_chips}"
        )
    return supported(image)


def _counters(plain: memoryview, bits: int) -> NDArray[Any]:
    """Turn the words of R64 into pixels, in their order, flat."""
    if len(plain) % 8:
        raise ValueError(f"raw pixels come in words of 8 bytes, got {len(plain)} bytes")
    words = np.frombuffer(plain, ">u8").astype("<u8")
    if bits == 1:
        return np.unpackbits(words.view(np.uint8), bitorder="little")
    if bits == 6:
        return words.view(np.uint8)
    counters = words.view("<u2")
    if bits == 12:
        return counters
    higher, lower = np.split(counters, 2)
    both: NDArray[Any] = (higher.astype("<u4") << 12) + lower
    return both


def _square_of_four(strip: NDArray[Any]) -> NDArray[Any]:
    """Lay out the chips of a (s, 4 s) strip as a (2 s, 2 s) square."""
    side = strip.shape[0]
    if strip.shape[1] != 4 * side:
        raise ValueError(f"four chips must be square and in a row, got {strip.shape}")
    chips = [strip[:, start : start + side] for start in range(0, 4 * side, side)]
    upper = np.hstack([chips[3], chips[2]])
    lower = np.hstack([chips[1][::-1, ::-1], chips[0][::-1, ::-1]])
    return np.vstack([upper, lower])


def _require_bytes(n_bytes: int, n_needed: int, *, limits: FeedLimits) -> None:
    if n_needed > limits.max_frame_bytes:
        raise ValueError(f"frame needs {n_needed} bytes, allowed {limits.max_frame_bytes}")
    if n_bytes != n_needed:
        raise ValueError(f"has {n_bytes} bytes of pixels, needs {n_needed}")


def _times(fields: list[str]) -> tuple[int, float | None]:
    """Return the time of acquisition in ns since 1970, and the exposure, of a frame's header."""
    exposure_s = None
    if len(fields) > 10 and re.fullmatch(r"[0-9.]{1,20}(E[+-]?[0-9]{1,2})?", fields[10], re.I):
        try:
            exposure_s = float(fields[10])
        except ValueError:
            exposure_s = None
    texts = fields[9:10]
    if "MQ1A" in fields:
        place = fields.index("MQ1A")
        texts = [*fields[place + 1 : place + 2], *texts]
        nanoseconds = fields[place + 2 : place + 3]
        if nanoseconds and re.fullmatch(r"[0-9]{1,18}ns", nanoseconds[0]):
            exposure_s = int(nanoseconds[0][:-2]) / 1e9
    usable = exposure_s if exposure_s and exposure_s < 1e30 else None
    return next((ns for ns in map(_since_1970_ns, texts) if ns), 0), usable


def _since_1970_ns(text: str) -> int:
    """Read a time, 0 when it cannot be; one without a zone is that of this machine's clock."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z?)", text)
    if not found:
        return 0
    try:
        moment = dt.datetime.fromisoformat(found[1])
        # A time with Z is universal; the detector's PC writes the other one in local time.
        seconds = int((moment.replace(tzinfo=dt.UTC) if found[3] else moment).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0
    return max(0, seconds * 1_000_000_000 + int((found[2] or "0").ljust(9, "0")))


def _printable(header: bytes) -> str:
    """Return the text that a header begins with, up to its first NUL."""
    return _FIELDS.match(header)[0].decode("ascii")  # type: ignore[index]


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def _text(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_MAX_TEXT])
