"""The parts of a message: msgpack, arrays and masks to bytes and back, as pure functions.

Nothing is allocated for what a message claims of itself: sizes are checked against what came.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgpack
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import WireError
from hrtem_stream.messages import Bits

Part: TypeAlias = bytes | memoryview

MAX_META_BYTES = 65_536
MAX_WORKING_PIXELS = 4096 * 4096

_UNPACK_ERRORS = (
    ValueError, OverflowError, TypeError, RecursionError, msgpack.exceptions.UnpackException,
)  # fmt: skip


def pack(content: Any) -> bytes:
    """Give msgpack."""
    packed: bytes = msgpack.packb(content)
    return packed


def unpack(part: Part, limit: int, what: str) -> Any:
    """Read msgpack; raises WireError if it is none, or longer than `limit`."""
    if len(part) > limit:
        raise WireError("size", f"{what} must have at most {limit} bytes, got {len(part)}")
    try:
        return msgpack.unpackb(part)
    except _UNPACK_ERRORS as error:
        raise WireError("meta", f"{what} is not msgpack: {error!a:.200}") from None


def raw(array: NDArray[Any]) -> Part:
    """Give an array as a part."""
    return np.ascontiguousarray(array).data.cast("B")


def rows(table: NDArray[np.float64] | None) -> Part:
    """Give a short (n, 3) table, or that there is none, as a part."""
    return pack(None if table is None else table.tolist())


def read_rows(part: Part, most: int, what: str) -> NDArray[np.float64] | None:
    """Give a part as an (n, 3) table; raises WireError unless its n <= `most` rows are finite."""
    content = unpack(part, 32 * most + 16, what)
    if content is None:
        return None
    if not (isinstance(content, list) and len(content) <= most):
        raise WireError("meta", f"{what} must be at most {most} rows")
    for row in content:
        if not (isinstance(row, list) and len(row) == 3 and all(map(_is_finite, row))):
            raise WireError("meta", f"{what} must be rows of three numbers, got {row!a:.80}")
    return np.array(content, np.float64).reshape(len(content), 3)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def read_array(part: Part, dtype: Any, shape: tuple[int, int]) -> NDArray[Any]:
    """Give a part as a read-only array; raises WireError unless it has the bytes of one."""
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(part) != expected:
        raise WireError(
            "size", f"an array of {shape} {np.dtype(dtype)} needs {expected} bytes, got {len(part)}"
        )
    array = np.frombuffer(part, dtype).reshape(shape)
    array.flags.writeable = False
    return array


def bits(mask: Bits) -> Part:
    """Give a mask as a part, eight pixels a byte."""
    return np.packbits(mask).data


def read_bits(part: Part, shape: tuple[int, int]) -> Bits:
    """Give a part as a read-only mask; raises WireError unless it has the bits of one."""
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


def working_shape(shape: Any) -> tuple[int, int]:
    """Read the shape of a working image; raises WireError unless it is one."""
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(v) is int for v in shape)):
        raise WireError("meta", f"a working shape must be two whole numbers, got {shape!r}")
    if min(shape) < 1 or shape[0] * shape[1] > MAX_WORKING_PIXELS:
        raise WireError("meta", f"a working image must have 1 to {MAX_WORKING_PIXELS} pixels")
    return shape[0], shape[1]


def need_parts(parts: Sequence[Part], n_parts: int) -> None:
    """Refuse a message of another number of parts with a WireError."""
    if len(parts) != n_parts:
        raise WireError("parts", f"need {n_parts} parts here, got {len(parts)}")
