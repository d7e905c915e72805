"""Babai's nearest plane on integer grids: GPTQ seen as a closest-vector algorithm, with its bound.

min over integers z of ||X (s z - w)|| is a closest vector problem. With H = X^T X = R^T R (R
upper triangular), the nearest plane walks j = n..1: c_j = w_j + sum_{k>j} R_jk / R_jj (w_k - q_k),
q_j = s_j round(c_j / s_j). Run against GPTQ's order reversed, it gives the same integers.

Without clipping every row obeys ||X (q - w)||^2 <= 1/4 sum_j s_j^2 R_jj^2, and about a third of
that for residuals uniform in their cells.

References
----------
Chen, Shabanzadeh, Crncevic, Hoefler, Alistarh, The Geometry of LLM Quantization: GPTQ as Babai's
Nearest Plane Algorithm, arXiv 2507.18553; Babai, Combinatorica 6 (1986).
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from ..blocks import scales_and_zeros
from ..formats import FixedFormat
from ._base import (
    DAMPING,
    Calibration,
    Quantized,
    calibration_notes,
    check_weight,
    damped_cholesky,
    needs_blocks,
    weighted_error,
)  # fmt: skip
from ._scales import encode_with


def nearest_plane(
    weight: np.ndarray, hessian: np.ndarray, scale: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    """Integers (out, in) found from the last channel to the first, and R's diagonal (in,).

    Parameters
    ----------
    weight : float64 (out, in)
    hessian : positive definite float64 (in, in)
    scale : float64, broadcastable to (out, in)
    low, high : clipping range of the integers; -inf and inf for none
    """
    upper = np.linalg.cholesky(hessian).T
    diagonal = np.diag(upper)
    scale = np.broadcast_to(scale, weight.shape)
    residual = np.zeros_like(weight)
    integers = np.zeros(weight.shape)
    for j in range(weight.shape[1] - 1, -1, -1):
        shift = residual[:, j + 1 :] @ (upper[j, j + 1 :] / diagonal[j])
        target = (weight[:, j] + shift) / scale[:, j]
        integers[:, j] = np.clip(np.rint(target), low, high)
        residual[:, j] = weight[:, j] - scale[:, j] * integers[:, j]
    return integers, diagonal


def bound(scale: np.ndarray, diagonal: np.ndarray, rows: int) -> np.ndarray:
    """Upper bound of each row's squared output error, 1/4 sum_j s_j^2 R_jj^2, shape (rows,)."""
    scale = np.broadcast_to(scale, (rows, len(diagonal)))
    return 0.25 * (scale**2 * diagonal**2).sum(1)


@frozen(kw_only=True)
class Babai:
    """Nearest plane from the last input channel to the first, integer formats with scales."""

    uses_calibration: bool = True
    damping: float = DAMPING

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. Facts: error, bound and the share of clipped integers."""
        weight = check_weight(weight)
        fmt = needs_blocks(fmt, "babai")
        if not isinstance(fmt.element, FixedFormat) or fmt.zero_point:
            raise InvalidInput(
                f"Babai's nearest plane needs a symmetric integer grid, such as int4-g128; "
                f"'{fmt.name}' is none. Use the method gptq."
            )
        lower, used = damped_cholesky(calibration.hessian, self.damping)
        hessian = lower @ lower.T
        tensor = fmt.tensor_scale_of(weight)
        scales, _ = scales_and_zeros(fmt, fmt.blocked(weight), tensor)
        wide = np.repeat(scales * tensor, fmt.block or weight.shape[1], axis=1).astype(np.float64)
        wide = np.where(wide > 0, wide, 1.0) * np.ldexp(1.0, -fmt.element.fraction_bits)
        w = weight.astype(np.float64)
        low, high = fmt.element.low, fmt.element.high
        integers, diagonal = nearest_plane(w, hessian, wide, low, high)
        values = (integers * wide).astype(np.float32)
        blocks = encode_with(fmt, values, scales, None, tensor)
        clipped = np.mean((integers == low) | (integers == high))
        facts = {
            "damping": used,
            "error": weighted_error(values - w, hessian),
            "bound": float(bound(wide, diagonal, len(w)).sum()),
            "at_the_ends": float(clipped),
        }
        notes = calibration_notes(calibration, "babai", used, self.damping)
        return Quantized(
            values=blocks.decode(), storage_bytes=blocks.storage_bytes, blocks=blocks, facts=facts,
            notes=notes,
        )  # fmt: skip


QUANTIZER = Babai
