"""What a rounding does beside choosing the format: direction, overflow, NaN, randomness.

Every choice is explicit and validated against the format before any value is touched.
"""

from __future__ import annotations

from typing import Literal, get_args

from attrs import evolve, frozen

from ..errors import InvalidInput, UnknownName

Rounding = Literal[
    "nearest_even", "nearest_away", "nearest_zero", "toward_zero", "away_from_zero",
    "up", "down", "to_odd", "stochastic",
]  # fmt: skip
"""Rounding directions. `nearest_*` names the tie rule; `to_odd` makes inexact results odd."""

Overflow = Literal[
    "format", "ieee", "infinity", "nan", "saturate", "saturate_finite", "error", "pychop",
]  # fmt: skip
"""What a result past the largest finite value becomes.

format: infinity where the format has one, else NaN where it has one, else the largest value;
ieee: as `format` for roundings away from zero and nearest, the largest value for roundings
toward zero (IEEE 754-2019 section 7.4);
infinity, nan: that code, which the format must have;
saturate: the largest value, also for an infinite input;
saturate_finite: the largest value, but an infinite input stays infinite;
error: raise, naming the first place;
pychop: what pychop 0.6 returns, values only: 2^(emax+1) for a result rounded up to it, 0 for inputs
in [2^(emax+1), 2^(emax+2)), infinity beyond; ties of negative values under nearest_zero and
nearest_away go the other way (`for_negative`).
"""

NanPolicy = Literal["format", "propagate", "zero", "opposite_zero", "max", "error"]
"""What a NaN input becomes where the format has no NaN (where it has one, NaN stays NaN, except
under `error`): format and error raise, naming the place; propagate keeps NaN in values and cannot
make codes; zero, max: that value with the NaN's sign; opposite_zero: the zero of the other sign,
as ml_dtypes writes."""

DEFAULT_RANDOM_BITS = 31


@frozen(kw_only=True)
class RoundingPolicy:
    """A complete description of one rounding.

    Attributes
    ----------
    rounding : Rounding
    overflow : Overflow
    nan : NanPolicy
    random_bits : int
        Bits of randomness of `stochastic`, 1 to 31: the discarded fraction is truncated to so
        many bits and rounded up with exactly that probability.
    double_through_float32 : bool
        Round float64 input to float32 first, as ml_dtypes and PyTorch do (a double rounding).
    library_e8m0 : bool
        Round to E8M0 as ml_dtypes and PyTorch do: ties upward, and everything strictly between
        2^-127 and 2^-126 up.
    unsigned_magnitude : bool
        Formats without sign and zero take |x|, and zero becomes their smallest value (PyTorch);
        otherwise both become NaN.
    saturating_formats : tuple of str
        Names of formats for which `overflow` is replaced by saturate.
    nan_all_ones : bool
        Write NaN as the all-ones code (PyTorch) instead of the first quiet NaN (ml_dtypes).
    keep_infinity : bool
        An infinite input stays infinite as a value, also where the format has no infinity
        (microxcaling); code words follow `overflow`.
    float32_steps : bool
        Power-of-two block scales take the exponent of amax from a float32 logarithm, which calls
        an amax a few units below 2^k by k; the float32 just below half the smallest step rounds
        up to it, as adding one half in float32 does (microxcaling).
    symmetric_integers : bool
        Integer elements are sign and magnitude: the most negative code is not used.
    """

    rounding: Rounding = "nearest_even"
    overflow: Overflow = "ieee"
    nan: NanPolicy = "format"
    random_bits: int = DEFAULT_RANDOM_BITS
    double_through_float32: bool = False
    library_e8m0: bool = False
    unsigned_magnitude: bool = False
    saturating_formats: tuple[str, ...] = ()
    nan_all_ones: bool = False
    keep_infinity: bool = False
    float32_steps: bool = False
    symmetric_integers: bool = False

    def __attrs_post_init__(self) -> None:
        _one_of(self.rounding, Rounding, "rounding")
        _one_of(self.overflow, Overflow, "overflow policy")
        _one_of(self.nan, NanPolicy, "NaN policy")
        if not 1 <= self.random_bits <= 31:
            raise InvalidInput(
                f"random_bits is {self.random_bits}; stochastic rounding takes 1 to 31 bits."
            )


