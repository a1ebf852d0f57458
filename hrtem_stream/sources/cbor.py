"""CBOR (RFC 8949) as a detector sends it, read without trust.

The library cbor2 is not used on what comes off the wire: it builds whatever a message names
(millions of empty lists from as many bytes, regular expressions, numbers of any length), and gives
nothing of a message that was cut short. Here the number of items, the depth and every length are
bounded, byte strings are views of the message, tags are handed on as `Tagged`, and of a damaged
map what stands before the damage is still there.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from hrtem_stream.errors import WireError

MAX_ITEMS: Final = 20_000
MAX_DEPTH: Final = 16
MAX_TEXT_BYTES: Final = 65_536
_SELF_DESCRIBED: Final = 55799
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}
_SIMPLE_VALUES: Final = {20: False, 21: True, 22: None, 23: None}
_BREAK: Final = object()


class Tagged(NamedTuple):
    """An item with a tag that says what it means."""

    tag: int
    content: Any


class DamagedMapError(WireError):
    """A map that cannot be read to its end; `found` is what came before the damage."""

    def __init__(self, message: str, found: dict[str, Any]) -> None:
        """Keep what was found."""
        super().__init__("unreadable_message", message)
        self.found = found


def read_map(message: memoryview) -> dict[str, Any]:
    """Read a message that is one map with text for keys.

    Parameters
    ----------
    message
        The bytes, (n,) of format B.

    Returns
    -------
    dict
        Byte strings as views of `message`, arrays as lists, tagged items as `Tagged`.

    Raises
    ------
    DamagedMapError
        When it is something else, ends early, has bytes left over, or is beyond a bound.
    """
    reader = _Reader(message)
    found: dict[str, Any] = {}
    try:
        major, n_pairs = reader.head()
        while major == _TAG and n_pairs == _SELF_DESCRIBED:
            major, n_pairs = reader.head()
        if major != _MAP:
            raise _UnreadableError("must be a map")
        reader.pairs(n_pairs, found, depth=1)
        if reader.place != len(message):
            raise _UnreadableError(f"has {len(message) - reader.place} bytes after its end")
    except _UnreadableError as error:
        raise DamagedMapError(f"message {error}", found) from None
    return found


class _UnreadableError(Exception):
    """The message breaks a rule."""


class _Reader:
    def __init__(self, message: memoryview) -> None:
        self._message = message
        self._n_items = 0
        self.place = 0

    def head(self) -> tuple[int, int | None]:
        """Read the head of an item: major type and argument, None for an indefinite length."""
        self._n_items += 1
        if self._n_items > MAX_ITEMS:
            raise _UnreadableError(f"has more than {MAX_ITEMS} items")
        first = self._take(1)[0]
        major, short = first >> 5, first & 31
        if short < 24 or (major == _SIMPLE and short == 31):
            return major, short
        if short <= 27:
            if major == _SIMPLE:
                return major, short
            return major, int.from_bytes(self._take(1 << (short - 24)), "big")
        if short == 31 and major in (_ARRAY, _MAP):
            return major, None
        raise _UnreadableError(f"has an item that begins with 0x{first:02x}")

    def pairs(self, n_pairs: int | None, found: dict[str, Any], *, depth: int) -> None:
        """Read the pairs of a map into `found`."""
        while n_pairs is None or n_pairs > 0:
            key = self.item(depth)
            if key is _BREAK and n_pairs is None:
                return
            if not isinstance(key, str):
                raise _UnreadableError("has a key that is no text")
            if key in found:
                raise _UnreadableError(f"has the key {key!a:.40} twice")
            found[key] = self._value(depth)
            n_pairs = None if n_pairs is None else n_pairs - 1

    def item(self, depth: int) -> Any:
        """Read one item, `_BREAK` for the end of an indefinite one."""
        major, argument = self.head()
        if depth > MAX_DEPTH:
            raise _UnreadableError(f"is nested deeper than {MAX_DEPTH}")
        match major:
            case 0:  # unsigned
                return argument
            case 1:  # negative
                return -1 - (argument or 0)
            case 2:  # bytes
                return self._take(argument or 0)
            case 3:  # text
                return self._text(argument or 0)
            case 4:  # array
                return self._array(argument, depth + 1)
            case 5:  # map
                found: dict[str, Any] = {}
                self.pairs(argument, found, depth=depth + 1)
                return found
            case 6:  # tag
                return Tagged(argument or 0, self._value(depth + 1))
        return self._simple(argument or 0)

    def _value(self, depth: int) -> Any:
        value = self.item(depth)
        if value is _BREAK:
            raise _UnreadableError("has an end where there must be a value")
        return value

    def _array(self, n_items: int | None, depth: int) -> list[Any]:
        found: list[Any] = []
        while n_items is None or len(found) < n_items:
            value = self.item(depth)
            if value is _BREAK:
                if n_items is None:
                    break
                raise _UnreadableError("has an end where there must be a value")
            found.append(value)
        return found

    def _text(self, n_bytes: int) -> str:
        if n_bytes > MAX_TEXT_BYTES:
            raise _UnreadableError(f"has a text of {n_bytes} bytes, more than {MAX_TEXT_BYTES}")
        try:
            return str(self._take(n_bytes), "utf-8")
        except UnicodeDecodeError:
            raise _UnreadableError("has a text that is not UTF-8") from None

    def _simple(self, short: int) -> Any:
        if short == 31:
            return _BREAK
        if short in _FLOATS:
            code = _FLOATS[short]
            return struct.unpack(code, self._take(struct.calcsize(code)))[0]
        if short in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[short]
        raise _UnreadableError(f"has the simple value {short}, which has no meaning")

    def _take(self, n_bytes: int) -> memoryview:
        end = self.place + n_bytes
        if end > len(self._message):
            n_left = len(self._message) - self.place
            raise _UnreadableError(f"ends early: {n_bytes} bytes are needed, {n_left} are left")
        taken = self._message[self.place : end]
        self.place = end
        return taken
