from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrtem_stream.sources.cbor import MAX_ITEMS, DamagedMapError, Tagged, read_map

cbor2 = pytest.importorskip("cbor2")

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
MAPS = st.dictionaries(st.text(max_size=30), _values, max_size=8)


def read(message: bytes) -> dict[str, Any]:
    return read_map(memoryview(message))


@given(MAPS)
def test_a_map_is_read_as_cbor2_wrote_it(content: dict[str, Any]) -> None:
    assert read(cbor2.dumps(content)) == content
    assert read(cbor2.dumps(cbor2.CBORTag(55799, content))) == content


def test_bytes_are_views_and_tags_are_handed_on() -> None:
    message = cbor2.dumps({"a": cbor2.CBORTag(69, b"\x01\x02"), "b": cbor2.CBORTag(35, "(a+)+$")})
    found = read(message)
    assert isinstance(found["a"], Tagged)
    assert found["a"].tag == 69
    assert found["a"].content.obj is message
    assert bytes(found["a"].content) == b"\x01\x02"
    assert found["b"] == Tagged(35, "(a+)+$")


def test_lengths_that_are_not_told_are_read() -> None:
    assert read(b"\xbf\x61a\x9f\x01\x02\xff\x61b\xf5\xff") == {"a": [1, 2], "b": True}


@pytest.mark.parametrize(("code", "value"), [("f93e00", 1.5), ("fa3fc00000", 1.5), ("f7", None)])
def test_small_numbers_and_undefined_are_read(code: str, value: object) -> None:
    assert read(b"\xa1\x61x" + bytes.fromhex(code)) == {"x": value}


@given(MAPS, st.data())
def test_of_a_map_that_ends_early_the_beginning_is_kept(
    content: dict[str, Any], data: st.DataObject
) -> None:
    message = cbor2.dumps(content)
    n_bytes = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(DamagedMapError) as caught:
        read(message[:n_bytes])
    assert caught.value.found.items() <= content.items()


HOSTILE = {
    "nothing": b"",
    "no map": b"\x83\x01\x02\x03",
    "more bytes after it": b"\xa0\x00",
    "a key that is no text": b"\xa1\x01\x01",
    "a key twice": b"\xa2\x61a\x01\x61a\x02",
    "text that is not UTF-8": b"\xa1\x61a\x61\xff",
    "text beyond all memory": b"\xa1\x61a\x7b" + b"\x7f" * 8,
    "bytes beyond all memory": b"\xa1\x61a\x5b" + b"\x7f" * 8,
    "a list beyond all memory": b"\xa1\x61a\x9b" + b"\x7f" * 8,
    "a map beyond all memory": b"\xbb" + b"\x7f" * 8,
    "deep nesting": b"\xa1\x61a" + b"\x81" * 5000 + b"\x00",
    "deep tags": b"\xa1\x61a" + b"\xc1" * 5000 + b"\x00",
    "too many items": b"\xa1\x61a\x99\xff\xff" + b"\x80" * 65535,
    "bytes in chunks": b"\xa1\x61a\x5f\x41a\xff",
    "an end in a list of known length": b"\xa1\x61a\x82\x01\xff",
    "an end as a value": b"\xbf\x61a\xff",
    "a reserved length": b"\xa1\x61a\x1c",
    "a simple value without meaning": b"\xa1\x61a\xe5",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message_that_breaks_a_rule_is_refused_at_little_cost(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DamagedMapError) as caught:
            read(HOSTILE[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < len(str(caught.value)) < 200
    assert peak < 200 * MAX_ITEMS


@given(st.binary(max_size=200))
def test_no_bytes_whatever_do_anything_else(message: bytes) -> None:
    try:
        read(message)
    except DamagedMapError as error:
        assert error.reason == "unreadable_message"


@given(MAPS, st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_does_nothing_else(content: dict[str, Any], place: int, byte: int) -> None:
    message = bytearray(cbor2.dumps(content))
    message[place % len(message)] = byte
    try:
        read(bytes(message))
    except DamagedMapError as error:
        assert isinstance(error.found, dict)
