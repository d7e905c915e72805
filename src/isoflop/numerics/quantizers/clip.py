"""Clipping search: shrink each block's range where that lowers its squared error."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..blocks import scales_and_zeros
from ._base import Calibration, Quantized, check_weight, needs_blocks
from ._scales import encode_with

RATIOS = tuple(1.0 - 0.05 * i for i in range(11))
"""Fractions of the block maximum that are tried, 1 first."""


@frozen(kw_only=True)
class ClipSearch:
    """Per block, the fraction of amax with the least error weighted by each input's power."""

    uses_calibration: bool = True
    ratios: tuple[float, ...] = RATIOS

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`."""
        weight = check_weight(weight)
        fmt = needs_blocks(fmt, "clip")
        blocks = fmt.blocked(weight)
        tensor = fmt.tensor_scale_of(weight)
        power = np.diag(calibration.hessian).astype(np.float32)
        importance = np.broadcast_to(power, weight.shape).reshape(blocks.shape)
        best_error = np.full(blocks.shape[:-1], np.inf)
        scales, zeros = scales_and_zeros(fmt, blocks, tensor)
        for ratio in self.ratios:
            clipped = self._clipped(blocks, np.float32(ratio))
            trial, trial_zeros = scales_and_zeros(fmt, clipped, tensor)
            encoded = encode_with(fmt, weight, trial, trial_zeros, tensor).decode()
            error = ((encoded.reshape(blocks.shape) - blocks) ** 2 * importance).sum(-1)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            scales = np.where(better, trial, scales)
            if zeros is not None and trial_zeros is not None:
                zeros = np.where(better, trial_zeros, zeros)
        result = encode_with(fmt, weight, scales, zeros, tensor)
        return Quantized(values=result.decode(), storage_bytes=result.storage_bytes, blocks=result)

    @staticmethod
    def _clipped(blocks: np.ndarray, ratio: np.float32) -> np.ndarray:
        return np.clip(
            blocks, blocks.min(-1, keepdims=True) * ratio, blocks.max(-1, keepdims=True) * ratio
        )


QUANTIZER = ClipSearch
