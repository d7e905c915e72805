"""Block formats: an element format and a scale shared by a block of consecutive values."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from attrs import evolve, frozen

from ...errors import InvalidInput
from .floating import FloatFormat
from .table import CodebookFormat, FixedFormat, PowerFormat

ScaleRule = Literal["floor", "ceil", "rceil", "even", "absmax"]
"""How a block's scale follows from its largest magnitude amax.

Powers of two, with emax the exponent of the element's largest value (OCP MX v1.0 section 6.3 is
floor; the four are those of torchao's ScaleCalculationMode):
floor: floor(log2 amax) - emax; ceil: ceil(log2 amax) - emax; rceil: ceil(log2(amax / max));
even: floor(log2 of amax rounded to the element's mantissa) - emax.
absmax: amax / max, rounded to the scale's own format.
"""


@frozen(kw_only=True, slots=False)
class BlockFormat:
    """An element format whose values share scales along the last axis.

    Attributes
    ----------
    element : format record
    scale : FloatFormat
        How a scale is stored: e8m0, fp8-e4m3, fp16, fp32...
    block : int
        Values per scale along the last axis; 0 means the whole row.
    rule : ScaleRule
    two_level : bool
        One more float32 scale for the tensor: amax / (element max x scale max).
    zero_point : bool
        Asymmetric integers: the block's [min, max] widened to hold 0 is mapped onto all codes.
    scale_floor : float
        Smallest scale before rounding.
    reciprocal : bool
        Multiply by float32 reciprocals, (1 / tensor scale) / scale, as torchao does, instead of
        dividing by scale x tensor scale.
    """

    name: str
    element: FloatFormat | FixedFormat | CodebookFormat | PowerFormat
    scale: FloatFormat
    block: int
    rule: ScaleRule = "absmax"
    two_level: bool = False
    zero_point: bool = False
    scale_floor: float = 0.0
    reciprocal: bool = False
    note: str = ""

    def __attrs_post_init__(self) -> None:
        if self.block < 0:
            raise InvalidInput(f"'{self.name}' has blocks of {self.block}; 1 or more are needed.")
        integers = isinstance(self.element, FixedFormat)
        if self.zero_point and not (integers and self.rule == "absmax"):
            raise InvalidInput(
                f"The format '{self.name}' is inconsistent: zero points need integer elements "
                "and the absmax rule."
            )
        if self.two_level and (self.rule != "absmax" or self.zero_point):
            raise InvalidInput(
                f"The format '{self.name}' is inconsistent: a tensor scale needs the absmax rule "
                "and no zero point."
            )
        if self.rule != "absmax" and not isinstance(self.element, (FloatFormat, FixedFormat)):
            raise InvalidInput(
                f"The format '{self.name}' is inconsistent: power-of-two scale rules need float "
                "or fixed-point elements."
            )

    @property
    def bits(self) -> int:
        """Bits of an element's code word."""
        return self.element.bits

    @property
    def code_count(self) -> int:
        """Number of element code words."""
        return self.element.code_count

    @property
    def bits_per_value(self) -> float:
        """Bits per value with the block's share of its scale (the row's for block 0: not counted,
        it depends on the row; `Blocks.storage_bytes` counts it)."""
        extra = self.scale.bits + (self.element.bits if self.zero_point else 0)
        return self.element.bits + (extra / self.block if self.block else 0.0)

    @property
    def max(self) -> float:
        """Largest value an element with the largest scale can have."""
        return self.element.max * self.scale.max

    @property
    def min_positive(self) -> float:
        """Smallest positive value with the smallest scale."""
        return self.element.min_positive * self.scale.min_positive

    @property
    def eps(self) -> float:
        """The element's eps."""
        return self.element.eps

    @property
    def max_exponent(self) -> int:
        """Exponent of the element's largest value (`emax` of the OCP MX specification)."""
        if isinstance(self.element, (FloatFormat, FixedFormat)):
            return self.element.max_exponent
        raise InvalidInput(f"'{self.name}' has elements without exponents.")

    @property
    def integers(self) -> FixedFormat:
        """The element format where it is an integer one.

        Raises
        ------
        InvalidInput
            For other elements.
        """
        if isinstance(self.element, FixedFormat):
            return self.element
        raise InvalidInput(f"'{self.name}' has no integer elements. Use a format like int4-g128.")

    @property
    def values(self) -> np.ndarray:
        """Value of every element code at scale 1."""
        return self.element.values

    def with_block(self, block: int) -> BlockFormat:
        """The same format with another block size."""
        return evolve(self, block=block)

    # --- layout and tensor scale ----------------------------------------------------------------
    def blocked(self, x: np.ndarray) -> np.ndarray:
        """`x` as (..., blocks, block), refusing rows the block does not divide."""
        row = x.shape[-1] if x.ndim else 0
        block = self.check_row(row)
        return x.reshape(*x.shape[:-1], row // block, block)

    def check_row(self, row: int) -> int:
        """The block length in a row of `row` values, refusing rows the block does not divide."""
        if row == 0:
            raise InvalidInput(f"'{self.name}' needs at least one value along the last axis.")
        block = self.block or row
        if row % block:
            raise InvalidInput(
                f"Rows of {row} values do not divide into blocks of {block} ('{self.name}'). "
                f"Choose a block that divides {row}, or pad the tensor."
            )
        return block

    def tensor_scale_of(self, x: np.ndarray) -> np.float32:
        """The tensor-level scale (1 for one-level formats and all-zero tensors)."""
        amax = max(float(x.max(initial=0.0)), -float(x.min(initial=0.0)))
        return self.tensor_scale_from(amax)

    def tensor_scale_from(self, amax: float | np.float32) -> np.float32:
        """`tensor_scale_of` a tensor whose largest magnitude is `amax`."""
        if not self.two_level or amax == 0.0:
            return np.float32(1.0)
        return np.float32(np.float32(amax) / np.float32(self.element.max * self.scale.max))

    def element_under(self, policy: Any) -> Any:
        """The element format, its most negative integer left out where the policy says so."""
        if policy.symmetric_integers and isinstance(self.element, FixedFormat):
            return evolve(self.element, symmetric=True)
        return self.element
