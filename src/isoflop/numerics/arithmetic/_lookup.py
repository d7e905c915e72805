"""Sums of table lookups by byte shuffles (AVX2): 32 rows of weights read a 16-entry table at once.

A byte of the packed weights holds two 4-bit indices of one row; the row's table of the lookup is
broadcast and `pshufb` reads it for 32 rows in one instruction. Entries are unsigned bytes; sums
stay in bytes for as many lookups as cannot overflow them, then move to 16 and 32 bits.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # it drops the typing context from what it decorates
I: Any = ir.IntType
V: Any = ir.VectorType

LANES = 32
"""Rows per vector."""
VECTORS = 2
"""Vectors of weights per group of rows, so that a broadcast table serves both."""
GROUP = LANES * VECTORS
BLOCK = 256
"""Most packed bytes of a row visited before the next rows of the left side: what they share stays
in the nearest cache, and 16-bit sums of at most 255 per lookup cannot overflow."""

_BYTES, _WORDS, _TABLE = V(I(8), LANES), V(I(16), LANES // 2), V(I(8), 16)


def available() -> bool:
    """Whether this process compiles for a CPU with AVX2."""
    import platform

    from llvmlite import binding

    host = not numba.config.CPU_NAME and not numba.config.CPU_FEATURES  # type: ignore[attr-defined]
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return bool(x86 and host and binding.get_host_cpu_features().get("avx2"))


@intrinsic
def _sums(typing_context, rows, indices, at, tables, table_at, stride, steps, sums):
    """Add to `sums`, uint16 (rows, GROUP), two lookups for each of `steps` bytes of GROUP rows.

    `rows` is a literal; `at`, `table_at` and `stride` (between rows of tables) count bytes.
    Even lanes go to the first 16 places of each 32, odd lanes to the last.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    count: int = rows.literal_value  # type: ignore[attr-defined]
    i64 = types.int64
    signature = types.void(rows, indices, i64, tables, i64, i64, i64, sums)

    def emit(context, builder, signature, arguments):
        def pointer(i: int):
            array = context.make_array(signature.args[i])(context, builder, arguments[i])
            return builder.bitcast(array.data, I(8).as_pointer())

        def load(base, offset, kind):
            place = builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())
            return builder.load(place, align=1)

        codes, entries, out = pointer(1), pointer(3), pointer(7)
        start, first, between, steps = (arguments[i] for i in (2, 4, 5, 6))
        shuffle = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_BYTES, [_BYTES, _BYTES]), "llvm.x86.avx2.pshuf.b"
        )
        zero = ir.Constant(_BYTES, [0] * LANES)
        held = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)] for _ in range(count)
        ]
        for of_row in held:
            for place in of_row:
                builder.store(zero, place)
        low, shift = ir.Constant(_BYTES, [15] * LANES), ir.Constant(_WORDS, [4] * (LANES // 2))
        both = ir.Constant(V(I(32), LANES), [i % 16 for i in range(LANES)])
        with cgutils.for_range(builder, steps, intp=I(64)) as loop:
            base = builder.add(start, builder.mul(loop.index, I(64)(GROUP)))
            halves: list[list[Any]] = [[], []]
            for v in range(VECTORS):
                x = load(codes, builder.add(base, I(64)(LANES * v)), _BYTES)
                up = builder.bitcast(builder.lshr(builder.bitcast(x, _WORDS), shift), _BYTES)
                halves[0].append(builder.and_(x, low))
                halves[1].append(builder.and_(up, low))
            for m in range(count):
                row = builder.add(first, builder.mul(between, I(64)(m)))
                row = builder.add(row, builder.mul(loop.index, I(64)(32)))
                for which, picks in enumerate(halves):
                    table = load(entries, builder.add(row, I(64)(16 * which)), _TABLE)
                    table = builder.shuffle_vector(table, table, both)
                    for v in range(VECTORS):
                        found = builder.call(shuffle, [table, picks[v]])
                        place = held[m][v]
                        builder.store(builder.add(builder.load(place), found), place)
        eight, byte = (ir.Constant(_WORDS, [n] * (LANES // 2)) for n in (8, 255))
        for m in range(count):
            for v in range(VECTORS):
                x = builder.bitcast(builder.load(held[m][v]), _WORDS)
                for odd, part in enumerate((builder.and_(x, byte), builder.lshr(x, eight))):
                    offset = I(64)(2 * (m * GROUP + v * LANES + odd * 16))
                    place = builder.bitcast(builder.gep(out, [offset]), _WORDS.as_pointer())
                    builder.store(builder.add(builder.load(place, align=2), part), place, align=2)
        return context.get_dummy_value()

    return signature, emit


@cache
def _body(rows: int):
    """The product for `rows` rows of the left side at a time."""

    @numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
    def body(indices, tables, safe, start, stop, out):
        steps = indices.shape[1]
        sums = np.zeros((rows, GROUP), np.uint16)
        for first in range(0, steps, BLOCK):
            last = min(first + BLOCK, steps)
            for g in range(indices.shape[0]):
                for m in range(start, stop, rows):
                    sums[:] = 0
                    for s in range(first, last, safe):
                        _sums(
                            rows, indices, (g * steps + s) * GROUP, tables, (m * steps + s) * 32,
                            steps * 32, min(safe, last - s), sums,
                        )  # fmt: skip
                    for i in range(rows):
                        for j in range(GROUP):
                            out[m + i, g * GROUP + j] += np.int32(sums[i, j])

    return body


def lookup_sums(indices: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """sum over s and both halves of a byte of tables[m, s, half, index]: int32.

    Parameters
    ----------
    indices : uint8 (groups, steps, GROUP)
        Two 4-bit indices a byte, low half first; byte 2 r of each 32 is row r, byte 2 r + 1 is
        row 16 + r.
    tables : uint8 (rows, steps, 2, 16)
        No entry above 127, so that the two of a step cannot overflow a byte.

    Returns
    -------
    np.ndarray
        Shape (rows, groups * GROUP).
    """
    rows = len(tables)
    out = np.zeros((rows, len(indices) * GROUP), np.int32)
    safe = max(1, 255 // max(2 * int(tables.max(initial=0)), 1))
    whole = rows - rows % 4
    if whole:
        _body(4)(indices, tables, safe, 0, whole, out)
    if whole < rows:
        _body(1)(indices, tables, safe, whole, rows, out)
    return out
