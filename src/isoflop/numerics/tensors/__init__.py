"""Formats on PyTorch tensors where they lie: CUDA and other devices, without a copy to the host.

The compiled bodies serve CPU tensors; these serve all others. Work goes in pieces of `PIECE`
values, so that temporaries stay a small multiple of a piece however large the tensor, and within
the device's cache. Formats without a tensor body here (power-exponent, 32-bit posits, float formats
with more binades than float64) are computed on the host and copied back.
"""

from __future__ import annotations

from typing import Any

from ...errors import InvalidInput
from .. import _host, arrays
from ..formats import BlockFormat, FloatFormat
from ..policies import RoundingPolicy, below_half, for_negative

PIECE = 1 << 22
"""Values computed at a time."""

EVERYWHERE = False
"""Whether CPU tensors take this path too (for tests)."""


def takes(x: Any) -> bool:
    """Whether `x` is a tensor that these functions compute."""
    if type(x).__module__.partition(".")[0] != "torch":
        return False
    return EVERYWHERE or x.device.type != "cpu"


def dtype_name(x: Any) -> str:
    """The name of a floating-point tensor's type, refusing others."""
    name = str(x.dtype).removeprefix("torch.")
    if name not in arrays.RANGES:
        raise InvalidInput(f"The input is {name}; float16, bfloat16, float32 or float64 is needed.")
    return name


def _checked(x: Any) -> Any:
    dtype_name(x)
    return x.detach()


def _target(x: Any, out: Any) -> Any:
    import torch

    if out is None:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)
    alike = isinstance(out, torch.Tensor) and out.dtype == x.dtype and out.shape == x.shape
    if not alike or out.device != x.device:
        given = f"{out.dtype} of shape {tuple(out.shape)}"
        raise InvalidInput(
            f"out is {given} on {getattr(out, 'device', 'the host')}; it must match x, "
            f"{x.dtype} of shape {tuple(x.shape)} on {x.device}."
        )
    return out.detach()


def _body(fmt: Any, policy: RoundingPolicy, codes: bool, real: Any) -> Any:
    """The format's tensor body, or None where the host must do it."""
    from . import floats, tables

    if isinstance(fmt, FloatFormat):
        return floats.body(fmt, policy, codes, real) if floats.covers(fmt) else None
    return tables.body(fmt, policy, codes)


def _pieces(x: Any, fmt: Any, policy: RoundingPolicy, codes: bool, target: Any, seed: int, random):
    """Round flat `x` into flat `target` piece by piece."""
    import torch

    from . import floats

    wide = x.dtype == torch.float64
    real = torch.float64 if wide else torch.float32
    body = _body(fmt, policy, codes, real)
    other = for_negative(policy)
    mirrored = _body(fmt, other, codes, real) if other is not None else None
    for first in range(0, x.numel(), PIECE):
        part = _widened(x[first : first + PIECE], real)
        if wide and policy.double_through_float32:
            part = part.to(torch.float32).to(real)
        if policy.float32_steps and policy.rounding == "nearest_away":
            low, half = below_half(fmt.min_positive), fmt.min_positive / 2
            tie = torch.copysign(torch.full_like(part, half), part)
            part = torch.where(part.abs() == low, tie, part)
        words = None
        if policy.rounding == "stochastic":
            words = (
                random[first : first + PIECE] if random is not None
                else floats.random_words(seed, first, part.numel(), x.device)
            )  # fmt: skip
        result = body(part, words, first)
        if mirrored is not None:
            result = torch.where(part < 0, mirrored(part, words, first), result)
        target[first : first + PIECE].copy_(result)


def _widened(x: Any, real: Any) -> Any:
    """Values as `real`, their signs from their own bits: GPUs drop a float16 NaN's sign."""
    import torch

    wide = x.to(real)
    if x.dtype != torch.float16:
        return wide
    sign = x.view(torch.int16).to(torch.int32) & -(1 << 31)
    return ((wide.view(torch.int32) & 0x7FFFFFFF) | sign).view(real)


