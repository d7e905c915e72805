"""Numba bodies of block rounding: maxima of the blocks, their scales, then the values.

Three short loops instead of one: each vectorises whole, where the few scalar divisions of a scale
between two loops over 16 values cost more than the values themselves. They work on pieces that
stay in the cache. The block length is a constant of each compiled body, so the inner loops
unroll into whole vectors.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numba
import numpy as np

from ._bits import add, as_float, as_uint, band, bor, bxor, shl, shr
from ._kernels import _OPTIONS

_U = np.uint32
_ABS = _U(0x7FFFFFFF)
_ONE, _ZERO = _U(1), _U(0)
_HALF_MIN_NORMAL = _U(0x00400000)
_SHIFT = _U(23)
_BIAS = np.int32(127)

PIECE = 1 << 14
"""Values that pass through the three loops at a time."""

Rule = Literal["power", "divide", "multiply"]
"""Scales that are powers of two, or small floats to divide by, or their reciprocals."""


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
def maxima(block: int):
    """Bits of the largest magnitude of every `block` values, and of all of them."""

    @numba.njit(**_OPTIONS)
    def body(x, tops):
        most = _ZERO
        for b in range(tops.size):
            at = b * block
            amax = _ZERO
            for j in range(block):
                a = band(x[at + j], _ABS)
                amax = a if a > amax else amax
            tops[b] = amax
            most = amax if amax > most else most
        return most

    return body


@numba.njit(inline="always")
def _two_to(power):
    return as_float(shl(_U(power + _BIAS), _SHIFT) if power > -_BIAS else _HALF_MIN_NORMAL)


@numba.njit(**_OPTIONS)
def _power_scales(tops, factors, backs, how):
    """Powers of two: 2^-e into `factors`, 2^e into `backs`, e an int32 of the exponent field."""
    carry, emax = how  # carry lifts the exponent by one exactly when the scale rule says so
    for b in range(tops.size):
        power = np.int32(shr(add(tops[b], carry), _SHIFT)) - _BIAS - emax
        power = min(max(power, -_BIAS), _BIAS)
        factors[b] = _two_to(-power)
        backs[b] = _two_to(power)


def _float_scales(reciprocal: bool):
    @numba.njit(**_OPTIONS)
    def body(tops, factors, backs, how):
        """Small floats: what to divide by (or multiply with) and the scale to go back."""
        tensor, floor, element_max, scale = how
        shift, keep, half, normal, big, top = scale
        inverse_tensor = np.float32(1) / tensor
        for b in range(tops.size):
            raw = as_float(tops[b]) / element_max / tensor
            lifted = raw if raw > floor else floor
            raw = lifted if raw > np.float32(0) or reciprocal else np.float32(0)
            s = as_float(_element(as_uint(raw), shift, keep, half, normal, big, top))
            safe = s if s > np.float32(0) else np.float32(1)
            factors[b] = inverse_tensor / safe if reciprocal else safe * tensor
            backs[b] = s * tensor

    return body


def _rounding(block: int, divides: bool):
    @numba.njit(**_OPTIONS)
    def body(x, out, factors, backs, element):
        shift, keep, half, normal, big, top = element
        for b in range(factors.size):
            at = b * block
            factor, back = factors[b], backs[b]
            for j in range(block):
                v = as_float(x[at + j])
                y = as_uint(v / factor if divides else v * factor)
                r = _element(y, shift, keep, half, normal, big, top)
                out[at + j] = as_uint(as_float(r) * back)

    return body


@cache
def rounding(block: int, rule: Rule):
    """body(x, out, tops, how, element): round in pieces, return the bits of the largest magnitude.

    `tops` holds the block maxima if they are known and is empty if not (then they are measured
    piece by piece); `how` is what the scales follow from.
    """
    measure = maxima(block)
    scales = _power_scales if rule == "power" else _float_scales(rule == "multiply")
    rounded = _rounding(block, rule == "divide")
    blocks = PIECE // block

    @numba.njit(**_OPTIONS)
    def body(x, out, tops, how, element):
        factors, backs = np.empty(blocks, np.float32), np.empty(blocks, np.float32)
        measured = np.empty(blocks, np.uint32)
        most = _ZERO
        for at in range(0, x.size, PIECE):
            end = min(at + PIECE, x.size)
            n = (end - at) // block
            if tops.size > 0:
                piece_tops = tops[at // block : at // block + n]
            else:
                piece_tops = measured[:n]
                most = max(most, measure(x[at:end], piece_tops))
            scales(piece_tops, factors[:n], backs[:n], how)
            rounded(x[at:end], out[at:end], factors[:n], backs[:n], element)
        return most

    return body
