"""Rounding to a FloatFormat: choose a body, fill in its parameters, apply the policies."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Literal

import numpy as np
from attrs import frozen

from ..errors import InvalidInput
from . import _plain
from .formats.floating import FloatFormat
from .policies import RoundingPolicy

SMALL, SMALL_LOADED = 1 << 15, 1 << 9
"""Arrays below this size use the NumPy body: before the kernels are loaded, and after."""

FORCED: Literal["plain", "compiled"] | None = None
"""The body that is used whatever the size, for tests; None chooses by size."""

_CHUNK = 1 << 16
_ALL = 0xFFFFFFFFFFFFFFFF


@frozen(kw_only=True)
class Outcomes:
    """What overflow, infinity and NaN become, by sign: 'max', 'inf', 'nan', 'zero' or 'error'."""

    over: tuple[str, str]
    infinite: tuple[str, str]
    nan: tuple[str, str]


def outcomes(fmt: FloatFormat, policy: RoundingPolicy, codes: bool) -> Outcomes:
    """Resolve a policy against a format, refusing what the format cannot express."""
    natural = "inf" if fmt.infinity else ("nan" if fmt.nan != "none" else "max")
    overflow = "saturate" if fmt.name in policy.saturating_formats else policy.overflow
    if overflow == "pychop" and codes:
        raise InvalidInput("overflow='pychop' yields values outside the format; encode cannot.")
    if overflow == "infinity" and not fmt.infinity:
        raise InvalidInput(f"'{fmt.name}' has no infinity. Use overflow='saturate' or 'nan'.")
    if overflow == "nan" and fmt.nan == "none":
        raise InvalidInput(f"'{fmt.name}' has no NaN. Use overflow='saturate'.")
    over, infinite = {
        "format": (natural, natural), "ieee": (natural, natural), "infinity": ("inf", "inf"),
        "nan": ("nan", "nan"), "saturate": ("max", "max"), "saturate_finite": ("max", natural),
        "error": ("error", natural if fmt.infinity else "error"), "pychop": ("inf", "inf"),
    }[overflow]  # fmt: skip
    both = [over, over]
    if overflow == "ieee":
        both = [
            "max" if policy.rounding in ("toward_zero", "to_odd", inward) else over
            for inward in ("down", "up")
        ]
    if policy.keep_infinity and not codes:
        infinite = "inf"
    return Outcomes(
        over=(both[0], both[1]), infinite=(infinite, infinite), nan=_nan(fmt, policy, codes)
    )


def _nan(fmt: FloatFormat, policy: RoundingPolicy, codes: bool) -> tuple[str, str]:
    if policy.nan == "error":
        return "error", "error"
    if fmt.nan != "none":
        return "nan", "nan"
    if policy.nan == "propagate":
        if codes:
            raise InvalidInput(f"'{fmt.name}' has no NaN code. Use nan='zero', 'max' or 'error'.")
        return "nan", "nan"
    return {
        "format": ("error", "error"), "zero": ("zero", "zero"), "max": ("max", "max"),
        "opposite_zero": ("-zero", "-zero"),
    }[policy.nan]  # fmt: skip


def code_of(fmt: FloatFormat, outcome: str, negative: bool, nan_all_ones: bool = False) -> int:
    """Code word of an outcome and sign ('error' gives 0; the caller raises)."""
    if outcome == "-zero":
        outcome, negative = "zero", not negative
    sign = 1 << (fmt.bits - 1) if negative and fmt.signed else 0
    if outcome in ("zero", "error"):
        return sign if fmt.negative_zero and outcome == "zero" else 0
    if outcome == "nan":
        if nan_all_ones and fmt.nan == "ieee":
            return sign | ((1 << (fmt.exponent_bits + fmt.mantissa_bits)) - 1)
        code = _existing(fmt, fmt.nan_code, "NaN")
        return code | (sign if fmt.nan != "negative_zero" else 0)
    if outcome == "max":
        return sign | fmt.max_code
    return sign | _existing(fmt, fmt.infinity_code, "infinity")


def _existing(fmt: FloatFormat, code: int | None, what: str) -> int:
    if code is None:
        raise InvalidInput(f"'{fmt.name}' has no code for {what}.")
    return code


def value_of(fmt: FloatFormat, outcome: str, negative: bool, nan_all_ones: bool = False) -> float:
    """Value of an outcome and sign."""
    if outcome == "-zero":
        outcome, negative = "zero", not negative
    value = {"zero": 0.0, "error": np.nan, "nan": np.nan, "inf": np.inf, "max": fmt.max}[outcome]
    if outcome == "zero" and not fmt.negative_zero:
        return 0.0
    return -value if negative else value


# --- NumPy body -------------------------------------------------------------------------------


def random_words(random, seed: int, first: int, count: int) -> np.ndarray:
    """The caller's words, or the seed's, of `count` elements from the one at `first`."""
    if random is not None:
        return random[first : first + count]
    counter = np.arange(first, first + count, dtype=np.uint64)
    return _plain.hash32(counter, *_plain.keys(seed))


def plain(x, fmt: FloatFormat, policy, want: Outcomes, codes: bool, out, seed, random) -> None:
    """Round a flat array of any float dtype chunk by chunk into `out`."""
    for first in range(0, x.size, _CHUNK):
        with np.errstate(invalid="ignore"):
            part = x[first : first + _CHUNK].astype(np.float64)
        words = None
        if policy.rounding == "stochastic":
            words = random_words(random, seed, first, part.size)
        out[first : first + part.size] = _plain_chunk(part, fmt, policy, want, codes, words, first)


def _plain_chunk(x, fmt, policy, want, codes, words, first) -> np.ndarray:
    negative = np.signbit(x)
    is_nan, is_inf = np.isnan(x), np.isinf(x)
    finite = np.where(is_nan | is_inf, 0.0, x)
    if policy.unsigned_magnitude and not fmt.zero:
        finite, negative = np.abs(finite), np.zeros_like(negative)
    index = _index(finite, fmt, policy, words)
    over = index > fmt.max_index
    for mask, outcome, what in (
        (over, want.over, "overflows"), (is_inf, want.infinite, "is infinite"),
        (is_nan, want.nan, "is NaN"),
    ):  # fmt: skip
        if outcome[0] == "error" and mask.any():
            at = int(np.flatnonzero(mask)[0])
            _raise(fmt, first + at, x[at], what)
    index = np.clip(index, fmt.first_index, fmt.max_index)
    if codes:
        result = index - fmt.first_index
        keep_sign = negative & ((result != 0) | fmt.negative_zero)
        sign = np.int64(_wrapped(1 << (fmt.bits - 1)))
        result = np.where(keep_sign & fmt.signed, result | sign, result)
        pick = _wrapped_code
    else:
        result = _plain.index_value(index, fmt)
        keep_sign = negative & ((result != 0) | fmt.negative_zero)
        result = np.where(keep_sign, -result, result)
        pick = value_of
    for mask, outcome in ((over, want.over), (is_inf, want.infinite), (is_nan, want.nan)):
        if mask.any():
            both = [pick(fmt, outcome[i], bool(i), policy.nan_all_ones) for i in (0, 1)]
            result = np.where(mask, np.where(negative, both[1], both[0]), result)
    if policy.overflow == "pychop":
        result = _pychop_overflow(result, x, over, fmt)
    wrong = (finite < 0) & ~is_nan if not fmt.signed else np.zeros_like(negative)
    wrong |= is_inf & negative & (not fmt.signed)
    if not fmt.zero and not policy.unsigned_magnitude:
        wrong |= (finite == 0) & ~is_inf & ~is_nan
    if wrong.any():
        result = np.where(wrong, _without_code(fmt, policy, codes, x, wrong, first), result)
    return result


def _wrapped(word: int) -> int:
    """A word of 64 bits as the int64 of the same bits; narrower words as they are."""
    return word - (1 << 64) if word >> 63 else word


def _wrapped_code(fmt: FloatFormat, outcome: str, negative: bool, nan_all_ones: bool) -> int:
    return _wrapped(code_of(fmt, outcome, negative, nan_all_ones))


def _index(finite, fmt, policy, words) -> np.ndarray:
    rounding = policy.rounding
    quirk = policy.library_e8m0 and not fmt.zero and rounding == "nearest_even"
    if quirk:
        rounding = "nearest_away"
    index = _plain.float_index(finite, fmt, rounding, words, policy.random_bits)
    if quirk:
        low = (finite > fmt.min_positive) & (finite < 2 * fmt.min_positive)
        index = np.where(low, fmt.first_index + 1, index)
    return index


def _pychop_overflow(result, x, over, fmt) -> np.ndarray:
    limit = 2.0 ** (fmt.max_exponent + 1)
    size = np.abs(x)
    kept = np.where(size < limit, limit, np.where(size < 2 * limit, 0.0, np.inf))
    return np.where(over, np.copysign(kept, x), result)


def _without_code(fmt, policy, codes, x, wrong, first):
    """Outcome of values an unsigned format cannot express: 0 when saturating, else NaN."""
    if policy.overflow in ("saturate", "saturate_finite") and fmt.zero:
        return 0
    if fmt.nan == "none" or policy.overflow == "error":
        at = int(np.flatnonzero(wrong)[0])
        _raise(fmt, first + at, x[at], "has no code")
    return fmt.nan_code if codes else np.nan


def _raise(fmt: FloatFormat, at: int, value: float, what: str) -> None:
    raise InvalidInput(
        f"Element {at} ({value:g}) {what} in '{fmt.name}' (largest {fmt.max:g}). "
        "Clean or scale the input, or choose another overflow or NaN policy."
    )


# --- kernels ----------------------------------------------------------------------------------

_MODES = {
    # half, minus one, last bit, up if positive, up if negative, odd
    "nearest_even": (_ALL, _ALL, _ALL, 0, 0, 0), "nearest_away": (_ALL, 0, 0, 0, 0, 0),
    "nearest_zero": (_ALL, _ALL, 0, 0, 0, 0), "toward_zero": (0, 0, 0, 0, 0, 0),
    "away_from_zero": (0, 0, 0, _ALL, _ALL, 0), "up": (0, 0, 0, _ALL, 0, 0),
    "down": (0, 0, 0, 0, _ALL, 0), "to_odd": (0, 0, 0, 0, 0, _ALL), "stochastic": (0,) * 6,
}  # fmt: skip


@cache
def kernels() -> Any:
    """The compiled bodies; None without numba, or where it finds no folder for its cache."""
    try:
        from . import _kernels
    except (ImportError, RuntimeError):
        return None
    return _kernels


def compiled(size: int) -> bool:
    """Whether an array of `size` values goes to the kernels."""
    if FORCED is not None:
        return FORCED == "compiled" and kernels() is not None
    loaded = kernels.cache_info().currsize > 0
    return size >= (SMALL_LOADED if loaded else SMALL) and kernels() is not None


def fits(fmt: FloatFormat, dtype: np.dtype) -> bool:
    """Whether the kernels for `dtype` (float32, float64) cover the format's range."""
    info = np.finfo(dtype)
    return (
        fmt.signed
        and fmt.zero
        and fmt.min_exponent >= info.minexp
        and fmt.min_exponent - fmt.mantissa_bits >= info.minexp - info.nmant
        and fmt.max_exponent < info.maxexp
        and fmt.mantissa_bits <= info.nmant
    )


