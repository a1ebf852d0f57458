"""A typed door to numba: machine code for the few loops that NumPy cannot express in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile at the first call, keep the machine code on disk, let other threads run meanwhile."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@intrinsic  # type: ignore[untyped-decorator]
def store_word(_: Any, out: Any, offset: Any, word: Any) -> Any:
    """Write a uint64 at any byte of an array of bytes; only in compiled code.

    NumPy's views know words at multiples of eight bytes only.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        builder.store(arguments[2], builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(out, types.int64, types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def multiply_add(_: Any, factor: Any, value: Any, added: Any) -> Any:
    """Return factor · value + added, rounded once where the processor can; only in compiled code.

    All three are of one floating type.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = arguments[0].type
        kind = ir.FunctionType(number, [number] * 3)
        fused = builder.module.declare_intrinsic("llvm.fmuladd", [number], kind)
        return builder.call(fused, arguments)

    return added(added, added, added), generate


@intrinsic  # type: ignore[untyped-decorator]
def stretch(_: Any, array: Any, first: Any, n: Any) -> Any:
    """View n elements of a C-ordered array from a flat index on; only in compiled code.

    Unlike a slice it is not counted as a reference, which costs as much as a hundred pixels: the
    array must outlive it.
    """
    viewed = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        view = context.make_array(signature.return_type)(context, builder)
        size = context.get_abi_sizeof(context.get_data_type(array.dtype))
        item_bytes = context.get_constant(types.intp, size)
        populate_array(
            view, data=builder.gep(source.data, [arguments[1]]), shape=[arguments[2]],
            strides=[item_bytes], itemsize=item_bytes, meminfo=None,
        )  # fmt: skip
        return view._getvalue()

    return viewed(array, types.intp, types.intp), generate
