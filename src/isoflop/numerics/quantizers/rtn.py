"""Round to nearest: every weight to the closest code under its block's own scale."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..blocks import encode_blocks
from ..formats import BlockFormat
from ..rounding import round_to
from ._base import Calibration, Quantized, check_weight


def storage_bytes(fmt, shape: tuple[int, int]) -> int:
    """Bytes of packed codes of a scalar format, rows padded to bytes."""
    return shape[0] * -(-shape[1] * fmt.bits // 8)


@frozen(kw_only=True)
class RoundToNearest:
    """Round to nearest even, saturating."""

    uses_calibration: bool = False

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`."""
        weight = check_weight(weight)
        if isinstance(fmt, BlockFormat):
            blocks = encode_blocks(fmt, weight)
            return Quantized(
                values=blocks.decode(), storage_bytes=blocks.storage_bytes, blocks=blocks
            )
        values = round_to(weight, fmt, overflow="saturate")
        return Quantized(values=values, storage_bytes=storage_bytes(fmt, weight.shape))


QUANTIZER = RoundToNearest
