"""A typed door to numba: machine code for the few loops that NumPy cannot express in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile at the first call, keep the machine code on disk, let other threads run meanwhile."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))
