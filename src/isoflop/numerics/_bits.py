"""Unsigned integer operations that keep their width inside numba.

Numba widens `uint32 + uint32` to 64 bits, which halves the vector width and hides the loop from
the vectoriser. These intrinsics emit the LLVM instruction of the operand's own width.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # it drops the typing context from what it decorates

_FLOAT_OF = {types.uint32: types.float32, types.uint64: types.float64}
_UINT_OF = {v: k for k, v in _FLOAT_OF.items()}


def _binary(instruction: str) -> Any:
    @intrinsic
    def operation(typing_context, a, b):
        signature = a(a, a)

        def emit(context, builder, signature, arguments):
            return getattr(builder, instruction)(arguments[0], arguments[1])

        return signature, emit

    return operation


add = _binary("add")
sub = _binary("sub")
mul = _binary("mul")
shr = _binary("lshr")
shl = _binary("shl")
band = _binary("and_")
bor = _binary("or_")
bxor = _binary("xor")


@intrinsic
def as_float(typing_context, a):
    """Reinterpret the bits of an unsigned integer as a float of its width."""
    result = _FLOAT_OF[a]

    def emit(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return result(a), emit


@intrinsic
def as_uint(typing_context, a):
    """Reinterpret the bits of a float as an unsigned integer of its width."""
    result = _UINT_OF[a]

    def emit(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return result(a), emit


@intrinsic
def signed_to_float(typing_context, a):
    """The value of a small non-negative integer as a float of its width."""
    result = _FLOAT_OF[a]

    def emit(context, builder, signature, arguments):
        return builder.sitofp(arguments[0], context.get_value_type(signature.return_type))

    return result(a), emit


@intrinsic
def float_to_signed(typing_context, a):
    """The integer part of a non-negative float below the integers' half range, as an unsigned
    integer of its width."""
    result = _UINT_OF[a]

    def emit(context, builder, signature, arguments):
        return builder.fptosi(arguments[0], context.get_value_type(signature.return_type))

    return result(a), emit
