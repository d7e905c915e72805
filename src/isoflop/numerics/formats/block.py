"""Block formats: an element format and a scale shared by a block of consecutive values."""

from __future__ import annotations

import math
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

_SATURATING = {"overflow": "saturate"}


@frozen(kw_only=True)
class Blocks:
    """An encoded tensor.

    Attributes
    ----------
    codes : np.ndarray
        Element code words, the tensor's shape. This and the next two are tensors where the input
        was a tensor on another device than the CPU.
    scales : np.ndarray
        Block scales as float32, shape (..., blocks per row).
    zero_points : np.ndarray or None
        Integer zero points of asymmetric formats, shape of `scales`.
    tensor_scale : float
    """

    format: Any
    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    tensor_scale: float

    def decode(self) -> np.ndarray:
        """The values, float32, where the codes are."""
        from ..rounding import decode

        fmt = self.format
        block = fmt.block or self.codes.shape[-1]
        shape = (*self.scales.shape, block)
        values = decode(self.codes, fmt.element).reshape(shape)
        if self.zero_points is not None:
            values = values - self.zero_points[..., None]
        if not isinstance(self.codes, np.ndarray):
            scale = (self.scales * self.tensor_scale)[..., None]  # the scale is a float32's value
            return (values.to(scale.dtype) * scale).reshape(self.codes.shape)
        scale = (self.scales * np.float32(self.tensor_scale))[..., None]
        return (values.astype(np.float32, copy=False) * scale).reshape(self.codes.shape)

    @property
    def storage_bytes(self) -> int:
        """Bytes of packed codes, scales, zero points and the tensor scale."""
        fmt = self.format
        rows = math.prod(self.codes.shape[:-1])
        code_bytes = rows * -(-self.codes.shape[-1] * fmt.element.bits // 8)
        zero_bytes = rows * -(-self.scales.shape[-1] * fmt.element.bits // 8) * fmt.zero_point
        return (
            code_bytes
            + math.prod(self.scales.shape) * -(-fmt.scale.bits // 8)
            + zero_bytes
            + (4 * fmt.two_level)
        )


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
        if self.zero_point and not (
            isinstance(self.element, FixedFormat) and self.rule == "absmax"
        ):
            raise InvalidInput(
                f"The format '{self.name}' is inconsistent: zero points need integer elements "
                "and the absmax rule."
            )
        if self.two_level and (self.rule != "absmax" or self.zero_point):
            raise InvalidInput(
                f"The format '{self.name}' is inconsistent: a tensor scale needs the absmax rule "
                "and no zero point."
            )
        if self.rule != "absmax" and not hasattr(self.element, "max_exponent"):
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
    def values(self) -> np.ndarray:
        """Value of every element code at scale 1."""
        return self.element.values

    def with_block(self, block: int) -> BlockFormat:
        """The same format with another block size."""
        return evolve(self, block=block)

    # --- scales -------------------------------------------------------------------------------
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

    def scales_of(
        self, amax: np.ndarray, tensor_scale: np.float32, rounded_log2: bool = False
    ) -> np.ndarray:
        """Block scales (float32, representable in the scale's format) from block maxima.

        `rounded_log2`: see `RoundingPolicy.float32_steps`.
        """
        if self.rule != "absmax":
            if rounded_log2:
                amax = whole_power(amax)
            return self._power_scales(amax.astype(np.float64))
        raw = amax.astype(np.float32) / np.float32(self.element.max)
        if self.two_level:
            raw = raw / tensor_scale
        return self._stored(np.maximum(raw, np.float32(self.scale_floor)))

    def _stored(self, raw: np.ndarray) -> np.ndarray:
        from ..rounding import round_to

        if self.scale.name == "fp32":
            return raw.astype(np.float32)
        tiny = np.float32(self.scale.min_positive)
        raised = np.where(raw > 0, np.maximum(raw, tiny), 0)
        return round_to(raised.astype(np.float32), self.scale, overflow="saturate")

    def _power_scales(self, amax: np.ndarray) -> np.ndarray:
        top = self.element.max_exponent
        mantissa, exponent = np.frexp(amax)
        floor = exponent - 1
        if self.rule == "floor":
            power = floor - top
        elif self.rule == "ceil":
            power = floor + (mantissa > 0.5) - top
        elif self.rule == "rceil":
            largest = np.frexp(self.element.max)[0]
            power = floor + (mantissa > largest) - top
        else:
            y = getattr(self.element, "mantissa_bits", self.element.bits - 2)
            power = floor + (mantissa >= 1 - 2.0 ** -(y + 2)) - top
        low, high = self.scale.min_exponent, self.scale.max_exponent
        power = np.where(amax > 0, np.clip(power, low, high), low)
        return np.ldexp(1.0, power.astype(np.int32)).astype(np.float32)

    def _asymmetric(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low = np.minimum(blocks.min(-1), 0.0)
        high = np.maximum(blocks.max(-1), 0.0)
        steps = self.element.high - self.element.low
        scale = self._stored(((high - low) / steps).astype(np.float32))
        safe = np.where(scale > 0, scale, 1)
        zero = np.clip(self.element.low - np.rint(low / safe), self.element.low, self.element.high)
        return scale, zero

    # --- whole tensors ------------------------------------------------------------------------
    def encode_blocks(self, x: np.ndarray, policy: Any = None, *, seed: int = 0) -> Blocks:
        """Encode a float tensor; blocks run along the last axis.

        Raises
        ------
        InvalidInput
            For NaN or infinity (with the place) and rows the block does not divide.
        """
        from ..policies import resolve
        from ..rounding import encode

        policy = policy or resolve()
        x = np.asarray(x)
        blocks = self.blocked(x)
        finite_or_raise(x, self.name)
        zeros = None
        tensor_scale = self.tensor_scale_of(x)
        if self.zero_point:
            scales, zeros = self._asymmetric(blocks)
        else:
            amax = np.abs(blocks).max(-1)
            scales = self.scales_of(amax, tensor_scale, policy.float32_steps)
        y = self._scaled(blocks, scales, tensor_scale)
        if zeros is not None:
            y = y + zeros[..., None]
        codes = encode(
            y, self.element_under(policy), seed=seed, rounding=policy.rounding,
            random_bits=policy.random_bits, **_SATURATING, **self.library(policy),
        )  # fmt: skip
        return Blocks(
            format=self, codes=codes.reshape(x.shape), scales=scales, zero_points=zeros,
            tensor_scale=float(tensor_scale),
        )  # fmt: skip

    def library(self, policy: Any) -> dict[str, str]:
        """The preset elements are rounded under, for a policy that takes float32 steps."""
        return {"like": "microxcaling", "nan": "format"} if policy.float32_steps else {}

    def element_under(self, policy: Any) -> Any:
        """The element format, its most negative integer left out where the policy says so."""
        if policy.symmetric_integers and isinstance(self.element, FixedFormat):
            return evolve(self.element, symmetric=True)
        return self.element

    def _scaled(self, blocks, scales, tensor_scale) -> np.ndarray:
        safe = np.where(scales > 0, scales, np.float32(1))[..., None]
        if self.rule != "absmax":
            return blocks * (np.float64(1.0) / safe)
        if self.reciprocal:
            return blocks.astype(np.float32) * ((np.float32(1) / tensor_scale) / safe)
        return blocks / (safe * tensor_scale)

    def round_blocks(
        self,
        x: np.ndarray,
        policy: Any = None,
        *,
        seed: int = 0,
        out: np.ndarray | None = None,
        threads: int = 1,
    ) -> np.ndarray:
        """Values of `x` after one encode and decode, float32 or float64 as `x`.

        `out`, contiguous and of `x`'s type, is written where a compiled body serves the format;
        look at the result, not at `out`.
        """
        from .. import _blockround
        from ..policies import resolve

        policy = policy or resolve()
        fast = _blockround.run(self, x, policy, out, threads)
        if fast is not None:
            return fast
        return self.encode_blocks(x, policy, seed=seed).decode().astype(x.dtype)


def whole_power(amax: np.ndarray) -> np.ndarray:
    """2 to the floor of the float32 log2 of each value (0 for 0)."""
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(amax.astype(np.float32)))
    return np.where(amax > 0, np.exp2(exponent.astype(np.float64)), 0.0)


def finite_or_raise(x: np.ndarray, what: str) -> None:
    """Raise `InvalidInput` naming the first NaN or infinity of `x`."""
    if np.isfinite(x).all():
        return
    bad = ~np.isfinite(x)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), x.shape))
    raise InvalidInput(
        f"The value at {place} is {x[place]} ({int(bad.sum())} of {x.size} are NaN or infinite); "
        f"'{what}' needs finite values. Fix the tensor first."
    )
