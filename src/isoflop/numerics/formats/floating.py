"""Binary floating-point formats eXmY as records; every derived value is a property."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
from attrs import Factory, field, frozen

from ...errors import InvalidInput

NanCode = Literal["ieee", "top", "negative_zero", "none"]
"""Where NaN lives: every top-exponent code with a mantissa (ieee), the all-ones code only (top),
the code of minus zero (negative_zero), or nowhere (none)."""

TABLE_BITS = 16
"""Formats up to this width have a value table."""


def _usual_bias(fmt: FloatFormat) -> int:
    return 2 ** max(fmt.exponent_bits - 1, 0) - 1


@frozen(kw_only=True, slots=False)
class FloatFormat:
    """A binary floating-point format with X exponent and Y mantissa bits.

    A code is sign | exponent E | mantissa M. With bias b its value is
    (-1)^s 2^(E-b) (1 + M/2^Y), and (-1)^s 2^(1-b) M/2^Y for E = 0 where subnormals exist.

    Attributes
    ----------
    exponent_bits, mantissa_bits : int
        X in 0..15 (0: every value is subnormal) and Y in 0..52.
    bias : int
        Default 2^(X-1) - 1.
    signed, zero, subnormals, infinity, negative_zero : bool
        What the format has. Without zero (E8M0) the exponent code 0 is an ordinary binade.
        Without subnormals the codes with E = 0 and M > 0 mean zero.
    nan : NanCode

    References
    ----------
    IEEE 754-2019; OCP 8-bit Floating Point Specification (OFP8) v1.0; OCP Microscaling Formats
    (MX) v1.0; IEEE P3109 interim report.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int = field(default=Factory(_usual_bias, takes_self=True))
    signed: bool = True
    zero: bool = True
    subnormals: bool = True
    infinity: bool = True
    nan: NanCode = "ieee"
    negative_zero: bool = True
    note: str = ""

    def __attrs_post_init__(self) -> None:
        for rule, why in self._rules():
            if not rule:
                raise InvalidInput(f"The format '{self.name}' is inconsistent: {why}.")

    def _rules(self) -> list[tuple[bool, str]]:
        x, y, nan = self.exponent_bits, self.mantissa_bits, self.nan
        return [
            (0 <= x <= 15, f"it has {x} exponent bits, 0 to 15 are supported"),
            (0 <= y <= 52, f"it has {y} mantissa bits, 0 to 52 are supported"),
            (nan in ("ieee", "top", "negative_zero", "none"), f"'{nan}' is no NaN policy"),
            (nan != "ieee" or self.infinity, "IEEE NaN codes imply an infinity, which it excludes"),
            (nan != "ieee" or x >= 1, "IEEE NaN codes need an exponent field"),
            (nan != "ieee" or y >= 1, "IEEE NaN codes need at least one mantissa bit"),
            (
                nan != "negative_zero" or (self.signed and not self.negative_zero),
                "NaN at the code of minus zero needs a sign bit and excludes minus zero",
            ),
            (
                self.negative_zero is False or (self.signed and self.zero),
                "minus zero needs a sign bit and a zero",
            ),
            (self.zero or not self.subnormals, "subnormals need a zero"),
            (self.max_index > self.first_index, "no finite value above the smallest is left"),
        ]

    # --- layout -------------------------------------------------------------------------------
    @property
    def bits(self) -> int:
        """Bits of a code word."""
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def bits_per_value(self) -> float:
        """Bits stored per value."""
        return float(self.bits)

    @property
    def code_count(self) -> int:
        """Number of code words, 2^bits."""
        return 1 << self.bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal binade."""
        return 1 - self.bias if self.zero else -self.bias

    @property
    def first_index(self) -> int:
        """Magnitude index of code 0: 0, or 2^Y for formats without zero.

        The magnitude index orders non-negative values: index i has exponent field i >> Y in a
        format whose binade 0 is subnormal, so consecutive indices are neighbouring values.
        """
        return 0 if self.zero else 1 << self.mantissa_bits

    @property
    def max_code(self) -> int:
        """Magnitude code of the largest finite value."""
        top = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        if self.nan == "ieee":
            return top - (1 << self.mantissa_bits)
        return top - int(self.nan == "top") - int(self.infinity)

    @property
    def max_index(self) -> int:
        """Magnitude index of the largest finite value."""
        return self.max_code + self.first_index

    @property
    def infinity_code(self) -> int | None:
        """Magnitude code of infinity, if there is one."""
        return self.max_code + 1 if self.infinity else None

    @property
    def nan_code(self) -> int | None:
        """The (positive) code written for NaN, if there is one."""
        if self.nan == "none":
            return None
        if self.nan == "negative_zero":
            return 1 << (self.bits - 1)
        if self.nan == "top":
            return (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        return self.max_code + 1 + (1 << (self.mantissa_bits - 1))

    @property
    def nan_count(self) -> int:
        """Number of codes that mean NaN."""
        sides = 1 + int(self.signed)
        return {
            "none": 0, "negative_zero": 1, "top": sides,
            "ieee": sides * ((1 << self.mantissa_bits) - 1),
        }[self.nan]  # fmt: skip

    # --- derived values -----------------------------------------------------------------------
    def value_of_index(self, index: int) -> float:
        """Value of a magnitude index; `inf` if float64 cannot hold it."""
        y = self.mantissa_bits
        exponent = (index >> y) - 1 + self.min_exponent
        if index >> y == 0:
            mantissa = index if self.subnormals or not self.zero else 0
            return float(np.ldexp(float(mantissa), self.min_exponent - y))
        if exponent > 1023:
            return float("inf")
        return float(np.ldexp(1.0 + (index & ((1 << y) - 1)) / (1 << y), exponent))

    @property
    def max(self) -> float:
        """Largest finite value."""
        return self.value_of_index(self.max_index)

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value (`emax` of the OCP MX specification)."""
        return (self.max_index >> self.mantissa_bits) - 1 + self.min_exponent

    @property
    def min_normal(self) -> float:
        """Smallest positive normal value."""
        return float(np.ldexp(1.0, self.min_exponent))

    @property
    def min_positive(self) -> float:
        """Smallest positive value."""
        if not self.zero or not self.subnormals or self.mantissa_bits == 0:
            return self.min_normal
        return float(np.ldexp(1.0, self.min_exponent - self.mantissa_bits))

    @property
    def eps(self) -> float:
        """Distance from 1 to the next larger value, 2^-Y."""
        return float(np.ldexp(1.0, -self.mantissa_bits))

    @cached_property
    def values(self) -> np.ndarray:
        """Value of every code, float64, shape (2^bits,). Formats up to 16 bits."""
        if self.bits > TABLE_BITS:
            raise InvalidInput(
                f"'{self.name}' has {self.code_count} codes; value tables go up to "
                f"{TABLE_BITS} bits. Decode an array of codes instead."
            )
        return self.decode(np.arange(self.code_count, dtype=np.uint32))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values (float64) of an array of code words of any shape."""
        code = np.asarray(codes).astype(np.int64)
        width = self.exponent_bits + self.mantissa_bits
        magnitude = code & ((1 << width) - 1)
        index = magnitude + self.first_index
        y = self.mantissa_bits
        exponent = (index >> y) - 1 + self.min_exponent
        fraction = (index & ((1 << y) - 1)).astype(np.float64)
        normal = (index >> y) > 0
        if not self.subnormals and self.zero:
            fraction = np.where(normal, fraction, 0.0)
        significand = np.where(normal, fraction + float(1 << y), fraction)
        exponent = np.where(normal, exponent, self.min_exponent)
        with np.errstate(over="ignore", under="ignore"):
            value = np.ldexp(significand, np.clip(exponent - y, -4000, 4000).astype(np.int32))
        if self.infinity:
            value = np.where(magnitude == self.max_code + 1, np.inf, value)
        if self.nan == "ieee":
            value = np.where(magnitude > self.max_code + 1, np.nan, value)
        elif self.nan == "top":
            value = np.where(magnitude == (1 << width) - 1, np.nan, value)
        if self.signed:
            value = np.where(code >> width != 0, -value, value)
        if self.nan == "negative_zero":
            value = np.where(code == self.nan_code, np.nan, value)
        return value
