"""Clipping search: shrink each block's range where that lowers its squared error."""

from __future__ import annotations

import numpy as np
from attrs import frozen

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
        scales = zeros = None
        for ratio in self.ratios:
            clipped = self._clipped(blocks, np.float32(ratio))
            trial, trial_zeros = self._scales(fmt, clipped, tensor)
            encoded = encode_with(fmt, weight, trial, trial_zeros, tensor).decode()
            error = ((encoded.reshape(blocks.shape) - blocks) ** 2 * importance).sum(-1)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            scales = trial if scales is None else np.where(better, trial, scales)
            if trial_zeros is not None:
                zeros = trial_zeros if zeros is None else np.where(better, trial_zeros, zeros)
        result = encode_with(fmt, weight, scales, zeros, tensor)
        return Quantized(values=result.decode(), storage_bytes=result.storage_bytes, blocks=result)

    @staticmethod
    def _clipped(blocks: np.ndarray, ratio: np.float32) -> np.ndarray:
        return np.clip(
            blocks, blocks.min(-1, keepdims=True) * ratio, blocks.max(-1, keepdims=True) * ratio
        )

    @staticmethod
    def _scales(fmt, clipped, tensor):
        if fmt.zero_point:
            return fmt._asymmetric(clipped)
        return fmt.scales_of(np.abs(clipped).max(-1), tensor), None


QUANTIZER = ClipSearch