@frozen(kw_only=True)
class _Call:
    """A kernel with its scalar arguments in the input's width."""

    kernel: Callable[..., Any]
    arguments: tuple
    counted: bool


def _bits(value: float, float_type, uint_type):
    return float_type(value).view(uint_type)


@cache
def _call(fmt: FloatFormat, policy: RoundingPolicy, width: int, codes: bool) -> _Call:
    module = kernels()
    want = outcomes(fmt, policy, codes)
    U, F = (np.uint32, np.float32) if width == 32 else (np.uint64, np.float64)
    fraction, bias = (23, 127) if width == 32 else (52, 1023)
    y, low = fmt.mantissa_bits, fmt.min_exponent
    if not codes and policy.rounding == "nearest_even" and _symmetric(fmt, want, y, fraction):
        shift = fraction - y
        arguments = (
            U(shift), U(((1 << width) - 1) ^ ((1 << shift) - 1)), U((1 << (shift - 1)) - 1),
            _bits(fmt.min_normal, F, U), F(2.0 ** (fraction + low - y)), _bits(fmt.max, F, U),
            _bits(value_of(fmt, want.over[0], False), F, U),
            _bits(value_of(fmt, want.infinite[0], False), F, U),
            _bits(value_of(fmt, want.nan[0], False), F, U), U(fmt.negative_zero),
        )  # fmt: skip
        kernel = module.nearest_even_32 if width == 32 else module.nearest_even_64
        return _Call(kernel=kernel, arguments=arguments, counted=False)
    if width == 32 and not codes and policy.rounding == "stochastic":
        quick = _stochastic(module, fmt, policy, want)
        if quick is not None:
            return quick
    mask = (1 << width) - 1
    mode = (*(U(m & mask) for m in _MODES[policy.rounding]), U(policy.random_bits))
    flush = not fmt.subnormals
    layout = (
        U(bias + low), U(y), U(fraction - (0 if flush else y)), U(y if flush else 0),
        U(fmt.first_index),
    )  # fmt: skip
    ones = policy.nan_all_ones
    pick = code_of if codes else (lambda *a: _bits(value_of(*a), F, U))
    special = [U(fmt.max_index)]
    for pair in (want.over, want.infinite, want.nan):
        special += [U(pick(fmt, pair[0], False, ones)), U(pick(fmt, pair[1], True, ones))]
    special += [U(fmt.negative_zero), U(fmt.bits - 1)]
    # Where the format's subnormals are the input type's own, their bits follow from the index
    # like all others, and a multiplication by a subnormal (slow on most CPUs) is avoided.
    unit = F(1.0) if bias + low == 1 else F(2.0 ** (low - y))
    stochastic = policy.rounding == "stochastic"
    name = ("stochastic_" if stochastic else "") + ("encode" if codes else "")
    kernel = getattr(module, f"{(name or 'general').rstrip('_')}_{width}")
    return _Call(
        kernel=kernel, counted=True,
        arguments=(mode, layout, unit, tuple(special)),
    )  # fmt: skip


