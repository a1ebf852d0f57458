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

_ROW_DTYPE = np.dtype("<f8")
_MAX_BYTES_HEAD = 5
"""Of bytes in msgpack."""
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
    return pack(None if table is None else table.astype(_ROW_DTYPE, copy=False).tobytes())


def read_rows(part: Part, most: int, what: str) -> NDArray[np.float64] | None:
    """Give a part as an (n, 3) table; raises WireError unless its n <= `most` rows are finite."""
    row_bytes = 3 * _ROW_DTYPE.itemsize
    content = unpack(part, row_bytes * most + _MAX_BYTES_HEAD, what)
    if content is None:
        return None
    if not (isinstance(content, bytes) and len(content) % row_bytes == 0):
        raise WireError("meta", f"{what} must be rows of three numbers, got {content!a:.80}")
    table = np.frombuffer(content, _ROW_DTYPE).reshape(-1, 3)
    if not np.isfinite(table).all():
        raise WireError("meta", f"{what} must be finite")
    return table.copy()


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


def any_bits(mask: Bits) -> Part:
    """Give a mask as `bits` does, and one without a pixel as nothing."""
    return bits(mask) if mask.any() else b""


def read_any_bits(part: Part, like: NDArray[Any]) -> Bits:
    """Give what `any_bits` made as a read-only mask of the shape of an array that came.

    Raises
    ------
    WireError
        It has neither the bits of one nor none at all.
    """
    if len(part):
        return read_bits(part, like.shape)
    mask = np.zeros(like.shape, np.bool_)
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
