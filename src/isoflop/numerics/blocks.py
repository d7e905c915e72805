"""Block formats at work: scales from block maxima, encoding, and rounding to values.

The records are `formats.block`; elements and scales are rounded by `_host`, whole float32 tensors
by the compiled bodies of `_blockround` where there is one.
"""

from __future__ import annotations

import math

import numpy as np
from attrs import frozen

from . import _blockround, _host
from .arrays import finite_or_raise
from .formats import BlockFormat
from .policies import RoundingPolicy, for_elements, resolve


@frozen(kw_only=True)
class Blocks:
    """An encoded tensor.

    Attributes
    ----------
    codes : np.ndarray
        Element code words, the tensor's shape.
    scales : np.ndarray
        Block scales as float32, shape (..., blocks per row).
    zero_points : np.ndarray or None
        Integer zero points of asymmetric formats, shape of `scales`.
    tensor_scale : float
    """

    format: BlockFormat
    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    tensor_scale: float

    def decode(self) -> np.ndarray:
        """The values, float32."""
        fmt = self.format
        shape = (*self.scales.shape, fmt.block or self.codes.shape[-1])
        values = _host.decode(self.codes, fmt.element, np.float32).reshape(shape)
        if self.zero_points is not None:
            values = values - self.zero_points[..., None]
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


# --- scales -----------------------------------------------------------------------------------
def scales_of(
    fmt: BlockFormat, amax: np.ndarray, tensor_scale: np.float32, rounded_log2: bool = False
) -> np.ndarray:
    """Block scales (float32, representable in the scale's format) from block maxima.

    `rounded_log2`: see `RoundingPolicy.float32_steps`.
    """
    if fmt.rule != "absmax":
        return _power_scales(fmt, (_whole_power(amax) if rounded_log2 else amax).astype(np.float64))
    raw = amax.astype(np.float32) / np.float32(fmt.element.max)
    if fmt.two_level:
        raw = raw / tensor_scale
    return stored_scales(fmt, np.maximum(raw, np.float32(fmt.scale_floor)))


def stored_scales(fmt: BlockFormat, raw: np.ndarray) -> np.ndarray:
    """Scales as the format stores them: positive ones stay positive, large ones saturate."""
    if fmt.scale.name == "fp32":
        return raw.astype(np.float32)
    tiny = np.float32(fmt.scale.min_positive)
    raised = np.where(raw > 0, np.maximum(raw, tiny), 0)
    saturating = resolve(overflow="saturate")
    return _host.round_values(raised.astype(np.float32), fmt.scale, saturating)


def _power_scales(fmt: BlockFormat, amax: np.ndarray) -> np.ndarray:
    top = fmt.max_exponent
    mantissa, exponent = np.frexp(amax)
    floor = exponent - 1
    if fmt.rule == "floor":
        power = floor - top
    elif fmt.rule == "ceil":
        power = floor + (mantissa > 0.5) - top
    elif fmt.rule == "rceil":
        largest = np.frexp(fmt.element.max)[0]
        power = floor + (mantissa > largest) - top
    else:
        y = getattr(fmt.element, "mantissa_bits", fmt.element.bits - 2)
        power = floor + (mantissa >= 1 - 2.0 ** -(y + 2)) - top
    low, high = fmt.scale.min_exponent, fmt.scale.max_exponent
    power = np.where(amax > 0, np.clip(power, low, high), low)
    return np.ldexp(1.0, power.astype(np.int32)).astype(np.float32)


def _whole_power(amax: np.ndarray) -> np.ndarray:
    """2 to the floor of the float32 log2 of each value (0 for 0)."""
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(amax.astype(np.float32)))
    return np.where(amax > 0, np.exp2(exponent.astype(np.float64)), 0.0)


def scales_and_zeros(
    fmt: BlockFormat, blocks: np.ndarray, tensor_scale: np.float32, rounded_log2: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Scales and, of asymmetric formats, zero points of values of shape (..., block)."""
    if not fmt.zero_point:
        return scales_of(fmt, np.abs(blocks).max(-1), tensor_scale, rounded_log2), None
    low, high = np.minimum(blocks.min(-1), 0.0), np.maximum(blocks.max(-1), 0.0)
    element = fmt.integers
    scale = stored_scales(fmt, ((high - low) / (element.high - element.low)).astype(np.float32))
    safe = np.where(scale > 0, scale, 1)
    return scale, np.clip(element.low - np.rint(low / safe), element.low, element.high)


# --- whole tensors ----------------------------------------------------------------------------
def encode_blocks(
    fmt: BlockFormat, x: np.ndarray, policy: RoundingPolicy | None = None, *, seed: int = 0
) -> Blocks:
    """Encode a float array; blocks run along the last axis.

    Raises
    ------
    InvalidInput
        For NaN or infinity (with the place) and rows the block does not divide.
    """
    policy = policy or resolve()
    x = np.asarray(x)
    blocks = fmt.blocked(x)
    finite_or_raise(x, fmt.name)
    tensor_scale = fmt.tensor_scale_of(x)
    scales, zeros = scales_and_zeros(fmt, blocks, tensor_scale, policy.float32_steps)
    y = _scaled(fmt, blocks, scales, tensor_scale)
    if zeros is not None:
        y = y + zeros[..., None]
    codes = _host.encode(y, fmt.element_under(policy), for_elements(policy), seed)
    return Blocks(
        format=fmt, codes=codes.reshape(x.shape), scales=scales, zero_points=zeros,
        tensor_scale=float(tensor_scale),
    )  # fmt: skip


def _scaled(fmt: BlockFormat, blocks, scales, tensor_scale) -> np.ndarray:
    safe = np.where(scales > 0, scales, np.float32(1))[..., None]
    if fmt.rule != "absmax":
        return blocks * (np.float64(1.0) / safe)
    if fmt.reciprocal:
        return blocks.astype(np.float32) * ((np.float32(1) / tensor_scale) / safe)
    return blocks / (safe * tensor_scale)


def round_blocks(
    fmt: BlockFormat,
    x: np.ndarray,
    policy: RoundingPolicy | None = None,
    *,
    seed: int = 0,
    out: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Values of `x` after one encode and decode, float32 or float64 as `x`.

    `out`, contiguous and of `x`'s type, is written where a compiled body serves the format; look
    at the result, not at `out`.
    """
    policy = policy or resolve()
    fast = _blockround.run(fmt, x, policy, out, threads)
    if fast is not None:
        return fast
    return encode_blocks(fmt, x, policy, seed=seed).decode().astype(x.dtype)
