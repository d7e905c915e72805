"""torchao: MX blocks of every element under its four scale rules, and NVFP4."""

from __future__ import annotations

import numpy as np

from ..formats import BlockFormat, load
from ..rounding import encode_blocks, round_to
from ._base import Record, absent, record, same

ELEMENTS = {
    "mxfp8-e4m3": "float8_e4m3fn", "mxfp8-e5m2": "float8_e5m2", "mxfp6-e2m3": "fp6_e2m3",
    "mxfp6-e3m2": "fp6_e3m2", "mxfp4": "float4_e2m1fn_x2",
}  # fmt: skip
RULES = ("floor", "ceil", "rceil", "even")
SHAPE = (64, 256)


def _values(rng: np.random.Generator, octaves: float) -> np.ndarray:
    spread = 2.0 ** rng.uniform(-octaves, octaves, (SHAPE[0], 1))
    return (rng.standard_normal(SHAPE) * spread).astype(np.float32)


def check() -> list[Record]:
    """Rounded values of blocks; codes and scales of NVFP4."""
    what = "MXFP8, MXFP6 and MXFP4 under four scale rules"
    try:
        import torch
        import torchao
        from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor
    except ImportError:
        return [absent(what, "torchao")]
    x = _values(np.random.default_rng(0), 20)
    compared = different = 0
    for name, element in ELEMENTS.items():
        dtype = getattr(torch, element, element)
        for rule in RULES:
            mode = getattr(mx_tensor.ScaleCalculationMode, rule.upper())
            scale, data = mx_tensor.to_mx(torch.from_numpy(x), dtype, 32, mode)
            peer = mx_tensor.to_dtype(data, scale, dtype, 32, torch.float32).numpy()
            compared += x.size
            different += int((~same(round_to(x, f"{name}-{rule}"), peer.reshape(x.shape))).sum())
    peer_name = f"torchao {torchao.__version__}"
    return [record(what, peer_name, compared, different), _nvfp4(torch, nvfp4_tensor, peer_name)]


def _nvfp4(torch, nvfp4_tensor, peer_name: str) -> Record:
    x = _values(np.random.default_rng(1), 6)
    tensor_scale = torch.tensor(np.abs(x).max() / np.float32(6 * 448))
    scales, packed = nvfp4_tensor.nvfp4_quantize(torch.from_numpy(x), 16, tensor_scale)
    fmt = load("nvfp4-torchao")
    assert isinstance(fmt, BlockFormat)  # by its name
    ours = encode_blocks(x, fmt)
    packed = packed.reshape(len(x), -1).numpy()
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(x.shape)
    peer_scales = scales.float().numpy().reshape(ours.scales.shape)
    different = (codes != ours.codes).sum() + (peer_scales != ours.scales).sum()
    return record("NVFP4 codes and block scales", peer_name, x.size + ours.scales.size, different)
