"""PowerQuant: the one exponent a for which codes uniform in |w|^a lose least.

References
----------
Yvinec et al., PowerQuant, ICLR 2023: a* = argmin_a sum ||W - Q_a^-1(Q_a(W))||_p, p = 2; the
exponent search of NUPES (arXiv 2308.05600), whose gradient learning of the codes is
`learned_rounding` here.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..formats import PowerFormat
from ..rounding import round_to
from ._base import Calibration, Quantized, check_weight, weighted_error

LOW, HIGH = 0.2, 1.5
GOLDEN = (5**0.5 - 1) / 2
SEARCH_STEPS = 16


def power_round(weight: np.ndarray, bits: int, exponent: float) -> np.ndarray:
    """`weight` rounded with one scale per output row (its largest magnitude), float32."""
    scale = np.abs(weight).max(1, keepdims=True)
    safe = np.where(scale > 0, scale, 1)
    fmt = PowerFormat(name="power", width=bits, exponent=exponent)
    return round_to((weight / safe).astype(np.float32), fmt) * scale


@frozen(kw_only=True)
class PowerQuant:
    """Golden-section search of the exponent for the least (calibrated) squared error.

    The format gives only the number of bits.
    """

    uses_calibration: bool = True

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. Facts: the exponent."""
        weight = check_weight(weight)
        bits = fmt.bits

        def loss(exponent: float) -> float:
            error = (power_round(weight, bits, exponent) - weight).astype(np.float64)
            return weighted_error(error, calibration.hessian)

        low, high = LOW, HIGH
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        fa, fb = loss(a), loss(b)
        for _ in range(SEARCH_STEPS):
            if fa < fb:
                high, b, fb = b, a, fa
                a = high - GOLDEN * (high - low)
                fa = loss(a)
            else:
                low, a, fa = a, b, fb
                b = low + GOLDEN * (high - low)
                fb = loss(b)
        exponent = a if fa < fb else b
        rows, columns = weight.shape
        return Quantized(
            values=power_round(weight, bits, exponent),
            storage_bytes=rows * -(-columns * bits // 8) + 4 * rows + 4,
            facts={"exponent": exponent},
        )


QUANTIZER = PowerQuant
