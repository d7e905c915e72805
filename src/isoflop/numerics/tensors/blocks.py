"""Block formats on PyTorch tensors: scales from block maxima, elements by the tensor bodies.

The arithmetic is `BlockFormat`'s, operation for operation. Divisors are one-element tensors on the
device: PyTorch's CUDA division by a host scalar multiplies by its reciprocal, which rounds twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from attrs import frozen

from ...errors import InvalidInput
from ..blocks import Blocks
from ..formats import BlockFormat
from ..policies import RoundingPolicy, for_elements, resolve
from . import _body, _pieces, decode, floats, storage


@frozen(kw_only=True)
class TensorBlocks(Blocks):
    """`Blocks` whose codes, scales and zero points are tensors on one device."""

    codes: Any
    scales: Any
    zero_points: Any

    def decode(self) -> Any:
        """The values, float32, on the codes' device."""
        fmt = self.format
        shape = (*self.scales.shape, fmt.block or self.codes.shape[-1])
        values = decode(self.codes, fmt.element, np.float32).reshape(shape)
        if self.zero_points is not None:
            values = values - self.zero_points[..., None]
        scale = (self.scales * self.tensor_scale)[..., None]  # the scale is a float32's value
        return (values.to(scale.dtype) * scale).reshape(self.codes.shape)


