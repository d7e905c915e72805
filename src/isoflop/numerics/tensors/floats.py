"""Rounding PyTorch tensors to a FloatFormat on their own device, in whole-tensor operations.

Nearest-even values of ordinary formats add and subtract a power of two chosen per element so that
the hardware's own addition rounds at the wanted bit; formats with the input type's own exponents
(bfloat16) add to its bits and cut. Everything else (directed and
stochastic rounding, code words, formats without sign or zero) computes the magnitude index (see
FloatFormat.first_index) with shifts in the integer type of the input's width, the algorithm of
`_kernels.py`. Only signed integers occur, as PyTorch has no unsigned shifts on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen

from .. import _floatround, _plain
from ..formats.floating import FloatFormat
from ..policies import RoundingPolicy

Body = Callable[[torch.Tensor, torch.Tensor | None, int], torch.Tensor]
"""(flat floats, random words or None, position of the first) -> values, or codes as integers."""


@frozen(kw_only=True)
class _Layout:
    """The floating-point type a body computes in."""

    real: torch.dtype
    whole: torch.dtype
    width: int
    fraction: int
    bias: int

    @property
    def magnitude(self) -> int:
        return (1 << (self.width - 1)) - 1

    @property
    def infinity(self) -> int:
        return self.magnitude ^ ((1 << self.fraction) - 1)

    def signed(self, word: int) -> int:
        """An unsigned word of this width as the signed integer with its bits."""
        word &= (1 << self.width) - 1
        return word - (1 << self.width) if word >> (self.width - 1) else word

    def bits(self, value: float) -> int:
        """Bits of a value of this type, as a signed integer."""
        return int(torch.tensor(value, dtype=self.real).view(self.whole))


SINGLE = _Layout(real=torch.float32, whole=torch.int32, width=32, fraction=23, bias=127)
DOUBLE = _Layout(real=torch.float64, whole=torch.int64, width=64, fraction=52, bias=1023)


def covers(fmt: FloatFormat) -> bool:
    """Whether these bodies know the format: its binades must be float64's."""
    return fmt.min_exponent >= -1022


def body(fmt: FloatFormat, policy: RoundingPolicy, codes: bool, real: torch.dtype) -> Body:
    """The function that rounds flat tensors of `real` (float32 or float64)."""
    layout = SINGLE if real == torch.float32 else DOUBLE
    ordinary = _floatround.fits(fmt, _NUMPY[layout.width])
    if not ordinary:
        layout = DOUBLE
    want = _floatround.outcomes(fmt, policy, codes)
    if ordinary and not codes and _even(fmt, policy, want, layout):
        if fmt.max_exponent + 1 + layout.fraction - fmt.mantissa_bits <= layout.bias:
            return _by_addition(fmt, want, layout)
        if fmt.min_exponent + layout.bias == 1:
            return _by_carry(fmt, want, layout)
    general = _General(fmt=fmt, policy=policy, codes=codes, layout=layout, want=want)

    def run(x: torch.Tensor, words: torch.Tensor | None, first: int) -> torch.Tensor:
        result = general(x.to(layout.real), words, first)
        return result if codes else result.to(real)

    return run


_NUMPY = {32: _floatround.np.dtype("float32"), 64: _floatround.np.dtype("float64")}


# --- nearest even by addition -------------------------------------------------------------------


def _even(fmt: FloatFormat, policy: RoundingPolicy, want: Any, layout: _Layout) -> bool:
    """Whether the rounding is to nearest even with outcomes alike for both signs."""
    return (
        policy.rounding == "nearest_even"
        and policy.overflow != "pychop"
        and fmt.subnormals
        and 1 <= fmt.mantissa_bits < layout.fraction
        and "error" not in (*want.over, *want.infinite, *want.nan)
        and want.nan[0] != "-zero"
    )


