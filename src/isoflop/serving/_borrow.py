"""What the compiled loop needs of numba: inlining, and records without reference counts.

Passing a record of forty arrays to a small function costs eighty atomic counter updates, ten
times the work of the function. `borrowed` hands the loop the same arrays without an owner: the
caller keeps them alive, and the counters fold away.
"""

from __future__ import annotations

import numba
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_untracked
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

compiled = numba.njit(cache=True, error_model="numpy", forceinline=True)


@compiled
def returned(record, views):
    """Nothing to write back: what is borrowed are the arrays themselves."""


@compiled
def below(grid, value):
    """Index of the knot at or below `value`, at most the last but one."""
    low = 0
    high = len(grid) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if grid[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@intrinsic
def borrowed(typing_context, record):
    """The named tuple `record` with every array's owner taken away."""

    def generate(context, builder, signature, arguments):
        kind = signature.args[0]
        values = []
        for element, value in zip(kind, cgutils.unpack_tuple(builder, arguments[0])):
            if isinstance(element, types.Array):
                array = make_array(element)(context, builder, value)
                array.meminfo = cgutils.get_null_value(array.meminfo.type)
                array.parent = cgutils.get_null_value(array.parent.type)
                value = array._getvalue()
            values.append(value)
        made = context.make_tuple(builder, signature.return_type, values)
        return impl_ret_untracked(context, builder, signature.return_type, made)

    return record(record), generate