def _stochastic(module, fmt: FloatFormat, policy: RoundingPolicy, want: Outcomes) -> _Call | None:
    """The short kernel of stochastic float32 values, where format and policy allow it."""
    y, low, U, F = fmt.mantissa_bits, fmt.min_exponent, np.uint32, np.float32
    same_subnormals = low == -126  # the input type's own: every value is cut at a fixed bit
    if not _symmetric(fmt, want, y, 23) or not (same_subnormals or low - y >= -126):
        return None
    dropped, bits = 23 - y, policy.random_bits
    used = min(bits, dropped)
    shifts = (dropped, used, dropped - used, 32 - used, bits, 32 - bits)
    step = 0 if same_subnormals else low - y
    return _Call(
        kernel=module.stochastic_values_32, counted=True,
        arguments=(
            tuple(U(s) for s in shifts),
            U(0) if same_subnormals else _bits(fmt.min_normal, F, U),
            (F(2.0**-step), F(2.0**step), F(2.0**bits)),
            (
                _bits(fmt.max, F, U), _bits(value_of(fmt, want.over[0], False), F, U),
                _bits(value_of(fmt, want.infinite[0], False), F, U),
                _bits(value_of(fmt, want.nan[0], False), F, U), U(fmt.negative_zero),
            ),
        ),
    )  # fmt: skip


