"""Words at any byte of an array, and zeros at their ends: only in compiled code."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def load_word(_: Any, source: Any, offset: Any) -> Any:
    """Read a uint64 at any byte of an array of bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(source, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def zeros_below(_: Any, word: Any) -> Any:
    """Count the zeros below the lowest one of a uint64, 64 if it has none."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def zeros_above(_: Any, word: Any) -> Any:
    """Count the zeros above the highest one of a uint64, 64 if it has none."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate
