"""Checks that the fields of a record that was read are what its class says they are."""

from __future__ import annotations

import functools
import types
import typing
from typing import Any, Final, TypeVar

import numpy as np

INT64: Final = range(-(2**63), 2**64)
"""Signed numbers, and digests, which take all 64 bits."""

T = TypeVar("T")


def checked_record(record: T) -> T:
    """Give the record back if each of its fields has its type.

    Raises
    ------
    ValueError
        A field is of another type.
    """
    kind: Any = type(record)
    for name, hint in _hints(kind).items():
        value = getattr(record, name)
        if not _is_a(value, hint):
            raise ValueError(f"{name} must be {_words(hint)}, got {value!a:.80}")
    return record


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _is_a(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_is_a(value, argument) for argument in arguments)
    if origin is dict:
        return type(value) is dict and all(
            _is_a(key, arguments[0]) and _is_a(item, arguments[1]) for key, item in value.items()
        )
    if origin is tuple:
        return len(value) == len(arguments) and all(map(_is_a, value, arguments))
    if origin is typing.Literal:
        return type(value) is str and value in arguments
    if origin is np.ndarray:
        return isinstance(value, np.ndarray)
    if hint is int:
        return type(value) is int and value in INT64
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _words(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