def _symmetric(fmt: FloatFormat, want: Outcomes, y: int, fraction: int) -> bool:
    """Whether the bit trick applies: last kept bit is the code's, sign carried through."""
    signs_alike = all("-zero" not in p for p in (want.over, want.infinite, want.nan))
    return 1 <= y < fraction and fmt.subnormals and signs_alike


def run(x, fmt, policy, codes: bool, out, seed: int, random, threads: int) -> None:
    """Round flat contiguous `x` (float32 or float64) into flat `out`, values or codes."""
    want = outcomes(fmt, policy, codes)
    irregular = "error" in (*want.over, *want.infinite) or policy.overflow == "pychop"
    if random is not None or irregular or not fits(fmt, x.dtype) or not compiled(x.size):
        plain(x, fmt, policy, want, codes, out, seed, random)
        return
    width = x.dtype.itemsize * 8
    call = _call(fmt, policy, width, codes)
    U = np.uint32 if width == 32 else np.uint64
    source = x.view(U)
    target = out if codes else out.view(U)
    key_a, key_b = (np.uint32(k) for k in _plain.keys(seed))

    def part(first: int, last: int) -> int:
        before = (np.int64(first), key_a, key_b) if call.counted else ()
        return int(call.kernel(source[first:last], target[first:last], *before, *call.arguments))

    nans = sum(in_threads(part, x.size, threads))
    if nans and want.nan[0] == "error":
        at = int(np.flatnonzero(np.isnan(x))[0])
        _raise(fmt, at, x[at], "is NaN")


def in_threads(part: Callable[[int, int], int], size: int, threads: int) -> list[int]:
    """`part(first, last)` over all of `size` values, in ranges that start at multiples of 128."""
    if threads <= 1 or size < 4 * SMALL:
        return [part(0, size)]
    edges = np.linspace(0, size, threads + 1).astype(int) // 128 * 128
    edges[-1] = size
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(part, edges[:-1].tolist(), edges[1:].tolist()))
