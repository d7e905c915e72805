"""Fixed point, code books and posits on PyTorch tensors: the bodies of `formats` in tensor form."""

from __future__ import annotations

from typing import Any

import torch

from ..formats import CodebookFormat, FixedFormat, PositFormat
from ..policies import RoundingPolicy
from . import floats

_POSIT_BITS = 16


def body(fmt: Any, policy: RoundingPolicy, codes: bool) -> floats.Body | None:
    """The function that rounds flat tensors to `fmt`, or None where there is none here."""
    if isinstance(fmt, FixedFormat):
        return _fixed(fmt, policy, codes)
    if isinstance(fmt, CodebookFormat):
        return _codebook(fmt, policy, codes)
    if isinstance(fmt, PositFormat) and fmt.n <= _POSIT_BITS and fmt.es <= 4:
        return _posit(fmt, policy, codes)
    return None


def _drawn(words: torch.Tensor, bits: int) -> torch.Tensor:
    return floats._shifted(words, 32 - bits).to(torch.float64)


def _grid(y: torch.Tensor, policy: RoundingPolicy, words: torch.Tensor | None) -> torch.Tensor:
    """Float64 `y` rounded to integers in any direction; ties to even are even integers."""
    rounding, size = policy.rounding, y.abs()
    if words is None and rounding == "nearest_even":
        return y.round()
    below = size.floor()
    rest = size - below
    if words is not None:
        scale = 2.0**policy.random_bits
        up = (rest * scale).floor() + _drawn(words, policy.random_bits) >= scale
    else:
        up = {
            "nearest_away": lambda: rest >= 0.5, "nearest_zero": lambda: rest > 0.5,
            "toward_zero": lambda: rest < 0, "away_from_zero": lambda: rest > 0,
            "up": lambda: (rest > 0) & (y > 0), "down": lambda: (rest > 0) & (y < 0),
            "to_odd": lambda: (rest > 0) & (below % 2 == 0),
        }[rounding]()  # fmt: skip
    return torch.copysign(below + up, y)


def _fixed(fmt: FixedFormat, policy: RoundingPolicy, codes: bool) -> floats.Body:
    def run(x: torch.Tensor, words: torch.Tensor | None, first: int) -> torch.Tensor:
        floats.refuse(fmt, x, x.isnan(), "is NaN", first)
        scaled = x.to(torch.float64) * 2.0**fmt.fraction_bits
        if policy.overflow == "error":
            beyond = (scaled > fmt.high) | (scaled < fmt.low)
            floats.refuse(fmt, x, beyond, "overflows", first)
        q = _grid(scaled.clamp_(fmt.low - 1.0, fmt.high + 1.0), policy, words)
        q = q.clamp_(fmt.low, fmt.high)
        if codes:
            return q.to(torch.int64).bitwise_and_((1 << fmt.width) - 1)
        return (q * 2.0**-fmt.fraction_bits).add_(0.0).to(x.dtype)

    return run


def _codebook(fmt: CodebookFormat, policy: RoundingPolicy, codes: bool) -> floats.Body:
    def run(x: torch.Tensor, words: torch.Tensor | None, first: int) -> torch.Tensor:
        floats.refuse(fmt, x, x.isnan(), "is NaN", first)
        book = torch.from_numpy(fmt.values).to(x.device)
        y = x.to(torch.float64).clamp(book[0], book[-1])
        low = torch.searchsorted(book, y, right=True).sub_(1).clamp_(0, len(fmt.book) - 2)
        left, right = book[low], book[low + 1]
        positive, twice = left >= 0, 2 * y - (left + right)
        part = (y - left) / (right - left)
        if words is not None:
            scale = 2.0**policy.random_bits
            up = (part * scale).floor() + _drawn(words, policy.random_bits) >= scale
        else:
            inexact, tie = part > 0, twice == 0
            up = {
                "nearest_even": lambda: (twice > 0) | (tie & (low % 2 == 1)),
                "nearest_away": lambda: (twice > 0) | (tie & positive),
                "nearest_zero": lambda: (twice > 0) | (tie & ~positive),
                "toward_zero": lambda: torch.where(positive, part >= 1, inexact),
                "away_from_zero": lambda: torch.where(positive, inexact, part >= 1),
                "up": lambda: inexact, "down": lambda: part >= 1,
                "to_odd": lambda: inexact & (low % 2 == 0),
            }[policy.rounding]()  # fmt: skip
            up = up | (part >= 1)
        code = low + up
        return code if codes else book[code].to(x.dtype)

    return run


def _posit(fmt: PositFormat, policy: RoundingPolicy, codes: bool) -> floats.Body:
    def run(x: torch.Tensor, words: torch.Tensor | None, first: int) -> torch.Tensor:
        real = x.isfinite()
        if policy.nan == "error":
            floats.refuse(fmt, x, x.isnan(), "is NaN", first)
        code = _posit_codes(fmt, x.to(torch.float64), policy, words)
        code = torch.where(real, code, 1 << (fmt.n - 1))
        if codes:
            return code
        return torch.from_numpy(fmt.values).to(x.device)[code].to(x.dtype)

    return run


def _posit_codes(fmt: PositFormat, x, policy: RoundingPolicy, words) -> torch.Tensor:
    n, es, fraction = fmt.n, fmt.es, floats.DOUBLE.fraction
    size = x.view(torch.int64) & floats.DOUBLE.magnitude
    exponent = (size >> fraction) - floats.DOUBLE.bias
    regime = (exponent >> es).clamp_(-(n - 1), n - 2)
    run = torch.where(regime >= 0, regime + 2, 1 - regime)
    kept_bits = (n - 1 - run).clamp_(min=0)
    ones = (torch.ones_like(run) << (regime + 2).clamp_(min=0)) - 2
    pattern = torch.where(regime >= 0, ones, 1)
    tail = ((exponent & ((1 << es) - 1)) << fraction) | (size & ((1 << fraction) - 1))
    shift = es + fraction - kept_bits
    kept = (pattern << kept_bits) | (tail >> shift)
    rest = tail & ((torch.ones_like(shift) << shift) - 1)
    if words is None:
        kept = kept + _rises(kept, rest, shift, x < 0, policy.rounding)
    else:
        bits = policy.random_bits
        drawn = floats._shifted(words, 32 - bits).to(torch.int64)
        kept = kept + (((rest >> (shift - bits)) + drawn) >> bits)
    largest = (1 << (n - 1)) - 1
    kept = torch.where(regime >= n - 2, largest, kept)
    kept = torch.where(regime <= -(n - 1), 1, kept).clamp_(1, largest)
    kept = torch.where(x < 0, (1 << n) - kept, kept)
    return torch.where(x == 0, 0, kept)


def _rises(kept, rest, shift, negative, rounding: str) -> torch.Tensor:
    """Whether a direction adds one to `kept`, by the discarded `rest` of `shift` bits."""
    half = torch.ones_like(shift) << (shift - 1)
    odd, tie, inexact = kept & 1 == 1, rest == half, rest > 0
    return {
        "nearest_even": lambda: (rest > half) | (tie & odd), "nearest_away": lambda: rest >= half,
        "nearest_zero": lambda: rest > half, "toward_zero": lambda: rest < 0,
        "away_from_zero": lambda: inexact, "up": lambda: inexact & ~negative,
        "down": lambda: inexact & negative, "to_odd": lambda: inexact & ~odd,
    }[rounding]()  # fmt: skip