def _as_blocks(fmt: BlockFormat, x: torch.Tensor) -> torch.Tensor:
    """(..., blocks, block) view of `x`, by the format's own check of the shape."""
    row = x.shape[-1] if x.ndim else 0
    fmt.check_row(row)
    block = fmt.block or row
    return x.reshape(*x.shape[:-1], row // block, block)


def _one(value: float, like: torch.Tensor) -> torch.Tensor:
    return torch.full((1,), value, dtype=torch.float32, device=like.device)


def _finite(x: torch.Tensor, amax: torch.Tensor, what: str) -> None:
    """Raise naming the first NaN or infinity of `x`; `amax` are its block maxima."""
    if bool(amax.isfinite().all()):
        return
    bad = ~x.isfinite()
    at = int(bad.reshape(-1).to(torch.uint8).argmax())
    place = []
    for length in reversed(x.shape):
        at, inside = divmod(at, length)
        place.append(inside)
    where = tuple(reversed(place))
    raise InvalidInput(
        f"The value at {where} is {float(x[where])} ({int(bad.sum())} of {x.numel()} are NaN or "
        f"infinite); '{what}' needs finite values. Fix the tensor first."
    )


def _rounded(y: torch.Tensor, element: Any, policy: RoundingPolicy, codes: bool, seed: int):
    """`y` rounded to an element format, as values of its dtype or as codes."""
    how = for_elements(policy)
    flat = y.reshape(-1)
    if _body(element, how, codes, y.dtype) is None:
        raise InvalidInput(f"'{element.name}' elements are not computed on {y.device}.")
    kind = storage(element.bits)[0] if codes else y.dtype
    out = torch.empty(flat.numel(), dtype=kind, device=y.device)
    _pieces(flat, element, how, codes, out, seed, None)
    return out.view(y.shape)


def _stored(fmt: BlockFormat, raw: torch.Tensor) -> torch.Tensor:
    if fmt.scale.name == "fp32":
        return raw
    raised = torch.where(raw > 0, raw.clamp(min=fmt.scale.min_positive), 0.0)
    return _rounded(raised, fmt.scale, resolve(), False, 0)


def _power_scales(fmt: BlockFormat, amax: torch.Tensor, rounded_log2: bool) -> torch.Tensor:
    """Powers of two: a carry lifts the exponent field of amax exactly when the rule says so."""
    layout = floats.DOUBLE
    if rounded_log2:
        amax = torch.exp2(amax.to(torch.float32).log2().floor().to(torch.float64))
    bits = amax.to(torch.float64).view(torch.int64)
    full = (1 << layout.fraction) - 1
    y = getattr(fmt.element, "mantissa_bits", fmt.element.bits - 2)
    carry = {
        "floor": 0, "ceil": full, "rceil": full - (layout.bits(fmt.element.max) & full),
        "even": 1 << (layout.fraction - 1 - y),
    }[fmt.rule]  # fmt: skip
    power = ((bits + carry) >> layout.fraction) - layout.bias - fmt.max_exponent
    power.clamp_(fmt.scale.min_exponent, fmt.scale.max_exponent).add_(layout.bias)
    return (power << layout.fraction).view(torch.float64).to(torch.float32)


def _scales(fmt: BlockFormat, amax, tensor_scale, rounded_log2: bool) -> torch.Tensor:
    if fmt.rule != "absmax":
        return _power_scales(fmt, amax, rounded_log2)
    raw = amax.to(torch.float32) / _one(fmt.element.max, amax)
    if fmt.two_level:
        raw = raw / tensor_scale
    return _stored(fmt, raw.clamp(min=fmt.scale_floor))


def _asymmetric(fmt: BlockFormat, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    element = fmt.integers
    low, high = blocks.amin(-1).clamp_(max=0.0), blocks.amax(-1).clamp_(min=0.0)
    steps = torch.full((1,), element.high - element.low, dtype=low.dtype, device=low.device)
    scale = _stored(fmt, ((high - low) / steps).to(torch.float32))
    safe = torch.where(scale > 0, scale, 1.0)
    zero = (element.low - (low / safe).round()).clamp_(element.low, element.high)
    return scale, zero


def _scaled(fmt: BlockFormat, blocks, scales, tensor_scale, exact: bool) -> torch.Tensor:
    safe = torch.where(scales > 0, scales, 1.0)[..., None]
    if fmt.rule != "absmax":
        if exact:  # directed roundings must see values that float32 would flush to zero
            blocks, safe = blocks.to(torch.float64), safe.to(torch.float64)
        return blocks * (torch.ones_like(safe) / safe)
    if fmt.reciprocal:
        return blocks.to(torch.float32) * ((_one(1.0, safe) / tensor_scale) / safe)
    return blocks / (safe * tensor_scale)


def _prepared(fmt: BlockFormat, x: torch.Tensor, policy: RoundingPolicy):
    """Scaled elements (zero points added), scales, zero points, tensor scale."""
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    blocks = _as_blocks(fmt, x.to(real))
    amax = torch.maximum(blocks.amax(-1), -blocks.amin(-1)).add_(0.0)  # no minus zero
    _finite(x, amax, fmt.name)
    tensor_scale = _one(1.0, x)
    if fmt.two_level and amax.numel():
        largest = amax.max().to(torch.float32) / _one(fmt.element.max * fmt.scale.max, x)
        tensor_scale = torch.where(largest > 0, largest, tensor_scale)
    zeros = None
    if fmt.zero_point:
        scales, zeros = _asymmetric(fmt, blocks)
    else:
        scales = _scales(fmt, amax, tensor_scale, policy.float32_steps)
    y = _scaled(fmt, blocks, scales, tensor_scale, not policy.rounding.startswith("nearest"))
    return (y if zeros is None else y + zeros[..., None]), scales, zeros, tensor_scale


def round_blocks(fmt: BlockFormat, x: torch.Tensor, policy: RoundingPolicy, seed: int):
    """Values of `x` after one encode and decode."""
    y, scales, zeros, tensor_scale = _prepared(fmt, x, policy)
    values = _rounded(y, fmt.element_under(policy), policy, False, seed)
    if zeros is not None:
        values = values - zeros[..., None]
    scale = (scales * tensor_scale)[..., None]
    return values.to(torch.float32).mul_(scale).view(x.shape)


def encode_blocks(
    fmt: BlockFormat, x: torch.Tensor, policy: RoundingPolicy, seed: int
) -> TensorBlocks:
    """Codes, scales and zero points of `x`, tensors on its device."""
    y, scales, zeros, tensor_scale = _prepared(fmt, x.detach(), policy)
    codes = _rounded(y, fmt.element_under(policy), policy, True, seed).view(
        storage(fmt.element.bits)[1]
    )
    return TensorBlocks(
        format=fmt, codes=codes.view(x.shape), scales=scales, zero_points=zeros,
        tensor_scale=float(tensor_scale),
    )  # fmt: skip
