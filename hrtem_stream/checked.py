"""Checks that the fields of a record that was read are what its class says they are."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np

INT64: Final = range(-(2**63), 2**64)
"""Signed numbers, and digests, which take all 64 bits."""

T = TypeVar("T")
Check: TypeAlias = Callable[[Any], bool]


def checked_record(record: T) -> T:
    """Give the record back if each of its fields has its type.

    Raises
    ------
    ValueError
        A field is of another type.
    """
    kind: Any = type(record)
    for name, is_sound, hint in _checks(kind):
        value = getattr(record, name)
        if not is_sound(value):
            raise ValueError(f"{name} must be {_words(hint)}, got {value!a:.80}")
    return record


@functools.cache
def _checks(kind: Any) -> tuple[tuple[str, Check, Any], ...]:
    """Give name, check and type of each field; worked out once, as records come by thousands."""
    hints = typing.get_type_hints(kind)
    return tuple((name, _check_of(hint), hint) for name, hint in hints.items())


def _check_of(hint: Any) -> Check:
    """Give the function that tells whether a value is of a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is np.ndarray:
        return lambda value: isinstance(value, np.ndarray)
    if origin is typing.Literal:
        return lambda value: type(value) is str and value in arguments
    checks = tuple(_check_of(argument) for argument in arguments if argument is not Ellipsis)
    if origin is types.UnionType:
        return lambda value: any(is_sound(value) for is_sound in checks)
    if origin is dict:
        is_key, is_item = checks
        return lambda value: (
            type(value) is dict
            and all(is_key(key) and is_item(item) for key, item in value.items())
        )
    if origin is tuple:
        return lambda value: (
            len(value) == len(checks)
            and all(is_sound(item) for is_sound, item in zip(checks, value, strict=True))
        )
    if hint is int:
        return lambda value: type(value) is int and value in INT64
    if hint is float:
        return lambda value: type(value) in (int, float)
    return lambda value: type(value) is hint


def _words(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
