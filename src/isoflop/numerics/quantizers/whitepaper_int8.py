"""The whitepaper recipe: 8-bit affine or symmetric weights per channel, batch norm folded first.

References
----------
Krishnamoorthi, Quantizing deep convolutional networks for efficient inference, arXiv 1806.08342:
section 2.1 (x_int = round(x / D) + z, clamped to 0..N-1), 2.2 (symmetric), 3.2.2 (folding).
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..blocks import encode_blocks
from ..formats import BlockFormat, load, load_float
from ._base import Calibration, Quantized, check_weight, needs_blocks


def fold_batch_norm(
    weight: np.ndarray, bias: np.ndarray, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray,
    variance: np.ndarray, eps: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Weight (out, in) and bias (out,) of the layer that equals layer then batch norm."""
    factor = gamma / np.sqrt(variance + eps)
    return weight * factor[:, None], (bias - mean) * factor + beta


@frozen(kw_only=True)
class WhitepaperInt8:
    """Per-channel 8-bit integers, asymmetric unless told; the format is ignored."""

    uses_calibration: bool = False
    symmetric: bool = False

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`."""
        weight = check_weight(weight)
        name = "int8-channel" if self.symmetric else "uint8-channel-asym"
        blocks = encode_blocks(self.format(name), weight)
        return Quantized(values=blocks.decode(), storage_bytes=blocks.storage_bytes, blocks=blocks)

    @staticmethod
    def format(name: str) -> BlockFormat:
        """Per-channel integers with float32 scales."""
        base = needs_blocks(load(name), "whitepaper-int8")
        return BlockFormat(
            name=name, element=base.element, scale=load_float("fp32"), block=0,
            zero_point=base.zero_point,
        )  # fmt: skip


QUANTIZER = WhitepaperInt8
