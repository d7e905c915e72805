"""Numba bodies of rounding to a float format: one pass, integer arithmetic, no branches.

`nearest_even_*` is the bit trick: for normal results add half a unit minus one plus the last
kept bit and mask; for subnormal results add and subtract a power of two whose last bit weighs one
subnormal step, so that the hardware's own addition rounds. `general_*` computes the magnitude
index (see FloatFormat.first_index) by a variable shift and serves every rounding direction.
All twins of the NumPy body in `_plain.py`; the tests hold them equal.
"""

from __future__ import annotations

import numba
import numpy as np

from ._bits import (
    add,
    as_float,
    as_uint,
    band,
    bor,
    bxor,
    float_to_signed,
    mul,
    shl,
    shr,
    signed_to_float,
    sub,
)  # fmt: skip

_OPTIONS = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}


def _nearest_even(width: int):
    U = np.uint32 if width == 32 else np.uint64
    ABS = U(2 ** (width - 1) - 1)
    INF = U(0x7F800000) if width == 32 else U(0x7FF0000000000000)
    ONE = U(1)
    ZERO = U(0)

    @numba.njit(**_OPTIONS)
    def nearest_even(x, out, shift, keep, half, normal, big, top, over, infinity, nan, minus_zero):
        nans = ZERO
        for i in range(x.size):
            u = x[i]
            a = band(u, ABS)
            s = bxor(u, a)
            r = band(add(a, add(half, band(shr(a, shift), ONE))), keep)
            f = as_uint((as_float(a) + big) - big)
            r = f if a < normal else r
            r = over if r > top else r
            r = infinity if a == INF else r
            r = nan if a > INF else r
            s = s if (minus_zero != ZERO or r != ZERO) else ZERO
            nans = add(nans, ONE if a > INF else ZERO)
            out[i] = bor(r, s)
        return nans

    return nearest_even


nearest_even_32 = _nearest_even(32)
nearest_even_64 = _nearest_even(64)


@numba.njit(inline="always")
def _hash32(counter, key_a, key_b):
    h = bxor(counter, key_a)
    h = mul(bxor(h, shr(h, np.uint32(16))), np.uint32(0x7FEB352D))
    h = add(h, key_b)
    h = mul(bxor(h, shr(h, np.uint32(15))), np.uint32(0x846CA68B))
    return bxor(h, shr(h, np.uint32(16)))


@numba.njit(**_OPTIONS)
def stochastic_values_32(x, out, first, key_a, key_b, shifts, normal, scales, special):
    """Stochastic rounding of float32 to float32 values, results alike for both signs.

    Normal results: the random bits are added below the last kept bit and cut. Subnormal ones: the
    fraction of a subnormal step, times 2^bits, is added to the random bits; its carry rounds up.
    `general` rounds the same values with the same bits.
    """
    # shifts: dropped bits K, of them used n, K - n, 32 - n, all random bits, 32 - those
    # scales: subnormal steps per unit, units per step, 2^bits
    dropped, used, cut, keep_used, bits, keep_bits = shifts
    per_unit, unit, top_bits = scales
    top, over, infinity, nan, minus_zero = special
    ABS, INF = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
    ONE, ZERO = np.uint32(1), np.uint32(0)
    nans = ZERO
    start = np.uint32(first)
    for i in range(x.size):
        u = x[i]
        a = band(u, ABS)
        s = bxor(u, a)
        h = _hash32(add(start, np.uint32(i)), key_a, key_b)
        r = shl(shr(add(shr(a, cut), shr(h, keep_used)), used), dropped)
        small = as_float(a if a < normal else ZERO) * per_unit
        whole = float_to_signed(small)
        part = float_to_signed((small - signed_to_float(whole)) * top_bits)
        whole = add(whole, shr(add(part, shr(h, keep_bits)), bits))
        f = as_uint(signed_to_float(whole) * unit)
        r = f if a < normal else r
        r = over if r > top else r
        r = infinity if a == INF else r
        r = nan if a > INF else r
        s = s if (minus_zero != ZERO or r != ZERO) else ZERO
        nans = add(nans, ONE if a > INF else ZERO)
        out[i] = bor(r, s)
    return nans


