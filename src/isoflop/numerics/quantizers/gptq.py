"""GPTQ: round column by column, each time moving the error onto the columns still to come.

References
----------
Frantar et al., GPTQ, arXiv 2210.17323 (algorithm 1). The equality with Babai's nearest plane
and the error bound: Chen et al., arXiv 2507.18553; see `babai.py`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from attrs import frozen

from ..blocks import scales_and_zeros
from ._base import (
    DAMPING,
    Calibration,
    Quantized,
    calibration_notes,
    check_weight,
    damped_cholesky,
    needs_blocks,
)  # fmt: skip
from ._scales import element_round, encode_with

PANEL = 128
"""Columns updated eagerly; the rest of the matrix is updated once per panel by a product."""


def inverse_factor(hessian: np.ndarray, damping: float) -> tuple[np.ndarray, float]:
    """Upper U with U^T U = H^-1 (damped), and the damping used.

    With J reversing the order, J H J = L L^T gives U = (J L J)^-1: one Cholesky and one
    triangular inverse, no explicit H^-1.
    """
    lower, used = damped_cholesky(hessian[::-1, ::-1], damping)
    return np.ascontiguousarray(_inverse_lower(lower)[::-1, ::-1]), used


def _inverse_lower(lower: np.ndarray) -> np.ndarray:
    """Inverse of a lower triangular matrix, by halves so that the work is matrix products."""
    n = len(lower)
    if n <= 64:
        return np.tril(np.linalg.solve(lower, np.eye(n)))
    h = n // 2
    result = np.zeros_like(lower)
    result[:h, :h] = _inverse_lower(lower[:h, :h])
    result[h:, h:] = _inverse_lower(lower[h:, h:])
    result[h:, :h] = -(result[h:, h:] @ (lower[h:, :h] @ result[:h, :h]))
    return result


def propagate(weight_t: np.ndarray, upper: np.ndarray, round_column) -> np.ndarray:
    """The error-propagation loop on a transposed weight (in, out), changed in place.

    `round_column(j, column)` returns column j's quantized values. Returns the quantized matrix,
    shape (in, out).
    """
    n = len(weight_t)
    result = np.empty_like(weight_t)
    for first in range(0, n, PANEL):
        last = min(first + PANEL, n)
        errors = np.empty_like(weight_t[first:last])
        for j in range(first, last):
            column = weight_t[j]
            result[j] = round_column(j, column)
            error = (column - result[j]) / upper[j, j]
            errors[j - first] = error
            if j + 1 < last:
                weight_t[j + 1 : last] -= upper[j, j + 1 : last, None] * error
        if last < n:
            weight_t[last:] -= upper[first:last, last:].T @ errors
    return result


Order = Literal["given", "act", "min-pivot"]
"""Of the input channels: as they are; by falling diagonal of the Hessian; so that the smallest
pivots of its factorisation come last (`min_pivot_order`)."""


def min_pivot_order(hessian: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Channels in quantization order for a small sum of pivots, shape (in,).

    The error bound of the nearest plane is the sum of s_j^2 D_jj over the pivots D of the Hessian
    factorised from the channel quantized last. Their product is the determinant, so a small sum
    wants them alike: each step takes the remaining channel of the smallest pivot, a Cholesky
    factorisation with the pivot rule turned round (in^3 / 2 multiply-adds).
    """
    n = len(hessian)
    damped = hessian + np.eye(n) * (damping * float(np.mean(np.diag(hessian))))
    pivots = np.diag(damped).copy()
    lower = np.zeros((n, n))
    last_first = np.empty(n, dtype=np.int64)
    for k in range(n):
        j = int(np.argmin(pivots))
        last_first[k] = j
        column = damped[:, j] - lower[:, :k] @ lower[j, :k]
        column /= np.sqrt(max(float(column[j]), 1e-300))
        lower[:, k] = column
        pivots -= column**2
        pivots[last_first[: k + 1]] = np.inf
    return last_first[::-1]


def _ordered(hessian: np.ndarray, order: Order, damping: float) -> np.ndarray:
    if order == "act":
        return np.argsort(-np.diag(hessian), kind="stable")
    if order == "min-pivot":
        return min_pivot_order(hessian, damping)
    return np.arange(len(hessian))


