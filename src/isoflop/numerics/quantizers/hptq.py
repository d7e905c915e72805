"""HPTQ: GPTQ on an unbounded integer grid with one scale for the matrix, stored as a Huffman code.

Nothing is clipped, so the nearest plane's error bound holds; what large weights cost is bits, and
the scale is searched until the encoded integers take the bits that the format would.

References
----------
Chen et al., The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm, arXiv
2507.18553, section 5: Q = s Z with a scalar s from a search guided by the Huffman cost of Z.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from ..huffman import HuffmanCode
from ._base import (
    DAMPING,
    Calibration,
    Quantized,
    calibration_notes,
    check_weight,
    weighted_error,
)  # fmt: skip
from .gptq import Factor, Order

SCALE_BYTES = 4
CLOSE = 0.01
"""Bits per weight below the target at which the search stops."""

LARGEST = 1 << 20
"""Integers beyond this mean a scale far too small; its cost is taken as infinite."""


@frozen(kw_only=True)
class Hptq:
    """The format gives only the bits per weight to meet, scales included.

    Attributes
    ----------
    damping : float
        Fraction of the mean diagonal added to the Hessian.
    order : Order
        Of the input channels.
    steps : int
        Most runs of the error propagation in the search of the scale.
    propagate : bool
        False rounds to nearest (the paper's HRTN), for comparison.
    """

    uses_calibration: bool = True
    damping: float = DAMPING
    order: Order = "act"
    steps: int = 10
    propagate: bool = True

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. Facts: scale, error and its bound, bits of the longest word."""
        weight = check_weight(weight)
        target = _bits(fmt, weight.shape[1])
        if not 1 < target <= 16:
            raise InvalidInput(
                f"hptq stores between 1 and 16 bits per weight; '{fmt.name}' has {target:g}."
            )
        factor = Factor.of(calibration.hessian, self.order, self.damping)
        scale, integers = self._search(weight, factor, target)
        code = HuffmanCode.of(integers)
        values = (integers * scale).astype(np.float32)
        return Quantized(
            values=values,
            storage_bytes=_bytes(integers, code),
            facts={
                "scale": scale, "longest_word_bits": int(code.lengths.max()),
                "damping": factor.damping,
                "error": weighted_error((values - weight).astype(np.float64), calibration.hessian),
                "bound": 0.25 * scale**2 * float(factor.pivots.sum()) * len(weight),
            },
            notes=calibration_notes(calibration, "hptq", factor.damping, self.damping),
        )  # fmt: skip

    def _search(
        self, weight: np.ndarray, factor: Factor, target: float
    ) -> tuple[float, np.ndarray]:
        """The smallest scale found whose integers meet the target, and the integers (int64)."""
        spread = float(np.std(weight, dtype=np.float64))
        if spread == 0:
            spread = float(np.abs(weight).max()) or 1.0
        scale = spread * 2.0 ** (2 - target)
        small, large = 0.0, np.inf  # too many bits, few enough
        best: tuple[float, np.ndarray] | None = None
        for run in range(8 * self.steps):
            integers = self._integers(weight, factor, scale)
            over = _cost(integers) - target
            if over > 0:
                small = scale
            else:
                large, best = scale, (scale, integers)
            if best is not None and (-CLOSE < over <= 0 or run >= self.steps):
                break
            # A bit fewer per weight for every doubling of the scale.
            guess = scale * 2.0 ** (min(max(over, -4.0), 4.0) + 0.3 * CLOSE)
            inside = small * 1.0001 < guess < large / 1.0001
            scale = guess if inside else float(np.sqrt(small * large))
        assert best is not None  # a scale above every weight costs one bit
        return best

    def _integers(self, weight: np.ndarray, factor: Factor, scale: float) -> np.ndarray:
        step = np.float32(scale)
        if not self.propagate:
            return np.rint(weight / step).astype(np.int64)
        values = factor.propagate(weight, lambda channel, column: np.rint(column / step) * step)
        return np.rint(values / step).astype(np.int64)


def _bits(fmt, columns: int) -> float:
    """Bits per weight of a format, a scale per row shared by its columns."""
    own = getattr(fmt, "block", 1) == 0
    return fmt.bits_per_value + (fmt.scale.bits / columns if own else 0.0)


def _cost(integers: np.ndarray) -> float:
    """Bits per weight of the stored integers."""
    if np.abs(integers).max() > LARGEST:
        return np.inf
    return 8 * _bytes(integers, HuffmanCode.of(integers)) / integers.size


def _bytes(integers: np.ndarray, code: HuffmanCode) -> int:
    return -(-code.bits(integers) // 8) + code.table_bytes + SCALE_BYTES


QUANTIZER = Hptq
