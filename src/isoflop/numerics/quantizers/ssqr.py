"""SSQR: GPTQ without clipping, the few weights that overflow kept as 16-bit floats.

Scales start where the squared error is least, then all move by one factor, found by bisection, so
that the share of weights that leave the integers after error propagation is the one asked for. As
nothing is clipped, the nearest plane's error bound holds.

References
----------
Chen et al., The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm, arXiv
2507.18553, section 5 (scale-adjusted SpQR): q = s z + xi, xi sparse in compressed rows.
Dettmers et al., SpQR, arXiv 2306.03078 (outliers apart from the groups).
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from ..blocks import stored_scales
from ..formats import BlockFormat, FixedFormat
from ..rounding import round_to
from ._base import (
    DAMPING,
    Calibration,
    Quantized,
    calibration_notes,
    check_weight,
    needs_blocks,
    weighted_error,
)  # fmt: skip
from ._scales import encode_with
from .clip import ClipSearch
from .gptq import Factor, Order

VALUE_BYTES, COLUMN_BYTES, ROW_BYTES = 2, 2, 4
"""Of an outlier, its column index (four where rows are longer than 65,536), and a row's start."""

RANGE = 16.0
"""Most the scales may grow or shrink."""


@frozen(kw_only=True)
class Ssqr:
    """Symmetric integer formats with floating-point scales.

    Attributes
    ----------
    outliers : float
        Largest share of weights kept as floats, between 0 and 0.5.
    damping : float
        Fraction of the mean diagonal added to the Hessian.
    order : Order
        Of the input channels.
    steps : int
        Bisection steps, each one run of the error propagation.
    """

    uses_calibration: bool = True
    outliers: float = 0.01
    damping: float = DAMPING
    order: Order = "act"
    steps: int = 9

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. Facts: share of outliers, factor of the scales, error and bound."""
        weight = check_weight(weight)
        fmt = needs_blocks(fmt, "ssqr")
        if not isinstance(fmt.element, FixedFormat) or fmt.zero_point or fmt.rule != "absmax":
            raise InvalidInput(
                f"ssqr needs a symmetric integer grid with a float scale, such as int3-g128; "
                f"'{fmt.name}' is none."
            )
        if not 0 <= self.outliers <= 0.5:
            raise InvalidInput(f"The share of outliers is {self.outliers}; it is 0 to 0.5.")
        factor = Factor.of(calibration.hessian, self.order, self.damping)
        start = ClipSearch().quantize(weight, fmt, calibration).blocks
        assert start is not None  # a clipping search is one table of codes and scales
        stretch, scales, values, out = self._search(weight, fmt, start.scales, factor)
        blocks = encode_with(fmt, np.where(out, np.float32(0), values), scales, None, 1.0)
        wide = _steps(fmt, scales, weight.shape[1])
        rows, columns = weight.shape
        index_bytes = COLUMN_BYTES if columns <= 1 << 16 else 2 * COLUMN_BYTES
        sparse = int(out.sum()) * (VALUE_BYTES + index_bytes) + ROW_BYTES * (rows + 1)
        error = (values - weight).astype(np.float64)
        return Quantized(
            values=values, storage_bytes=blocks.storage_bytes + sparse,
            facts={
                "outliers": float(out.mean()), "scale_factor": stretch, "damping": factor.damping,
                "error": weighted_error(error, calibration.hessian),
                "bound": 0.25 * float((wide.astype(np.float64) ** 2 * factor.pivots).sum()),
            },
            notes=calibration_notes(calibration, "ssqr", factor.damping, self.damping),
        )  # fmt: skip

    def _search(self, weight: np.ndarray, fmt: BlockFormat, start: np.ndarray, factor: Factor):
        """Smallest factor of the scales that keeps to the share of outliers, and its result."""
        small, large = 1 / RANGE, RANGE
        best = None
        for step in range(self.steps + 1):
            stretch = RANGE if step == 0 else float(np.sqrt(small * large))
            if step == 1:
                stretch = 1.0
            found = self._run(weight, fmt, stored_scales(fmt, start * np.float32(stretch)), factor)
            if step == 0 or found[2].mean() <= self.outliers:
                large, best = stretch, (stretch, *found)
            else:
                small = stretch
        assert best is not None
        return best

    @staticmethod
    def _run(weight: np.ndarray, fmt: BlockFormat, scales: np.ndarray, factor: Factor):
        """Scales, values and the mask of outliers after one error propagation."""
        wide = _steps(fmt, scales, weight.shape[1])
        top = (1 << (fmt.bits - 1)) - 1
        out = np.zeros(weight.shape, bool)

        def column_of(channel: int, column: np.ndarray) -> np.ndarray:
            step = np.where(wide[:, channel] > 0, wide[:, channel], np.float32(1))
            z = np.rint(column / step)
            out[:, channel] = np.abs(z) > top
            kept = round_to(column.astype(np.float32), "fp16", overflow="saturate")
            return np.where(out[:, channel], kept, z * wide[:, channel])

        return scales, factor.propagate(weight, column_of), out


def _steps(fmt: BlockFormat, scales: np.ndarray, columns: int) -> np.ndarray:
    """The integer step of every weight, float32 (out, in)."""
    assert isinstance(fmt.element, FixedFormat)
    unit = np.float32(2.0**-fmt.element.fraction_bits)
    return np.repeat(scales * unit, fmt.block or columns, axis=1)


QUANTIZER = Ssqr