@frozen(kw_only=True, eq=False)
class Factor:
    """A damped Hessian factorised in an order of its channels.

    Attributes
    ----------
    channel : np.ndarray
        Input channels in quantization order.
    upper : np.ndarray
        float64, see `inverse_factor`.
    damping : float
        Used, as a fraction of the mean diagonal.
    """

    channel: np.ndarray
    upper: np.ndarray
    damping: float

    @classmethod
    def of(cls, hessian: np.ndarray, order: Order, damping: float) -> Factor:
        """Factorise; inputs that never occur (zero diagonal) are taken as independent."""
        hessian = np.array(hessian, dtype=np.float64)
        dead = np.diag(hessian) <= 0
        hessian[dead, dead] = 1.0
        channel = _ordered(hessian, order, damping)
        upper, used = inverse_factor(hessian[np.ix_(channel, channel)], damping)
        return cls(channel=channel, upper=upper, damping=used)

    @property
    def pivots(self) -> np.ndarray:
        """D_jj of the factorisation from the channel quantized last, by channel (in,): the error
        of a row rounded without clipping is at most 1/4 sum_j s_j^2 D_jj (arXiv 2507.18553)."""
        pivots = np.empty(len(self.channel))
        pivots[self.channel] = 1 / np.diag(self.upper) ** 2
        return pivots

    def propagate(self, weight: np.ndarray, round_column) -> np.ndarray:
        """`propagate` over a weight (out, in); `round_column(channel, column)`; shape (out, in)."""
        work = weight.T[self.channel].copy()
        done = propagate(
            work, self.upper.astype(np.float32), lambda j, c: round_column(int(self.channel[j]), c)
        )
        values = np.empty_like(weight)
        values[:, self.channel] = done.T
        return values


@frozen(kw_only=True)
class Gptq:
    """GPTQ with any block format.

    Attributes
    ----------
    damping : float
        Fraction of the mean diagonal added to the Hessian.
    order : Order
        Of the input channels; scales are fixed beforehand in every order but the given one.
    """

    uses_calibration: bool = True
    damping: float = DAMPING
    order: Order = "given"

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. Inputs that never occur (zero diagonal) are rounded to nearest."""
        weight = check_weight(weight)
        fmt = needs_blocks(fmt, "gptq")
        factor = Factor.of(calibration.hessian, self.order, self.damping)
        channel = factor.channel
        grid = _Grid(fmt, weight, static=self.order != "given")
        work = weight.T[channel].copy()
        upper32 = factor.upper.astype(np.float32)
        done = propagate(work, upper32, lambda j, c: grid.round(int(channel[j]), c, work, j))
        values = np.empty_like(weight)
        values[:, channel] = done.T
        blocks = encode_with(fmt, values, grid.scales, grid.zeros, grid.tensor)
        return Quantized(
            values=blocks.decode(), storage_bytes=blocks.storage_bytes, blocks=blocks,
            facts={
                "damping": factor.damping, "order": self.order,
                "pivot_sum": float(factor.pivots.sum()),
            },
            notes=calibration_notes(calibration, "gptq", factor.damping, self.damping),
        )  # fmt: skip


class _Grid:
    """Scales of every block, set when the loop reaches the block (or all beforehand)."""

    def __init__(self, fmt, weight: np.ndarray, static: bool):
        self.fmt, self.static = fmt, static
        self.block = fmt.block or weight.shape[1]
        self.tensor = fmt.tensor_scale_of(weight)
        blocks = fmt.blocked(weight)
        scales, zeros = scales_and_zeros(fmt, blocks, self.tensor)
        self.scales, self.zeros = scales, zeros

    def round(self, channel: int, column, work: np.ndarray, position: int) -> np.ndarray:
        """Quantized values of one column; `work` holds the updated weights, in processing order."""
        b, offset = divmod(channel, self.block)
        if offset == 0 and not self.static:
            part = work[position : position + self.block].T[:, None, :]
            scales, zeros = scales_and_zeros(self.fmt, part, self.tensor)
            self.scales[:, b] = scales[:, 0]
            if zeros is not None and self.zeros is not None:
                self.zeros[:, b] = zeros[:, 0]
        scale = self.scales[:, b] * np.float32(self.tensor)
        safe = np.where(scale > 0, scale, np.float32(1))
        zero = self.zeros[:, b].astype(np.float32) if self.zeros is not None else np.float32(0)
        return (element_round(self.fmt, column / safe + zero) - zero) * scale


QUANTIZER = Gptq
