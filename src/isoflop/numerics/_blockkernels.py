"""Numba bodies of block rounding: one pass over each block for its maximum, one to round.

The block length is a constant of each compiled body, so both loops unroll into whole vectors.
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np

from ._bits import add, as_float, as_uint, band, bor, bxor, shl, shr
from ._kernels import _OPTIONS

_U = np.uint32
_ABS = _U(0x7FFFFFFF)
_ONE, _ZERO = _U(1), _U(0)
_INF = _U(0x7F800000)
_FRACTION = _U(0x7FFFFF)
_SHIFT = _U(23)


@numba.njit(inline="always")
def _element(u, shift, keep, half, normal, big, top):
    a = band(u, _ABS)
    s = bxor(u, a)
    r = band(add(a, add(half, band(shr(a, shift), _ONE))), keep)
    f = as_uint((as_float(a) + big) - big)
    r = f if a < normal else r
    r = top if r > top else r
    return bor(r, s)


@cache
def power_of_two(block: int):
    """Rounding to floats with a power-of-two scale per `block` values."""

    @numba.njit(**_OPTIONS)
    def body(x, out, carry, emax, shift, keep, half, normal, big, top):
        bad = _ZERO
        for b in range(x.size // block):
            at = b * block
            amax = _ZERO
            for j in range(block):
                a = band(x[at + j], _ABS)
                amax = a if a > amax else amax
            bad = bor(bad, _ONE if amax >= _INF else _ZERO)
            # carry lifts the exponent by one exactly when the scale rule says so
            power = np.int64(shr(add(amax, carry), _SHIFT)) - 127 - emax
            power = min(max(power, -127), 127)
            up, down = _two_to(power), _two_to(-power)
            for j in range(block):
                y = as_uint(as_float(x[at + j]) * down)
                r = _element(y, shift, keep, half, normal, big, top)
                out[at + j] = as_uint(as_float(r) * up)
        return bad

    return body


@numba.njit(inline="always")
def _two_to(power):
    return as_float(shl(_U(power + 127), _SHIFT) if power > -127 else _U(0x00400000))


@cache
def float_scale(block: int):
    """Rounding to floats with a small-float scale per `block` values and a tensor scale."""

    @numba.njit(**_OPTIONS)
    def body(x, out, tensor, reciprocal, floor, element_max, element, scale):
        shift, keep, half, normal, big, top = element
        s_shift, s_keep, s_half, s_normal, s_big, s_top = scale
        inverse_tensor = np.float32(1) / tensor
        bad = _ZERO
        for b in range(x.size // block):
            at = b * block
            amax = _ZERO
            for j in range(block):
                a = band(x[at + j], _ABS)
                amax = a if a > amax else amax
            bad = bor(bad, _ONE if amax >= _INF else _ZERO)
            raw = as_float(amax) / element_max / tensor
            raw = max(raw, floor) if raw > np.float32(0) or reciprocal else np.float32(0)
            s = as_float(_element(as_uint(raw), s_shift, s_keep, s_half, s_normal, s_big, s_top))
            safe = s if s > np.float32(0) else np.float32(1)
            product = safe * tensor
            factor = inverse_tensor / safe
            back = s * tensor
            for j in range(block):
                v = as_float(x[at + j])
                y = as_uint(v * factor if reciprocal else v / product)
                r = _element(y, shift, keep, half, normal, big, top)
                out[at + j] = as_uint(as_float(r) * back)
        return bad

    return body