def _by_addition(fmt: FloatFormat, want: Any, layout: _Layout) -> Body:
    exponent = layout.infinity
    lift = (layout.fraction - fmt.mantissa_bits) << layout.fraction
    low = layout.bits(fmt.min_normal)
    high = (fmt.max_exponent + 1 + layout.bias) << layout.fraction
    largest = fmt.max
    over, infinite, nan = (
        _floatround.value_of(fmt, p[0], False) for p in (want.over, want.infinite, want.nan)
    )

    def run(x: torch.Tensor, words: torch.Tensor | None, first: int) -> torch.Tensor:
        size = x.abs()
        step = (size.view(layout.whole) & exponent).clamp_(low, high).add_(lift).view(layout.real)
        result = (size + step).sub_(step)
        if over == largest and infinite == largest:
            result.clamp_(max=largest)
        else:
            result.masked_fill_(result > largest, over)
            if infinite != over and not (infinite != infinite and over != over):
                result.masked_fill_(size == torch.inf, infinite)
        if nan == nan:
            result.masked_fill_(x.isnan(), nan)
        result = torch.copysign(result, x, out=result)
        return result if fmt.negative_zero else result.add_(0.0)

    return run


def _by_carry(fmt: FloatFormat, want: Any, layout: _Layout) -> Body:
    """For formats with the type's own exponents: add to the bits, cut, let carries rise."""
    shift = layout.fraction - fmt.mantissa_bits
    largest = layout.bits(fmt.max)
    over, infinite, nan = (
        layout.bits(_floatround.value_of(fmt, p[0], False))
        for p in (want.over, want.infinite, want.nan)
    )

    def run(x: torch.Tensor, words: torch.Tensor | None, first: int) -> torch.Tensor:
        bits = x.view(layout.whole)
        size = bits & layout.magnitude
        result = (size >> shift).bitwise_and_(1).add_((1 << (shift - 1)) - 1)
        result.add_(size).bitwise_and_(-1 << shift)
        result.masked_fill_(result > largest, over)
        if infinite != over:
            result.masked_fill_(size == layout.infinity, infinite)
        result.masked_fill_(size > layout.infinity, nan)
        result.bitwise_or_(bits & ~layout.magnitude)
        return result.view(layout.real) if fmt.negative_zero else result.view(layout.real) + 0.0

    return run


# --- the magnitude index ------------------------------------------------------------------------


def random_words(seed: int, first: int, count: int, device: Any) -> torch.Tensor:
    """The counter-based random words of stochastic rounding, as int32 bit patterns."""
    key_a, key_b = (SINGLE.signed(k) for k in _plain.keys(seed))
    h = torch.arange(count, dtype=torch.int32, device=device)
    h.add_(SINGLE.signed(first)).bitwise_xor_(key_a)
    h.bitwise_xor_(_shifted(h, 16)).mul_(0x7FEB352D).add_(key_b)
    h.bitwise_xor_(_shifted(h, 15)).mul_(SINGLE.signed(0x846CA68B))
    return h.bitwise_xor_(_shifted(h, 16))


def _shifted(words: torch.Tensor, by: int) -> torch.Tensor:
    """Logical right shift of int32 bit patterns by 1 to 31."""
    return (words >> by).bitwise_and_((1 << (32 - by)) - 1)


