"""Bit planes: an integer matrix as a sum of 0/1 matrices weighted by powers of two.

W = -2^(b-1) B_(b-1) + sum_k 2^k B_k in two's complement, so a product with W is b products with
0/1 matrices, and leaving out the lowest planes gives every smaller width from one stored tensor.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from ..blocks import Blocks, encode_blocks
from ..formats import BlockFormat, FixedFormat
from ._base import Calibration, Quantized, check_weight


def planes(codes: np.ndarray, bits: int) -> np.ndarray:
    """0/1 planes, uint8 of shape (bits, *codes.shape), lowest first."""
    return np.stack([(codes >> k) & 1 for k in range(bits)]).astype(np.uint8)


def plane_weights(bits: int, signed: bool = True) -> np.ndarray:
    """What each plane counts for, shape (bits,)."""
    weights = 2 ** np.arange(bits)
    if signed:
        weights[-1] *= -1
    return weights


def multiply(x: np.ndarray, plane_stack: np.ndarray, signed: bool = True) -> np.ndarray:
    """x W^T for integer x (rows, in) and W given by planes (bits, out, in), exact in int64."""
    weights = plane_weights(len(plane_stack), signed)
    x = x.astype(np.int64)
    parts = (int(w) * (x @ p.T.astype(np.int64)) for w, p in zip(weights, plane_stack))
    return np.asarray(sum(parts))


@frozen(kw_only=True)
class BitPlanes:
    """Round to a symmetric integer format, then keep the top `keep` planes (0 keeps all)."""

    uses_calibration: bool = False
    keep: int = 0

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. Dropped planes are replaced by their mean, half their range."""
        weight = check_weight(weight)
        if not isinstance(fmt, BlockFormat) or not isinstance(fmt.element, FixedFormat):
            raise InvalidInput(
                f"Bit planes need an integer format such as int4-g128, not {fmt.name}."
            )
        bits = fmt.element.bits
        keep = self.keep or bits
        if not 1 <= keep <= bits:
            raise InvalidInput(f"{keep} planes were asked for; '{fmt.name}' has {bits}.")
        blocks = encode_blocks(fmt, weight)
        drop = bits - keep
        if not drop:
            return Quantized(
                values=blocks.decode(), storage_bytes=blocks.storage_bytes, blocks=blocks
            )
        codes = (blocks.codes >> drop) << drop
        kept = Blocks(
            format=fmt, codes=codes | ((1 << drop) >> 1), scales=blocks.scales,
            zero_points=blocks.zero_points, tensor_scale=blocks.tensor_scale,
        )  # fmt: skip
        saved = weight.shape[0] * -(-weight.shape[1] * drop // 8)
        return Quantized(values=kept.decode(), storage_bytes=blocks.storage_bytes - saved)


QUANTIZER = BitPlanes
