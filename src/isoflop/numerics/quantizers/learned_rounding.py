"""Learned rounding: choose up or down for every weight to lower the layer's output error.

A soft choice h in [0, 1] between the two neighbouring codes is descended with Adam on
tr(E H E^T) plus a term that drives h to 0 or 1; works for integer and low-bit float elements
alike, as the neighbours are the element format's own values. The result is kept only where it
beats round-to-nearest row by row.

References
----------
Nagel et al., AdaRound, arXiv 2004.10568 (rectified sigmoid, equations 21 to 24); used for FP4
weights by Chen et al., arXiv 2408.06995.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..blocks import scales_and_zeros
from ..rounding import round_to
from ._base import Calibration, Quantized, check_weight, needs_blocks, no_data_note
from ._scales import encode_with

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1
LEARNING_RATE = 0.03
REGULARISER = 0.02
WARM_UP = 0.2
BETA_START, BETA_END = 20.0, 2.0
ADAM_1, ADAM_2, ADAM_EPS = 0.9, 0.999, 1e-8


@frozen(kw_only=True)
class LearnedRounding:
    """AdaRound on any block format."""

    uses_calibration: bool = True
    steps: int = 300

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. Facts: share of weights that left their nearest code."""
        weight = check_weight(weight)
        fmt = needs_blocks(fmt, "learned-rounding")
        tensor = fmt.tensor_scale_of(weight)
        scales, zeros = scales_and_zeros(fmt, fmt.blocked(weight), tensor)
        wide = np.repeat(np.where(scales > 0, scales, 1) * tensor, fmt.block or weight.shape[1], 1)
        offset = 0 if zeros is None else np.repeat(zeros, fmt.block or weight.shape[1], 1)
        y = (weight / wide + offset).astype(np.float32)
        down, up, nearest = (
            round_to(y, fmt.element, rounding=rounding, overflow="saturate")
            for rounding in ("down", "up", "nearest_even")
        )
        chosen = self._descend(y, down, up, wide, calibration.hessian)
        picked = np.where(chosen, up, down)
        loss = [
            np.einsum("ij,ij->i", ((v - y) * wide) @ calibration.hessian, (v - y) * wide)
            for v in (picked, nearest)
        ]
        best = np.where((loss[0] < loss[1])[:, None], picked, nearest)
        values = ((best - offset) * wide).astype(np.float32)
        blocks = encode_with(fmt, values, scales, zeros, tensor)
        return Quantized(
            values=blocks.decode(), storage_bytes=blocks.storage_bytes, blocks=blocks,
            facts={"moved": float(np.mean(best != nearest))},
            notes=no_data_note(calibration, "learned-rounding"),
        )  # fmt: skip

    def _descend(self, y, down, up, wide, hessian) -> np.ndarray:
        gap = (up - down) * wide
        span = STRETCH_HIGH - STRETCH_LOW
        start = np.where(up > down, (y - down) / np.where(up > down, up - down, 1), 0.0)
        inside = np.clip((start - STRETCH_LOW) / span, 1e-4, 1 - 1e-4)
        v = np.log(inside / (1 - inside)).astype(np.float64)
        m, s = np.zeros_like(v), np.zeros_like(v)
        base = (down - y) * wide
        norm = max(float(np.mean(np.diag(hessian))) * float(np.mean(gap**2)), 1e-300)
        for step in range(1, self.steps + 1):
            sigmoid = 1 / (1 + np.exp(-v))
            soft = sigmoid * span + STRETCH_LOW
            h = np.clip(soft, 0, 1)
            live = (soft > 0) & (soft < 1)
            gradient = 2 * ((base + gap * h) @ hessian) * gap / norm
            progress = (step / self.steps - WARM_UP) / (1 - WARM_UP)
            if progress > 0:
                beta = BETA_END + (BETA_START - BETA_END) * (1 - progress)
                distance = 2 * h - 1
                slope = -2 * beta * np.abs(distance) ** (beta - 1) * np.sign(distance)
                gradient = gradient + REGULARISER * slope
            gradient = gradient * live * span * sigmoid * (1 - sigmoid)
            m = ADAM_1 * m + (1 - ADAM_1) * gradient
            s = ADAM_2 * s + (1 - ADAM_2) * gradient**2
            rate = LEARNING_RATE * np.sqrt(1 - ADAM_2**step) / (1 - ADAM_1**step)
            v -= rate * m / (np.sqrt(s) + ADAM_EPS)
        return np.clip(1 / (1 + np.exp(-v)) * span + STRETCH_LOW, 0, 1) >= 0.5


QUANTIZER = LearnedRounding