@frozen(kw_only=True)
class _General:
    """The body for every rounding, values or codes, in one layout."""

    fmt: FloatFormat
    policy: RoundingPolicy
    codes: bool
    layout: _Layout
    want: Any

    def __call__(self, x, words: torch.Tensor | None, first: int) -> torch.Tensor:
        fmt, policy, layout = self.fmt, self.policy, self.layout
        bits = x.view(layout.whole)
        size = bits & layout.magnitude
        if policy.unsigned_magnitude and not fmt.zero:
            bits = size
        negative = bits >> (layout.width - 1)  # 0 or -1
        index = self._index(size, negative, words)
        if policy.library_e8m0 and not fmt.zero and policy.rounding == "nearest_even":
            low = layout.bits(fmt.min_positive)
            index.masked_fill_((size > low) & (size < low + (1 << layout.fraction)), 2)
        over = index > fmt.max_index
        if not fmt.zero:
            index.clamp_(min=fmt.first_index)
        result = self._coded(index, negative) if self.codes else self._valued(index, bits)
        return self._special(result, x, size, negative, over, first)

    def _index(self, size, negative, words) -> torch.Tensor:
        fmt, layout, rounding = self.fmt, self.layout, self.policy.rounding
        if self.policy.library_e8m0 and not fmt.zero and rounding == "nearest_even":
            rounding = "nearest_away"
        y, far = fmt.mantissa_bits, layout.width - 2
        low = layout.bias + fmt.min_exponent
        exponent = size >> layout.fraction
        m = size & ((1 << layout.fraction) - 1)
        m.add_(exponent.clamp(max=1).bitwise_left_shift_(layout.fraction))
        exponent.clamp_(min=1).sub_(low)
        flush = fmt.zero and not fmt.subnormals
        k = (-exponent).clamp_(min=0).add_(layout.fraction - y)
        if flush:
            k.add_((exponent < 0).to(layout.whole), alpha=y)
        if words is None:
            k.clamp_(max=far)
        base = exponent.clamp(min=0).bitwise_left_shift_(y)
        if words is None:
            index = self._directed(m, k, base, negative, rounding)
        else:
            index = self._stochastic(m, k, words)
        if flush:
            index = torch.where(exponent < 0, index << y, index)
        return index.add_(base)

    def _directed(self, m, k, base, negative, rounding: str) -> torch.Tensor:
        """(m + what the direction adds) >> k."""
        fmt = self.fmt
        if rounding == "toward_zero":
            return m >> k
        if rounding in ("nearest_even", "to_odd"):
            kept = m >> k
            last = kept.clone() if rounding == "to_odd" else kept
            if fmt.mantissa_bits == 0:  # the last bit of the code is the exponent's
                last = last + (base - fmt.first_index)
            last = last.bitwise_and_(1)
            if rounding == "to_odd":
                inexact = ((kept << k) != m).to(m.dtype)
                return kept.add_(inexact.bitwise_and_(last.bitwise_xor_(1)))
        unit = torch.ones_like(k).bitwise_left_shift_(k)
        if rounding in ("away_from_zero", "up", "down"):
            rest = unit.sub_(1)
            if rounding != "away_from_zero":
                rest.bitwise_and_(negative if rounding == "down" else ~negative)
            return rest.add_(m).bitwise_right_shift_(k)
        half = unit.bitwise_right_shift_(1)
        if rounding == "nearest_zero":
            half = half.sub_(1).clamp_(min=0)
        elif rounding == "nearest_even":
            half = half.sub_(1).add_(last)
            if fmt.mantissa_bits == self.layout.fraction:
                half.masked_fill_(k == 0, 0)
        return half.add_(m).bitwise_right_shift_(k)

    def _stochastic(self, m, k, words) -> torch.Tensor:
        """Truncate to `random_bits` of the discarded part, add as many random ones, truncate."""
        bits, far = self.policy.random_bits, self.layout.width - 2
        drawn = _shifted(words, 32 - bits).to(m.dtype)
        used = k.clamp(max=bits)
        drop = (k - used).clamp_(max=far)
        drawn.bitwise_right_shift_(bits - used)
        # 31 random bits may carry into bit 31: the arithmetic shift then gives -1 for 1.
        return (m >> drop).add_(drawn).bitwise_right_shift_(used).abs_()

    def _coded(self, index, negative) -> torch.Tensor:
        fmt = self.fmt
        if fmt.first_index:
            index = index - fmt.first_index
        if not fmt.signed:
            return index
        code = index | (negative & self.layout.signed(1 << (fmt.bits - 1)))
        return code if fmt.negative_zero else code.masked_fill_(index == 0, 0)

    def _valued(self, index, bits) -> torch.Tensor:
        fmt, layout = self.fmt, self.layout
        y, low = fmt.mantissa_bits, layout.bias + fmt.min_exponent
        value = (index << (layout.fraction - y)).add_((low - 1) << layout.fraction)
        if low > 1 and fmt.zero:
            unit = 2.0 ** (fmt.min_exponent - y)
            small = index.to(layout.real).mul_(unit).view(layout.whole)
            value = torch.where(index < (1 << y), small, value)
        if fmt.signed:
            value.bitwise_or_(bits & ~layout.magnitude)
        if not fmt.negative_zero and fmt.zero:
            value.masked_fill_(index == 0, 0)
        return value

    def _special(self, result, x, size, negative, over, first: int) -> torch.Tensor:
        """Overflow, infinity, NaN and values without a code, over the plain result."""
        fmt, policy, layout, want = self.fmt, self.policy, self.layout, self.want
        infinite, nan = size == layout.infinity, size > layout.infinity
        over = over & (size < layout.infinity)
        for mask, outcome, what in (
            (over, want.over, "overflows"), (infinite, want.infinite, "is infinite"),
            (nan, want.nan, "is NaN"),
        ):  # fmt: skip
            if outcome[0] == "error":
                refuse(fmt, x, mask, what, first)
                if what != "is NaN":
                    continue
            positive, minus = (self._word(outcome[i], bool(i)) for i in (0, 1))
            if positive == minus:
                result.masked_fill_(mask, positive)
            else:
                picked = (negative & (positive ^ minus)).bitwise_xor_(positive)
                result = torch.where(mask, picked, result)
        if policy.overflow == "pychop":
            result = _like_pychop(result.view(layout.real), x, over, fmt).view(layout.whole)
        if not fmt.signed or not fmt.zero:
            result = self._without_code(result, x, first)
        return result if self.codes else result.view(layout.real)

    def _word(self, outcome: str, negative: bool) -> int:
        ones = self.policy.nan_all_ones
        if self.codes:
            return self.layout.signed(_floatround.code_of(self.fmt, outcome, negative, ones))
        return self.layout.bits(_floatround.value_of(self.fmt, outcome, negative, ones))

    def _without_code(self, result, x, first: int) -> torch.Tensor:
        """Negative values of unsigned formats and zeros of formats without: 0 or NaN."""
        fmt, policy = self.fmt, self.policy
        magnitude = policy.unsigned_magnitude and not fmt.zero
        wrong = torch.zeros_like(x, dtype=torch.bool)
        if not fmt.signed and not magnitude:
            wrong |= x < 0
        if not fmt.zero and not policy.unsigned_magnitude:
            wrong |= x == 0
        if policy.overflow in ("saturate", "saturate_finite") and fmt.zero:
            return result.masked_fill_(wrong, 0)
        if fmt.nan == "none" or policy.overflow == "error":
            refuse(fmt, x, wrong, "has no code", first)
            return result
        return result.masked_fill_(wrong, self._word("nan", False))


def _like_pychop(result, x, over, fmt: FloatFormat) -> torch.Tensor:
    limit, size = 2.0 ** (fmt.max_exponent + 1), x.abs().to(torch.float64)
    kept = torch.full_like(size, torch.inf)
    kept.masked_fill_(size < 2 * limit, 0.0).masked_fill_(size < limit, limit)
    return torch.where(over, torch.copysign(kept.to(x.dtype), x), result)


def refuse(fmt: Any, x: torch.Tensor, mask: torch.Tensor, what: str, first: int) -> None:
    """Raise for the first element under the mask; waits for the device."""
    if bool(mask.any()):
        at = int(mask.to(torch.uint8).argmax())
        _floatround._raise(fmt, first + at, float(x[at]), what)
