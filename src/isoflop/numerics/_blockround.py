"""Choose a compiled body for block rounding, or say that there is none."""

from __future__ import annotations

import numpy as np

from . import _floatround
from .arrays import finite_or_raise
from .formats import BlockFormat, FloatFormat

_BLOCKS = (16, 32, 64, 128)
_INFINITY = 0x7F800000


def _trick(fmt: FloatFormat) -> tuple:
    """Scalars of the bit trick for a saturating float32 rounding."""
    U, F = np.uint32, np.float32
    shift = 23 - fmt.mantissa_bits
    return (
        U(shift), U(0xFFFFFFFF ^ ((1 << shift) - 1)), U((1 << (shift - 1)) - 1),
        F(fmt.min_normal).view(U), F(2.0 ** (23 + fmt.min_exponent - fmt.mantissa_bits)),
        F(fmt.max).view(U),
    )  # fmt: skip


def _carry(fmt: BlockFormat) -> int:
    """What to add to the bits of amax so that its exponent field rises as the rule says."""
    full = (1 << 23) - 1
    element = fmt.element
    assert isinstance(element, FloatFormat)  # `run` sees to it
    if fmt.rule == "ceil":
        return full
    if fmt.rule == "rceil":
        largest = int(np.float32(element.max).view(np.uint32)) & full
        return full - largest
    return 1 << (22 - element.mantissa_bits) if fmt.rule == "even" else 0


def run(fmt: BlockFormat, x: np.ndarray, policy, out=None, threads: int = 1) -> np.ndarray | None:
    """Round float32 `x` with compiled bodies; None where the NumPy body must do it.

    `out`: a contiguous float32 array of `x`'s size to write, which may be `x`. Results do not
    depend on `threads`.
    """
    element = fmt.element
    if (
        x.dtype != np.float32 or fmt.block not in _BLOCKS
        or not isinstance(element, FloatFormat) or not 1 <= element.mantissa_bits <= 22
        or policy.rounding != "nearest_even" or policy.float32_steps or not element.negative_zero
        or not _floatround.fits(element, x.dtype) or not _floatround.compiled(x.size)
        or not _scale_is_compiled(fmt)
    ):  # fmt: skip
        return None
    fmt.blocked(x)
    flat = np.ascontiguousarray(x).reshape(-1)
    result = np.empty_like(flat) if out is None else out.reshape(-1)
    if not _run(fmt, element, flat.view(np.uint32), result.view(np.uint32), threads):
        finite_or_raise(x, fmt.name)
    return result.reshape(x.shape)


def _scale_is_compiled(fmt: BlockFormat) -> bool:
    return fmt.scale.name == ("fp8-e4m3" if fmt.rule == "absmax" else "e8m0")


def _run(fmt: BlockFormat, element: FloatFormat, bits, target, threads: int) -> bool:
    """Round `bits` into `target`; whether all values were finite."""
    from . import _blockkernels

    tops, tensor = np.empty(0, np.uint32), np.float32(1)
    if fmt.two_level:
        tops, most = _measured(bits, fmt.block, threads)
        if most >= _INFINITY:
            return False
        tensor = fmt.tensor_scale_from(np.uint32(most).view(np.float32))
    if fmt.rule == "absmax":
        floor = np.float32(max(fmt.scale_floor, fmt.scale.min_positive))
        how = (tensor, floor, np.float32(element.max), _trick(fmt.scale))
        body = _blockkernels.rounding(fmt.block, "multiply" if fmt.reciprocal else "divide")
    else:
        how = (np.uint32(_carry(fmt)), np.int32(element.max_exponent))
        body = _blockkernels.rounding(fmt.block, "power")

    def part(first: int, last: int) -> int:
        known = tops[first // fmt.block : last // fmt.block]
        return int(body(bits[first:last], target[first:last], known, how, _trick(element)))

    return max(_floatround.in_threads(part, bits.size, threads)) < _INFINITY


def _measured(bits: np.ndarray, block: int, threads: int) -> tuple[np.ndarray, int]:
    """Bits of the largest magnitude of every block, and of the whole tensor."""
    from . import _blockkernels

    maxima, tops = _blockkernels.maxima(block), np.empty(bits.size // block, np.uint32)

    def part(first: int, last: int) -> int:
        return int(maxima(bits[first:last], tops[first // block : last // block]))

    return tops, max(_floatround.in_threads(part, bits.size, threads))
