"""Bias search: the split of bits and the real-valued exponent bias that lose least on a tensor.

A float of n bits may have any exponent width e, mantissa width m = n - 1 - e and real bias b. A
real bias is a scale: x is divided by 2^(b0 - b), rounded to the finite-only format of the usual
bias b0 and multiplied back. The largest value c = 2^(b0 - b) max fixes b: the search is over c.

References
----------
Chen et al., Low-Bitwidth Floating Point Quantization for Efficient High-Quality Diffusion Models,
arXiv 2408.06995: encoding and bias of each tensor searched for the least squared error.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from ..formats import FloatFormat
from ..rounding import round_to
from ._base import Calibration, Quantized, check_weight, weighted_error

CANDIDATES = np.linspace(0.3, 1.0, 29)
"""Clipping points tried, as shares of the tensor's largest magnitude."""

MOST_BITS = 8


def encodings(bits: int) -> list[FloatFormat]:
    """The finite-only floats of a width with at least one exponent bit."""
    return [
        FloatFormat(
            name=f"e{e}m{bits - 1 - e}fn", exponent_bits=e, mantissa_bits=bits - 1 - e,
            bias=2 ** (e - 1) - 1,
            infinity=False, nan="none",
        )
        for e in range(1, bits)
    ]  # fmt: skip


@frozen(kw_only=True)
class BiasSearch:
    """Exhaustive search over encodings and clipping points, one pair per tensor.

    The format gives only the number of bits, 3 to 8.
    """

    uses_calibration: bool = True

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. Facts: exponent bits, mantissa bits and the bias found."""
        weight = check_weight(weight)
        if not 3 <= fmt.bits <= MOST_BITS:
            raise InvalidInput(
                f"bias-search splits 3 to {MOST_BITS} bits; '{fmt.name}' has {fmt.bits}."
            )
        amax = float(np.abs(weight).max())
        best = None
        for encoding in encodings(fmt.bits):
            for share in CANDIDATES:
                scale = np.float32((amax or 1.0) * share / encoding.max)
                values = round_to(weight / scale, encoding, overflow="saturate") * scale
                loss = weighted_error((values - weight).astype(np.float64), calibration.hessian)
                if best is None or loss < best[0]:
                    best = loss, encoding, scale, values
        assert best is not None  # there are at least two encodings
        _, encoding, scale, values = best
        rows, columns = weight.shape
        return Quantized(
            values=values, storage_bytes=rows * -(-columns * fmt.bits // 8) + 4 + 1,
            facts={
                "exponent_bits": encoding.exponent_bits, "mantissa_bits": encoding.mantissa_bits,
                "bias": encoding.bias - float(np.log2(scale)),
            },
        )  # fmt: skip


QUANTIZER = BiasSearch