def _general(width: int, stochastic: bool, codes: bool):
    U = np.uint32 if width == 32 else np.uint64
    fraction_bits = 23 if width == 32 else 52
    BITS = U(fraction_bits)
    SIGN = U(width - 1)
    ABS = U(2 ** (width - 1) - 1)
    FRACTION = U(2**fraction_bits - 1)
    HIDDEN = U(2**fraction_bits)
    INF = U(0x7F800000) if width == 32 else U(0x7FF0000000000000)
    FAR = U(width - 2)
    ONE, ZERO = U(1), U(0)

    @numba.njit(**_OPTIONS)
    def general(x, out, first, key_a, key_b, mode, layout, unit, special):
        # mode: half, minus one, last bit, up if positive, up if negative, odd (masks), bits
        # layout: min biased exponent, Y, shift if subnormal, final shift if subnormal, rebase
        # special: max index, then results for overflow (+,-), infinity (+,-), NaN (+,-), -0 kept
        m_half, m_one, m_last, m_pos, m_neg, m_odd, rbits = mode
        low, y, sub_shift, sub_final, rebase = layout
        top, over_p, over_n, inf_p, inf_n, nan_p, nan_n, minus_zero, sign_shift = special
        normal_shift = sub(BITS, y)
        nans = ZERO
        for i in range(x.size):
            u = x[i]
            a = band(u, ABS)
            negative = shr(u, SIGN) != ZERO
            e = shr(a, BITS)
            m = band(a, FRACTION)
            m = bor(m, HIDDEN) if e > ZERO else m
            e = e if e > ZERO else ONE
            tiny = e < low
            gap = sub(low, e) if tiny else ZERO
            k = add(sub_shift if tiny else normal_shift, gap)
            if stochastic:
                r32 = _hash32(np.uint32(first + i), key_a, key_b)
                n = rbits if rbits < k else k
                drop = sub(k, n)
                drop = drop if drop < FAR else FAR
                r = shr(shr(U(r32), sub(U(32), rbits)), sub(rbits, n))
                q = shr(add(shr(m, drop), r), n)
            else:
                k = k if k < FAR else FAR
                unit_k = shl(ONE, k)
                rest = sub(unit_k, ONE)
                keep = shr(m, k)
                base = ZERO if tiny else shl(sub(e, low), y)
                last = band(add(keep, base), ONE)
                half = shr(unit_k, ONE)
                some = ONE if k > ZERO else ZERO
                inc = sub(band(half, m_half), band(some, m_one))
                inc = add(inc, band(band(last, some), m_last))
                inc = add(inc, band(rest, m_neg if negative else m_pos))
                q = shr(add(m, inc), k)
                sticky = ONE if band(m, rest) != ZERO else ZERO
                q = add(q, band(band(sticky, m_odd), bxor(last, ONE)))
            base = ZERO if tiny else shl(sub(e, low), y)
            q = shl(q, sub_final) if tiny else q
            index = add(q, base)
            is_nan = a > INF
            nans = add(nans, ONE if is_nan else ZERO)
            if codes:
                body = sub(index, rebase)
                body = bor(body, shl(ONE, sign_shift)) if negative else body
                body = ZERO if (index == ZERO and minus_zero == ZERO) else body
            else:
                body = add(shl(index, normal_shift), shl(sub(low, ONE), BITS))
                small = as_uint(signed_to_float(index) * unit)
                body = small if (low > ONE and index < shl(ONE, y)) else body
                body = bor(body, shl(ONE, SIGN)) if negative else body
                body = ZERO if (index == ZERO and minus_zero == ZERO) else body
            body = (over_n if negative else over_p) if index > top else body
            body = (inf_n if negative else inf_p) if a == INF else body
            body = (nan_n if negative else nan_p) if is_nan else body
            out[i] = body
        return nans

    return general


general_32 = _general(32, stochastic=False, codes=False)
general_64 = _general(64, stochastic=False, codes=False)
stochastic_32 = _general(32, stochastic=True, codes=False)
stochastic_64 = _general(64, stochastic=True, codes=False)
encode_32 = _general(32, stochastic=False, codes=True)
encode_64 = _general(64, stochastic=False, codes=True)
stochastic_encode_32 = _general(32, stochastic=True, codes=True)
stochastic_encode_64 = _general(64, stochastic=True, codes=True)