def _one_of(value: str, literal: object, noun: str) -> None:
    known = get_args(literal)
    if value not in known:
        raise UnknownName(noun, str(value), known, f"It is one of: {', '.join(known)}.")


_OTHER_TIE: dict[str, Rounding] = {
    "nearest_zero": "nearest_away", "nearest_away": "nearest_zero",
}  # fmt: skip


def for_negative(policy: RoundingPolicy) -> RoundingPolicy | None:
    """The policy negative values take where it is another than the positive ones', else None."""
    if policy.overflow != "pychop" or policy.rounding not in _OTHER_TIE:
        return None
    return evolve(policy, rounding=_OTHER_TIE[policy.rounding])


def below_half(step: float) -> float:
    """The float32 just below half of `step`."""
    return step / 2 * (1 - 2.0**-24)


PRESETS: dict[str, RoundingPolicy] = {
    # ml_dtypes 0.6: e4m3fn overflows to NaN, e5m2 to infinity, float64 goes through float32, the
    # finite-only FP6 and FP4 saturate. Checked exhaustively.
    "ml_dtypes": RoundingPolicy(
        nan="opposite_zero", double_through_float32=True, library_e8m0=True
    ),
    # PyTorch 2.13: as ml_dtypes, but E4M3 saturates, NaN is all ones, E8M0 drops the sign.
    # Checked on a grid of 4 million bit patterns.
    "torch-2.13": RoundingPolicy(
        nan="opposite_zero", double_through_float32=True, library_e8m0=True,
        unsigned_magnitude=True, saturating_formats=("fp8-e4m3",), nan_all_ones=True,
    ),
    # microxcaling 1.1 inside MX, its default rounding: adds half before truncating (ties away from
    # zero), clamps finite results, keeps infinity and NaN, integers are sign and magnitude, the
    # shared exponent is the floor of a float32 log2, halves are added in float32. Compared with its
    # source, which no package index carries, by `conformance/microxcaling.py`.
    "microxcaling": RoundingPolicy(
        rounding="nearest_away", overflow="saturate_finite", nan="propagate", keep_infinity=True,
        float32_steps=True, symmetric_integers=True,
    ),
    # pychop 0.6 torch backend, six directions checked on random values. Not reproduced: its
    # rounding to odd, which moves exact values, and what float32 scaling costs some subnormals.
    "pychop": RoundingPolicy(overflow="pychop"),
}  # fmt: skip
"""Named policies that reproduce other libraries."""


def resolve(
    rounding: str | None = None,
    overflow: str | None = None,
    nan: str | None = None,
    random_bits: int | None = None,
    like: str | None = None,
) -> RoundingPolicy:
    """A policy from a preset and overrides; `None` keeps the preset's choice.

    Raises
    ------
    UnknownName
        For a preset or a choice that does not exist.
    """
    if like is not None and like not in PRESETS:
        raise UnknownName("rounding preset", like, PRESETS, f"It is one of: {', '.join(PRESETS)}.")
    base = PRESETS[like] if like is not None else RoundingPolicy()
    given = {"rounding": rounding, "overflow": overflow, "nan": nan, "random_bits": random_bits}
    return evolve(base, **{k: v for k, v in given.items() if v is not None})


def for_elements(policy: RoundingPolicy) -> RoundingPolicy:
    """The policy of a block's elements: the same direction and random bits, saturating."""
    like = "microxcaling" if policy.float32_steps else None
    return resolve(policy.rounding, "saturate", "format", policy.random_bits, like)
