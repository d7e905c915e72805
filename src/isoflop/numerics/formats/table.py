"""Fixed point, code books and power-exponent formats: values on a short list or a uniform grid."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from attrs import field, frozen

from ...errors import InvalidInput


def round_grid(y: np.ndarray, rounding: str, words, random_bits: int) -> np.ndarray:
    """Round float64 `y` to integers in any direction; ties to even are even integers."""
    size = np.abs(y)
    below = np.floor(size)
    rest = size - below
    if words is not None:
        drawn = (words >> np.uint32(32 - random_bits)).astype(np.float64)
        up = np.floor(np.ldexp(rest, random_bits)) + drawn >= 2.0**random_bits
    else:
        odd = below % 2 == 1
        tie = rest == 0.5
        up = {
            "nearest_even": (rest > 0.5) | (tie & odd), "nearest_away": (rest > 0.5) | tie,
            "nearest_zero": rest > 0.5, "toward_zero": rest < 0, "away_from_zero": rest > 0,
            "up": (rest > 0) & (y > 0), "down": (rest > 0) & (y < 0),
            "to_odd": (rest > 0) & ~odd,
        }[rounding]  # fmt: skip
    return np.copysign(below + up, y)


def _check_nan(x: np.ndarray, name: str) -> None:
    if np.isnan(x).any():
        at = int(np.argmax(np.isnan(x)))
        raise InvalidInput(f"Element {at} is NaN, which '{name}' cannot express. Clean the input.")


@frozen(kw_only=True, slots=False)
class FixedFormat:
    """Two's-complement or unsigned fixed point: value = q 2^-fraction_bits.

    Attributes
    ----------
    width : int
        Bits of q, 1 to 32.
    fraction_bits : int
        0 for integers; 6 for the OCP MX INT8 element.
    signed : bool
    symmetric : bool
        Leave out the most negative code.

    Results beyond the range saturate, as hardware converters do.
    """

    name: str
    width: int
    fraction_bits: int = 0
    signed: bool = True
    symmetric: bool = False
    note: str = ""

    def __attrs_post_init__(self) -> None:
        if not 1 + self.signed <= self.width <= 32:
            raise InvalidInput(
                f"'{self.name}' has {self.width} bits; {1 + self.signed} to 32 are supported."
            )

    @property
    def bits(self) -> int:
        """Bits of a code word."""
        return self.width

    @property
    def bits_per_value(self) -> float:
        """Bits stored per value."""
        return float(self.width)

    @property
    def code_count(self) -> int:
        """Number of code words."""
        return 1 << self.width

    @property
    def low(self) -> int:
        """Smallest q."""
        return (-(1 << (self.width - 1)) + int(self.symmetric)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest q."""
        return (1 << (self.width - int(self.signed))) - 1

    @property
    def max(self) -> float:
        """Largest value."""
        return float(np.ldexp(float(self.high), -self.fraction_bits))

    @property
    def max_exponent(self) -> int:
        """Floor of log2 of the largest value."""
        return self.high.bit_length() - 1 - self.fraction_bits

    @property
    def min_positive(self) -> float:
        """Smallest positive value, the grid step."""
        return float(np.ldexp(1.0, -self.fraction_bits))

    eps = min_positive

    @property
    def values(self) -> np.ndarray:
        """Value of every code, up to 16 bits."""
        if self.width > 16:
            raise InvalidInput(f"'{self.name}' has {self.code_count} codes; tables go to 16 bits.")
        return self.decode(np.arange(self.code_count))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values (float64) of code words."""
        q = np.asarray(codes).astype(np.int64)
        if self.signed:
            q = np.where(q >> (self.width - 1) != 0, q - (1 << self.width), q)
        return np.ldexp(q.astype(np.float64), -self.fraction_bits)

    def round_into(self, x, policy, codes: bool, out, words) -> None:
        """Round flat `x` into flat `out`, values or codes."""
        _check_nan(x, self.name)
        with np.errstate(over="ignore"):
            scaled = np.ldexp(x.astype(np.float64), self.fraction_bits)
        if policy.overflow == "error" and np.any((scaled > self.high) | (scaled < self.low)):
            at = int(np.argmax((scaled > self.high) | (scaled < self.low)))
            raise InvalidInput(f"Element {at} ({x[at]:g}) overflows '{self.name}' ({self.max:g}).")
        clipped = np.clip(scaled, self.low - 1.0, self.high + 1.0)
        q = round_grid(clipped, policy.rounding, words, policy.random_bits)
        q = np.clip(q, self.low, self.high)
        if codes:
            out[...] = q.astype(np.int64) & ((1 << self.width) - 1)
        else:
            out[...] = np.ldexp(q, -self.fraction_bits) + 0.0  # integers have one zero


@frozen(kw_only=True, slots=False, eq=False)
class CodebookFormat:
    """Any list of values: the code is the index, ties go to the even code.

    Attributes
    ----------
    book : tuple of float
        Strictly increasing, 2 to 65536 values.
    """

    name: str
    book: tuple[float, ...] = field(converter=lambda v: tuple(float(x) for x in v))
    note: str = ""

    def __attrs_post_init__(self) -> None:
        if not 2 <= len(self.book) <= 65536 or not np.all(np.diff(self.book) > 0):
            raise InvalidInput(
                f"The code book '{self.name}' must be 2 to 65536 strictly increasing values."
            )

    @property
    def bits(self) -> int:
        """Bits of a code word."""
        return (len(self.book) - 1).bit_length()

    @property
    def bits_per_value(self) -> float:
        """Bits stored per value."""
        return float(self.bits)

    @property
    def code_count(self) -> int:
        """Number of code words in use."""
        return len(self.book)

    @cached_property
    def values(self) -> np.ndarray:
        """Value of every code."""
        return np.array(self.book)

    @property
    def max(self) -> float:
        """Largest magnitude."""
        return float(np.abs(self.values).max())

    @property
    def min_positive(self) -> float:
        """Smallest positive value."""
        return float(self.values[self.values > 0].min())

    @property
    def eps(self) -> float:
        """Smallest distance between two values."""
        return float(np.diff(self.values).min())

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values (float64) of code words."""
        return self.values[np.asarray(codes)]

    def round_into(self, x, policy, codes: bool, out, words) -> None:
        """Round flat `x` into flat `out`; beyond the ends saturates."""
        _check_nan(x, self.name)
        book = self.values
        y = np.clip(x.astype(np.float64), book[0], book[-1])
        low = np.clip(np.searchsorted(book, y, side="right") - 1, 0, len(book) - 2)
        part = (y - book[low]) / (book[low + 1] - book[low])
        twice = 2 * y - (book[low] + book[low + 1])
        toward_zero_is_low = book[low] >= 0
        if words is not None:
            drawn = (words >> np.uint32(32 - policy.random_bits)).astype(np.float64)
            up = np.floor(np.ldexp(part, policy.random_bits)) + drawn >= 2.0**policy.random_bits
        else:
            inexact, tie = part > 0, twice == 0
            up = {
                "nearest_even": (twice > 0) | (tie & (low % 2 == 1)),
                "nearest_away": (twice > 0) | (tie & toward_zero_is_low),
                "nearest_zero": (twice > 0) | (tie & ~toward_zero_is_low),
                "toward_zero": np.where(toward_zero_is_low, part >= 1, inexact),
                "away_from_zero": np.where(toward_zero_is_low, inexact, part >= 1),
                "up": inexact, "down": part >= 1, "to_odd": inexact & (low % 2 == 0),
            }[policy.rounding]  # fmt: skip
            up = np.where(part >= 1, True, up)
        code = low + up
        out[...] = code if codes else book[code]


