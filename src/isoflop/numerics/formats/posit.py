"""Posits: tapered precision, one zero, one NaR, rounding on the bit string."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from .. import _plain

_FRACTION = 52


@frozen(kw_only=True, slots=False)
class PositFormat:
    """A posit of n bits with es exponent bits.

    On the two's-complement magnitude: a regime run r, es exponent bits e and a fraction f give
    (1 + f) 2^(r 2^es + e). Code 0 is zero, code 2^(n-1) is NaR (every NaN and infinity).

    Rounding acts on the bit string, so a tie is between codes, not always between values, and no
    non-zero real becomes zero or NaR: results saturate at the smallest and largest magnitude.

    Attributes
    ----------
    n : int
        2 to 32.
    es : int
        0 to 6; 2 in the 2022 standard; SoftPosit has 0, 1, 2 at 8, 16, 32 bits.

    References
    ----------
    Standard for Posit Arithmetic (2022), Posit Working Group.
    """

    name: str
    n: int
    es: int = 2
    note: str = ""

    def __attrs_post_init__(self) -> None:
        if not (2 <= self.n <= 32 and 0 <= self.es <= 6):
            raise InvalidInput(
                f"The posit '{self.name}' has n = {self.n} and es = {self.es}; "
                "n is 2 to 32 and es 0 to 6."
            )

    @property
    def bits(self) -> int:
        """Bits of a code word."""
        return self.n

    @property
    def bits_per_value(self) -> float:
        """Bits stored per value."""
        return float(self.n)

    @property
    def code_count(self) -> int:
        """Number of code words."""
        return 1 << self.n

    @property
    def max(self) -> float:
        """Largest value, 2^((n-2) 2^es)."""
        return float(np.ldexp(1.0, (self.n - 2) << self.es))

    @property
    def min_positive(self) -> float:
        """Smallest positive value, 1 / max."""
        return float(np.ldexp(1.0, -((self.n - 2) << self.es)))

    @property
    def eps(self) -> float:
        """Distance from 1 to the next larger value."""
        return float(self.decode(np.array([(1 << (self.n - 2)) + 1]))[0] - 1.0)

    @cached_property
    def values(self) -> np.ndarray:
        """Value of every code (NaR as NaN), for n up to 16."""
        if self.n > 16:
            raise InvalidInput(f"'{self.name}' has {self.code_count} codes; tables go to 16 bits.")
        return self.decode(np.arange(self.code_count, dtype=np.uint32))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values (float64) of code words."""
        code = np.asarray(codes).astype(np.int64)
        n, es = self.n, self.es
        negative = code >> (n - 1) & 1 == 1
        magnitude = np.where(negative, (1 << n) - code, code) & ((1 << (n - 1)) - 1)
        lead = magnitude >> (n - 2) & 1
        # The run length is found by flipping runs of ones to zeros and taking the top bit left.
        flipped = np.where(lead == 1, ~magnitude & ((1 << (n - 1)) - 1), magnitude)
        top = np.frexp(flipped.astype(np.float64))[1] - 1  # -1 where the run fills the word
        run = (n - 2) - top
        regime = np.where(lead == 1, run - 1, -run)
        left = np.maximum(n - 2 - run, 0)
        tail = magnitude & ((np.int64(1) << left) - 1)
        exponent_bits = np.minimum(left, es)
        exponent = (tail >> (left - exponent_bits)) << (es - exponent_bits)
        fraction_bits = left - exponent_bits
        fraction = tail & ((np.int64(1) << fraction_bits) - 1)
        significand = 1.0 + np.ldexp(fraction.astype(np.float64), -fraction_bits)
        value = np.ldexp(significand, ((regime << es) + exponent).astype(np.int32))
        value = np.where(negative, -value, value)
        value = np.where(code == 0, 0.0, value)
        return np.where(code == 1 << (n - 1), np.nan, value)

    def _codes(self, x: np.ndarray, rounding: str, words, random_bits: int) -> np.ndarray:
        n, es = self.n, self.es
        mantissa, exponent = np.frexp(np.abs(x))
        exponent = exponent.astype(np.int64) - 1
        fraction = np.ldexp(mantissa, _FRACTION + 1).astype(np.int64) - (1 << _FRACTION)
        regime = np.clip(exponent >> es, -(n - 1), n - 2)
        run = np.where(regime >= 0, regime + 2, 1 - regime)
        kept_bits = np.maximum(n - 1 - run, 0)
        pattern = np.where(regime >= 0, (np.int64(1) << np.maximum(regime + 2, 0)) - 2, 1)
        tail = ((exponent & ((1 << es) - 1)) << _FRACTION) | fraction
        shift = es + _FRACTION - kept_bits
        kept = (pattern << kept_bits) | (tail >> shift)
        rest = tail & ((np.int64(1) << shift) - 1)
        if words is None:
            odd = kept & 1 == 1
            kept = _plain.round_integer(kept, rest, shift, odd, x < 0, rounding)
        else:
            bits = words.astype(np.int64) >> (32 - random_bits)
            kept = kept + (((rest >> (shift - random_bits)) + bits) >> random_bits)
        largest = (1 << (n - 1)) - 1
        kept = np.where(regime >= n - 2, largest, kept)
        kept = np.where(regime <= -(n - 1), 1, kept)
        code = np.clip(kept, 1, largest)
        code = np.where(x < 0, (1 << n) - code, code)
        return np.where(x == 0, 0, code)

    def round_into(self, x, policy, codes: bool, out, words) -> None:
        """Round flat `x` into flat `out`, values or codes; NaN and infinity become NaR."""
        real = np.isfinite(x)
        if policy.nan == "error" and np.isnan(x).any():
            raise InvalidInput(f"Element {int(np.argmax(np.isnan(x)))} is NaN.")
        safe = np.where(real, x, 0.0).astype(np.float64)
        code = self._codes(safe, policy.rounding, words, policy.random_bits)
        code = np.where(real, code, 1 << (self.n - 1))
        out[...] = code if codes else self.decode(code)
