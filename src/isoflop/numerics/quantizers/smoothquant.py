"""SmoothQuant: move activation outliers into the weights, s_j = max|X_j|^a / max|W_j|^(1 - a).

References
----------
Xiao et al., SmoothQuant, arXiv 2211.10438, equation 4; a = 0.5 by default.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..blocks import encode_blocks
from ._base import Calibration, Quantized, check_weight, needs_blocks, no_data_note

STRENGTH = 0.5


def smoothing_scale(x_amax: np.ndarray, w_amax: np.ndarray, strength: float) -> np.ndarray:
    """Per input channel, the factor the weight is multiplied and the activation divided by."""
    x = np.maximum(x_amax, 1e-5)
    w = np.maximum(w_amax, 1e-5)
    return x**strength / w ** (1 - strength)


@frozen(kw_only=True)
class SmoothQuant:
    """Smoothing with a fixed strength; facts give the activations' largest value before/after."""

    uses_calibration: bool = True
    strength: float = STRENGTH

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`."""
        weight = check_weight(weight)
        fmt = needs_blocks(fmt, "smoothquant")
        scale = smoothing_scale(calibration.amax, np.abs(weight).max(0), self.strength)
        scale = scale.astype(np.float32)
        blocks = encode_blocks(fmt, weight * scale)
        smooth = calibration.amax / scale
        facts = {
            "activation_peak_to_median": float(calibration.amax.max() / np.median(calibration.amax))
            if np.median(calibration.amax) > 0
            else float("inf"),
            "smoothed_peak_to_median": float(smooth.max() / np.median(smooth)),
        }
        return Quantized(
            values=blocks.decode() / scale, storage_bytes=blocks.storage_bytes, facts=facts,
            notes=no_data_note(calibration, "smoothquant"),
        )  # fmt: skip


QUANTIZER = SmoothQuant
