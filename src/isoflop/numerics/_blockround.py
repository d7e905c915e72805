"""Choose a compiled body for block rounding, or say that there is none."""

from __future__ import annotations

import numpy as np

from . import _floatround
from .formats.block import BlockFormat, finite_or_raise
from .formats.floating import FloatFormat

_BLOCKS = (16, 32, 64, 128)


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


def run(fmt: BlockFormat, x: np.ndarray, policy) -> np.ndarray | None:
    """Round float32 `x` with a compiled body; None where the NumPy body must do it."""
    element = fmt.element
    if (
        x.dtype != np.float32 or fmt.block not in _BLOCKS
        or not isinstance(element, FloatFormat) or not 1 <= element.mantissa_bits <= 22
        or policy.rounding != "nearest_even" or policy.float32_steps or not element.negative_zero
        or not _floatround.fits(element, x.dtype) or not _floatround.compiled(x.size)
    ):  # fmt: skip
        return None
    from . import _blockkernels

    fmt.blocked(x)
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty_like(flat)
    bits, target = flat.view(np.uint32), out.view(np.uint32)
    if fmt.rule != "absmax" and fmt.scale.name == "e8m0":
        body = _blockkernels.power_of_two(fmt.block)
        carry = np.uint32(_carry(fmt))
        bad = body(bits, target, carry, np.int64(element.max_exponent), *_trick(element))
    elif fmt.rule == "absmax" and fmt.scale.name == "fp8-e4m3":
        tensor = fmt.tensor_scale_of(flat) if fmt.two_level else np.float32(1)
        if not np.isfinite(tensor):
            finite_or_raise(x, fmt.name)
        floor = np.float32(max(fmt.scale_floor, fmt.scale.min_positive))
        body = _blockkernels.float_scale(fmt.block)
        bad = body(
            bits, target, tensor, fmt.reciprocal, floor, np.float32(element.max),
            _trick(element), _trick(fmt.scale),
        )  # fmt: skip
    else:
        return None
    if bad:
        finite_or_raise(x, fmt.name)
    return out.reshape(x.shape)
