"""NumPy bodies of rounding: any input float, any format width, no compilation.

Used without numba, for small arrays, and for formats whose exponents leave the input's range.
The significand is split with frexp and rounded in 64-bit integers, an algorithm unlike the
kernels' bit tricks, so each is a check of the other.
"""

from __future__ import annotations

import numpy as np

_SIGNIFICAND = 53
_FAR = 60


def hash32(counter: np.ndarray, key_a: int, key_b: int) -> np.ndarray:
    """The counter-based 32-bit random words of stochastic rounding (uint32)."""
    with np.errstate(over="ignore"):
        h = counter.astype(np.uint32) ^ np.uint32(key_a)
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
        h = h + np.uint32(key_b)
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
        return h ^ (h >> np.uint32(16))


def keys(seed: int) -> tuple[int, int]:
    """Two 32-bit keys from a seed (SplitMix64's finaliser, so that near seeds are unrelated)."""
    z = (seed + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    z ^= z >> 31
    return z & 0xFFFFFFFF, z >> 32


def round_integer(
    kept: np.ndarray,
    rest: np.ndarray,
    shift: np.ndarray,
    odd: np.ndarray,
    negative: np.ndarray,
    rounding: str,
) -> np.ndarray:
    """`kept` plus zero or one by the discarded `rest` of `shift` bits (all int64 arrays).

    `odd` is the parity of the whole code whose last bits are `kept`.
    """
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), np.int64(1))
    above, tie, inexact = rest > half, rest == half, rest > 0
    if rounding == "to_odd":
        return kept + (inexact & ~odd)
    up = {
        "nearest_even": above | (tie & odd),
        "nearest_away": above | tie,
        "nearest_zero": above,
        "toward_zero": np.zeros_like(inexact),
        "away_from_zero": inexact,
        "up": inexact & ~negative,
        "down": inexact & negative,
    }[rounding]
    return kept + up


def float_index(
    x: np.ndarray, fmt, rounding: str, random: np.ndarray | None, random_bits: int
) -> np.ndarray:
    """Magnitude index (int64, unbounded above) of each finite float64 of `x` in a FloatFormat."""
    y, low = fmt.mantissa_bits, fmt.min_exponent
    mantissa, exponent = np.frexp(np.abs(x))
    significand = np.ldexp(mantissa, _SIGNIFICAND).astype(np.int64)
    exponent = exponent.astype(np.int64) - 1
    tiny = (exponent < low) | (significand == 0)
    flush = fmt.zero and not fmt.subnormals
    sub_shift = _SIGNIFICAND - 1 - (0 if flush else y)
    shift = np.where(tiny, sub_shift + (low - exponent), _SIGNIFICAND - 1 - y)
    base = np.where(tiny, 0, (exponent - low) << y)
    if random is None:
        shift = np.minimum(shift, _FAR)
        kept = significand >> shift
        rest = significand & ((np.int64(1) << shift) - 1)
        odd = (kept + base - fmt.first_index) & 1 == 1  # parity of the code word
        kept = round_integer(kept, rest, shift, odd, np.signbit(x), rounding)
    else:
        used = np.minimum(random_bits, shift)
        bits = random.astype(np.int64) >> (32 - random_bits) >> (random_bits - used)
        kept = ((significand >> np.minimum(shift - used, 63)) + bits) >> used
    if flush:
        kept = np.where(tiny, kept << y, kept)
    return kept + base


def index_value(index: np.ndarray, fmt) -> np.ndarray:
    """Value (float64) of each magnitude index of a FloatFormat."""
    y = fmt.mantissa_bits
    normal = (index >> y) > 0
    significand = np.where(normal, (index & ((1 << y) - 1)) + (1 << y), index)
    exponent = np.where(normal, (index >> y) - 1, 0) + fmt.min_exponent - y
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(significand.astype(np.float64), np.clip(exponent, -4000, 4000))
