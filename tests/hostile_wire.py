"""Messages of the native feed that are wrong, broken or meant to harm."""

from __future__ import annotations

from typing import Any

import msgpack


def _packed(**header: Any) -> bytes:
    return bytes(msgpack.packb(header))


def _frame(**changes: Any) -> bytes:
    header = {
        "version": 1,
        "type": "frame",
        "series": "S1",
        "sequence": 3,
        "shape": [2, 3],
        "dtype": "<u2",
    }
    return _packed(**(header | changes))


PIXELS = bytes(12)
START = {"version": 1, "type": "start", "series": "S1"}

REJECTED: dict[str, tuple[str, list[bytes]]] = {
    "nothing at all": ("n_parts", []),
    "three parts": ("n_parts", [_frame(), PIXELS, PIXELS]),
    "a frame without pixels": ("n_parts", [_frame()]),
    "a start with pixels": ("n_parts", [_packed(**START), PIXELS]),
    "an empty header": ("unreadable_header", [b""]),
    "a header of noise": ("unreadable_header", [b"\xc1\xff\x00garbage"]),
    "JSON": ("unreadable_header", [b'{"version": 1}']),
    "a number": ("unreadable_header", [msgpack.packb(7)]),
    "a list": ("unreadable_header", [msgpack.packb([1, 2])]),
    "a cut header": ("unreadable_header", [_frame()[:-3], PIXELS]),
    "bytes behind the header": ("unreadable_header", [_frame() + b"\x00", PIXELS]),
    "keys that are numbers": ("unreadable_header", [msgpack.packb({1: 1, "version": 1})]),
    "keys that are bytes": ("unreadable_header", [msgpack.packb({b"version": 1})]),
    "text that is no UTF-8": ("unreadable_header", [b"\x81\xa7version\xa2\xff\xfe"]),
    "an array of four thousand million": ("unreadable_header", [b"\xdd\xff\xff\xff\xff"]),
    "a map of four thousand million": ("unreadable_header", [b"\xdf\xff\xff\xff\xff"]),
    "text of four gigabytes": ("unreadable_header", [b"\xdb\xff\xff\xff\xff"]),
    "an extension of four gigabytes": ("unreadable_header", [b"\xc9\xff\xff\xff\xff\x01"]),
    "a broken time stamp": ("unreadable_header", [b"\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12]),
    "sixty thousand lists in each other": ("unreadable_header", [b"\x91" * 60_000 + b"\xc0"]),
    "a map with too many keys": (
        "unreadable_header",
        [_packed(**START, metadata={str(k): k for k in range(300)})],
    ),
    "an endless header": ("header_too_long", [_frame(name="x" * 70_000), PIXELS]),
    "no version": ("unknown_version", [_packed(type="end", series="S1")]),
    "version 2": ("unknown_version", [_frame(version=2), PIXELS]),
    "version True": ("unknown_version", [_frame(version=True), PIXELS]),
    "version 1.0": ("unknown_version", [_frame(version=1.0), PIXELS]),
    "a version of nested lists": (
        "unknown_version",
        [b"\x81\xa7version" + b"\x91" * 500 + b"\xc0"],
    ),
    "no type": ("unknown_type", [_packed(version=1, series="S1")]),
    "type stop": ("unknown_type", [_frame(type="stop"), PIXELS]),
    "a type that cannot be hashed": ("unknown_type", [_frame(type=["frame"]), PIXELS]),
    "no sequence": ("bad_field", [_frame(sequence=None), PIXELS]),
    "a negative sequence": ("bad_field", [_frame(sequence=-1), PIXELS]),
    "a sequence of 2^63": ("bad_field", [_frame(sequence=2**63), PIXELS]),
    "a sequence far ahead": ("bad_field", [_frame(sequence=2**40), PIXELS]),
    "a sequence that is text": ("bad_field", [_frame(sequence="3"), PIXELS]),
    "a sequence True": ("bad_field", [_frame(sequence=True), PIXELS]),
    "a sequence that is not whole": ("bad_field", [_frame(sequence=1.5), PIXELS]),
    "a series that is bytes": ("bad_field", [_frame(series=b"S1"), PIXELS]),
    "a series that is a number": ("bad_field", [_frame(series=5), PIXELS]),
}
"""Which it is: the reason it must be rejected for, and its parts."""

ODD_NAMES = {
    "one that climbs": "../../etc/passwd",
    "one on Windows": "C:\\S1",
    "dots": "..",
    "a hidden one": ".S1",
    "one that looks like an option": "--overwrite",
    "one with NUL": "S1\0.nxs",
    "one that writes on the terminal": "\x1b[2J",
    "one that turns the text round": "S\u202e1",
    "129 characters": "S" * 129,
    "400 bytes": "\u7d20" * 128,
    "a date": "2014/06/01 Gr",
}
"""Names of series under which no file may be kept."""

FAULTY: dict[str, list[bytes]] = {
    "too few bytes": [_frame(), PIXELS[:-1]],
    "too many bytes": [_frame(), PIXELS + b"\0"],
    "no bytes": [_frame(), b""],
    "no shape": [_frame(shape=None), PIXELS],
    "a shape of text": [_frame(shape="2x3"), PIXELS],
    "one side": [_frame(shape=[6]), PIXELS],
    "three sides": [_frame(shape=[1, 2, 3]), PIXELS],
    "a side of nothing": [_frame(shape=[0, 3]), PIXELS],
    "a negative side": [_frame(shape=[-2, -3]), PIXELS],
    "sides of 2^62": [_frame(shape=[2**62, 2**62]), PIXELS],
    "sides whose product is small again": [_frame(shape=[2**63, 2]), PIXELS],
    "a side that is not whole": [_frame(shape=[2.0, 3.0]), PIXELS],
    "a side True": [_frame(shape=[True, 6]), PIXELS],
    "a large frame of a few bytes": [_frame(shape=[16384, 16384], dtype="<f8"), PIXELS],
    "no dtype": [_frame(dtype=None), PIXELS],
    "a dtype of objects": [_frame(dtype="|O"), PIXELS],
    "a dtype of fields": [_frame(dtype="<u2,<u2"), PIXELS],
    "a dtype with a shape": [_frame(dtype="(1000000,1000000)<u2"), PIXELS],
    "a dtype of complex": [_frame(dtype="<c8"), PIXELS],
    "a dtype of long text": [_frame(dtype="V" * 4000), PIXELS],
    "a dtype that cannot be hashed": [_frame(dtype=["<u2"]), PIXELS],
}
"""Frames whose number is known: their bytes must be kept, with a fault."""
