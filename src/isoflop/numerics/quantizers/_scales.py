"""Encoding with given block scales: what clipping search and GPTQ build on."""

from __future__ import annotations

import numpy as np

from ..blocks import Blocks
from ..formats import BlockFormat
from ..rounding import encode, round_to


def element_round(fmt: BlockFormat, y: np.ndarray) -> np.ndarray:
    """Values of `y` (already divided by its scale) in the element format, saturating."""
    return round_to(y, fmt.element, overflow="saturate")


def encode_with(
    fmt: BlockFormat,
    weight: np.ndarray,
    scales: np.ndarray,
    zeros,
    tensor_scale: float | np.floating,
) -> Blocks:
    """Encode `weight` of shape (out, in) with stored scales of shape (out, blocks)."""
    blocks = fmt.blocked(weight)
    safe = np.where(scales > 0, scales, np.float32(1)) * np.float32(tensor_scale)
    y = blocks / safe[..., None]
    if zeros is not None:
        y = y + zeros[..., None]
    codes = encode(y.astype(np.float32), fmt.element, overflow="saturate")
    return Blocks(
        format=fmt, codes=codes.reshape(weight.shape), scales=scales, zero_points=zeros,
        tensor_scale=float(tensor_scale),
    )  # fmt: skip
