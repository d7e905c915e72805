"""Activation-aware scaling: protect input channels with large activations by scaling them up.

W x = (W s)(x / s). The scale s = rms(x)^alpha, normalised to sqrt(max s min s) = 1, goes into the
weight before rounding and out of it afterwards; alpha is searched on a grid for the least output
error.

References
----------
Lin et al., AWQ, arXiv 2306.00978, equations 4 and 5 (here with the root mean square in place of
the mean magnitude, as only second moments are kept).
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..blocks import encode_blocks
from ._base import (
    Calibration,
    Quantized,
    check_weight,
    needs_blocks,
    no_data_note,
    weighted_error,
)  # fmt: skip

GRID = 20
"""Steps of alpha between 0 and 1."""


@frozen(kw_only=True)
class Awq:
    """AWQ-like per-channel scaling with a grid search of the exponent."""

    uses_calibration: bool = True
    steps: int = GRID

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. The scales' bytes are not stored: they fold into the previous layer."""
        weight = check_weight(weight)
        fmt = needs_blocks(fmt, "awq")
        power = np.sqrt(np.maximum(np.diag(calibration.hessian), 1e-12))
        best = None
        for step in range(self.steps + 1):
            alpha = step / self.steps
            scale = power**alpha
            scale = (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)
            blocks = encode_blocks(fmt, weight * scale)
            values = blocks.decode() / scale
            error = weighted_error((values - weight).astype(np.float64), calibration.hessian)
            if best is None or error < best[0]:
                best = (error, alpha, values, blocks)
        assert best is not None  # every search tries at least one exponent
        _, alpha, values, blocks = best
        return Quantized(
            values=values, storage_bytes=blocks.storage_bytes, facts={"alpha": alpha},
            notes=no_data_note(calibration, "awq"),
        )  # fmt: skip


QUANTIZER = Awq
