"""L-Mul: a floating-point product by one integer addition.

(1 + x_m) 2^x_e times (1 + y_m) 2^y_e is approximated by (1 + x_m + y_m + 2^-l(m)) 2^(x_e + y_e):
the product of the mantissas is replaced by a constant, with l(m) = m for m <= 3, 3 for m = 4 and 4
above. On the bit patterns that is an addition minus a constant. The two forms differ where the
mantissas carry: the addition then doubles the excess (2 (x_m + y_m + 2^-l)), as Mitchell's
logarithm does, and is the more accurate one; `lmul` is the addition.

References
----------
Luo and Sun, Addition is All You Need for Energy-Efficient Language Models, arXiv 2410.00907,
equation 1. The exhaustive errors in the tests are computed here, not quoted.
"""

from __future__ import annotations

import numpy as np

from ...errors import InvalidInput

_ABS = np.uint32(0x7FFFFFFF)
_SIGN = np.uint32(0x80000000)
_BIAS = 127 << 23
_INFINITY = 0x7F800000
_MIN_NORMAL = 1 << 23


def offset_exponent(mantissa_bits: int) -> int:
    """l(m)."""
    if mantissa_bits < 1:
        raise InvalidInput(f"L-Mul needs at least one mantissa bit, not {mantissa_bits}.")
    return mantissa_bits if mantissa_bits <= 3 else 3 if mantissa_bits == 4 else 4


def lmul(x: np.ndarray, y: np.ndarray, mantissa_bits: int = 23) -> np.ndarray:
    """Elementwise L-Mul of float32 arrays (broadcast), operands first rounded to m mantissa bits.

    Zero, subnormal operands and underflow give zero; overflow saturates to infinity; NaN and
    infinity are passed through the exact product.
    """
    from ..rounding import round_to

    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    if mantissa_bits < 23:
        fmt = f"e8m{mantissa_bits}"
        x, y = (np.asarray(round_to(np.ascontiguousarray(v), fmt)) for v in (x, y))
    a, b = x.view(np.uint32), y.view(np.uint32)
    constant = _BIAS - (1 << (23 - offset_exponent(mantissa_bits)))
    total = (a & _ABS).astype(np.int64) + (b & _ABS).astype(np.int64) - constant
    bits = np.clip(total, 0, _INFINITY).astype(np.uint32)
    tiny = ((a & _ABS) < _MIN_NORMAL) | ((b & _ABS) < _MIN_NORMAL) | (total < _MIN_NORMAL)
    bits = np.where(tiny, np.uint32(0), bits) | ((a ^ b) & _SIGN)
    result = bits.view(np.float32)
    special = ~(np.isfinite(x) & np.isfinite(y))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(special, x * y, result)


def lmul_matmul(a: np.ndarray, b: np.ndarray, mantissa_bits: int = 23) -> np.ndarray:
    """a (m, k) times b (k, n) with L-Mul products and float32 accumulation in order of k."""
    result = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        result += lmul(a[:, k, None], b[None, k, :], mantissa_bits)
    return result


def exhaustive_error(mantissa_bits: int, form: str = "bits") -> dict[str, float]:
    """Mean, mean absolute and largest relative error over all mantissa pairs.

    `form` is "bits" (the integer addition) or "equation" (1 + x_m + y_m + 2^-l without a carry).
    """
    m = np.arange(1 << mantissa_bits) / (1 << mantissa_bits)
    x, y = m[:, None], m[None, :]
    total = 1 + x + y + 2.0 ** -offset_exponent(mantissa_bits)
    approximate = total
    if form == "bits":  # the addition carries once from 2 and twice from 3
        approximate = np.where(
            total >= 3, 4 * (total - 2), np.where(total >= 2, 2 * (total - 1), total)
        )
    exact = (1 + x) * (1 + y)
    error = (approximate - exact) / exact
    return {
        "mean": float(error.mean()), "mean_absolute": float(np.abs(error).mean()),
        "largest": float(np.abs(error).max()),
    }  # fmt: skip
