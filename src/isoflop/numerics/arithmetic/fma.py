"""Multiply-accumulate with approximate normalisation, as in low-power systolic arrays.

After the aligned addition the mantissa is normalised not by a leading-zero count and a full shift
but by two OR reductions: if the top k bits hold a one, no left shift; else if the next l bits do,
shift left by k; else by k + l. A result may stay unnormalised; the next step takes it as it is, so
bits are lost to the right when it is aligned against a larger term. Carries shift right exactly.

References
----------
Alexandridis et al., Floating-Point Multiply-Add with Approximate Normalization for Low-Cost Matrix
Engines, arXiv 2408.11997 (configurations an-k-l). The datapath's width here is a parameter; the
paper's other widths are not reproduced.
"""

from __future__ import annotations

import numpy as np

from ...errors import InvalidInput

WIDTH = 24
"""Bits of the running sum's mantissa (float32 accumulation)."""


def dot(
    x: np.ndarray, y: np.ndarray, k: int = 1, spread: int = 1, width: int = WIDTH
) -> np.ndarray:
    """Sum over the last axis of x * y in bfloat16 products and an approximate accumulator.

    Parameters
    ----------
    x, y : arrays (..., n), rounded to bfloat16 first
    k, spread : int
        The configuration an-k-l; k = 0 normalises exactly.
    width : int
        Mantissa bits of the accumulator, 12 to 40.
    """
    from ..rounding import round_to

    if k < 0 or spread < 0 or not 12 <= width <= 40:
        raise InvalidInput(
            f"Configuration an-{k}-{spread} with {width} bits is not possible; k and l are not "
            "negative and the width is 12 to 40."
        )
    x, y = (
        np.asarray(round_to(np.ascontiguousarray(v, np.float32), "bf16"), np.float64)
        for v in np.broadcast_arrays(x, y)
    )
    mantissa = np.zeros(x.shape[:-1], np.int64)
    exponent = np.full(x.shape[:-1], -2000, np.int64)
    for i in range(x.shape[-1]):
        fraction, e = np.frexp(x[..., i] * y[..., i])
        term = np.rint(np.ldexp(fraction, width)).astype(np.int64)
        mantissa, exponent = _step(mantissa, exponent, term, e.astype(np.int64), k, spread, width)
    return np.ldexp(mantissa.astype(np.float64), np.clip(exponent - width, -3000, 3000))


def _step(m1, e1, m2, e2, k, spread, width):
    e1 = np.where(m1 == 0, e2, e1)
    e2 = np.where(m2 == 0, e1, e2)
    top = np.maximum(e1, e2)
    total = _right(m1, top - e1) + _right(m2, top - e2)
    size = np.abs(total)
    carry = size >> width > 0
    total = np.where(carry, _right(total, np.ones_like(total)), total)
    exponent = top + carry
    size = np.abs(total)
    if k == 0:
        length = np.frexp(size.astype(np.float64))[1]
        shift = np.where(size > 0, width - length, 0)
    else:
        high = size >> (width - k) > 0
        middle = size >> max(width - k - spread, 0) > 0
        shift = np.where(high, 0, np.where(middle, k, k + spread))
        shift = np.where(size == 0, 0, shift)
    return total << shift, exponent - shift


def _right(m: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Arithmetic shift toward zero (the datapath keeps sign and magnitude)."""
    return np.sign(m) * (np.abs(m) >> np.minimum(by, 62))