def _random(random: Any, x: Any) -> Any:
    """The caller's words as flat int32 bit patterns on the tensor's device."""
    import numpy as np
    import torch

    if random is None:
        return None
    is_tensor = isinstance(random, torch.Tensor)
    given: Any = random.reshape(-1) if is_tensor else np.ascontiguousarray(random).reshape(-1)
    name, count = str(given.dtype).removeprefix("torch."), len(given)
    if name not in ("uint32", "int32") or count != x.numel():
        raise InvalidInput(f"random has {count} words of {name}; {x.numel()} of uint32 are needed.")
    words = given if is_tensor else torch.from_numpy(given.view(np.int32))
    return words.view(torch.int32).to(x.device)


def round_to(x: Any, fmt: Any, policy: RoundingPolicy, *, seed: int, random: Any, out: Any) -> Any:
    """`isoflop.numerics.round_to` of a tensor, on its device."""
    from . import blocks

    source = _checked(x)
    target = _target(source, out)
    if isinstance(fmt, BlockFormat):
        target.copy_(blocks.round_blocks(fmt, source, policy, seed))
        return target if out is None else out
    if _body(fmt, policy, False, source.dtype) is None:
        target.copy_(_host.round_to(source.cpu(), fmt, policy, seed, _on_host(random)))
        return target if out is None else out
    flat = target.view(-1) if target.is_contiguous() else target.new_empty(target.numel())
    _pieces(source.reshape(-1), fmt, policy, False, flat, seed, _random(random, source))
    if flat.data_ptr() != target.data_ptr():
        target.copy_(flat.view(target.shape))
    return target if out is None else out


def encode(x: Any, fmt: Any, policy: RoundingPolicy, *, seed: int, random: Any) -> Any:
    """`isoflop.numerics.encode` of a tensor: an unsigned integer tensor on its device."""
    import torch

    source = _checked(x)
    if _body(fmt, policy, True, source.dtype) is None:
        codes = _host.encode(source.cpu(), fmt, policy, seed, _on_host(random))
        return codes.to(source.device)
    store, kind = storage(fmt.bits)
    codes = torch.empty(source.numel(), dtype=store, device=source.device)
    _pieces(source.reshape(-1), fmt, policy, True, codes, seed, _random(random, source))
    return codes.view(kind).view(source.shape)


def encode_blocks(x: Any, fmt: Any, policy: RoundingPolicy, *, seed: int) -> Any:
    """`isoflop.numerics.encode_blocks` of a tensor, its codes and scales on its device."""
    from . import blocks

    return blocks.encode_blocks(fmt, _checked(x), policy, seed)


def storage(bits: int) -> tuple[Any, Any]:
    """The type codes are computed in and the unsigned type of the same bytes they are shown as."""
    import torch

    if bits <= 8:
        return torch.uint8, torch.uint8
    if bits <= 16:
        return torch.int16, torch.uint16
    return (torch.int32, torch.uint32) if bits <= 32 else (torch.int64, torch.uint64)


def decode(codes: Any, fmt: Any, dtype: Any) -> Any:
    """`isoflop.numerics.decode` of a tensor of code words, on its device."""
    import torch

    if codes.dtype.is_floating_point or codes.dtype.is_complex or codes.dtype == torch.bool:
        raise InvalidInput(f"Codes are {codes.dtype}; integers are needed.")
    if fmt.bits > 16:
        return torch.from_numpy(_host.decode(codes.cpu(), fmt, dtype)).to(codes.device)
    words = codes.to(torch.int32)
    if words.numel() and (int(words.min()) < 0 or int(words.max()) >= fmt.code_count):
        raise InvalidInput(f"'{fmt.name}' has codes 0 to {fmt.code_count - 1}; some are outside.")
    table = torch.from_numpy(fmt.values.astype(dtype)).to(codes.device)
    return torch.index_select(table, 0, words.reshape(-1)).view(codes.shape)


def _on_host(random: Any) -> Any:
    return random.cpu().numpy() if hasattr(random, "cpu") else random