@frozen(kw_only=True, slots=False)
class PowerFormat:
    """Power-exponent quantisation: codes are uniform in sign(x)|x|^a on [-1, 1].

    Q_a(x) = round((2^(b-1) - 1) sign(x) |x|^a), and value(q) = sign(q) (|q| / (2^(b-1) - 1))^(1/a).

    References
    ----------
    Yvinec et al., PowerQuant (ICLR 2023) and NUPES (arXiv 2308.05600): the automorphisms of
    (R+*, x) are x -> x^a.
    """

    name: str
    width: int
    exponent: float
    note: str = ""

    def __attrs_post_init__(self) -> None:
        if not (2 <= self.width <= 16 and 0 < self.exponent <= 4):
            raise InvalidInput(
                f"'{self.name}' has {self.width} bits and exponent {self.exponent}; "
                "2 to 16 bits and an exponent in (0, 4] are supported."
            )

    @property
    def bits(self) -> int:
        """Bits of a code word."""
        return self.width

    @property
    def bits_per_value(self) -> float:
        """Bits stored per value."""
        return float(self.width)

    @property
    def code_count(self) -> int:
        """Number of code words."""
        return 1 << self.width

    @property
    def max(self) -> float:
        """Largest value."""
        return 1.0

    @property
    def min_positive(self) -> float:
        """Smallest positive value."""
        return float((1 / ((1 << (self.width - 1)) - 1)) ** (1 / self.exponent))

    @property
    def eps(self) -> float:
        """Distance from 1 to the next smaller value."""
        top = (1 << (self.width - 1)) - 1
        return float(1 - ((top - 1) / top) ** (1 / self.exponent))

    @property
    def values(self) -> np.ndarray:
        """Value of every code."""
        return self.decode(np.arange(self.code_count))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values (float64) of code words (two's complement q)."""
        q = np.asarray(codes).astype(np.int64)
        q = np.where(q >> (self.width - 1) != 0, q - (1 << self.width), q)
        top = (1 << (self.width - 1)) - 1
        return np.sign(q) * (np.abs(q) / top) ** (1 / self.exponent)

    def round_into(self, x, policy, codes: bool, out, words) -> None:
        """Round flat `x` into flat `out`; beyond [-1, 1] saturates."""
        _check_nan(x, self.name)
        top = (1 << (self.width - 1)) - 1
        y = np.minimum(np.abs(x.astype(np.float64)), 1.0) ** self.exponent * top
        q = round_grid(np.copysign(y, x), policy.rounding, words, policy.random_bits)
        q = np.clip(q, -top, top)
        if codes:
            out[...] = q.astype(np.int64) & (self.code_count - 1)
        else:
            out[...] = np.copysign((np.abs(q) / top) ** (1 / self.exponent), q) + 0.0
