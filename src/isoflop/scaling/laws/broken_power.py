"""A power law with one smooth break."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class BrokenPower(Law):
    """y = a + b x^-c_0 (1 + (x / d)^(1 / f))^(-c_1 f): slope c_0 before d, c_0 + c_1 after.

    References
    ----------
    Caballero et al. 2023, Broken Neural Scaling Laws, arXiv 2210.14891, equation 1.
    """

    name: ClassVar[str] = "broken-power"
    title: ClassVar[str] = "a power law with one smooth break"
    reference: ClassVar[str] = "Caballero et al. 2023, arXiv 2210.14891, equation 1"
    inputs: ClassVar[tuple[str, ...]] = ("compute_flop",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=-10.0, high=100.0, meaning="floor"),
        Parameter(name="b", low=1e-12, high=1e30, log=True, meaning="scale"),
        Parameter(name="c_0", low=-3.0, high=3.0, meaning="exponent before"),
        Parameter(name="c_1", low=-5.0, high=5.0, meaning="change of exponent"),
        Parameter(name="d", low=1e-6, high=1e35, log=True, meaning="place of the break"),
        Parameter(name="f", low=1e-3, high=10, log=True, meaning="sharpness"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, b, c_0, c_1, d, f = (theta[..., i, None] for i in range(6))
        z = x["compute_flop"]
        return a + b * z**-c_0 * (1.0 + (z / d) ** (1.0 / f)) ** (-c_1 * f)

    def starts(self, x: Data, y: Array) -> Array:
        """Two lines in logarithms, for breaks within the runs and floors below the lowest."""
        log_x = np.log(x["compute_flop"])
        rows = []
        for floor in (0.0, 0.5, 0.9):
            a = floor * float(y.min())
            log_y = np.log(np.maximum(y - a, 1e-12))
            for place in np.quantile(log_x, (0.25, 0.5, 0.75)):
                bend = np.maximum(log_x - place, 0.0)
                design = np.column_stack([np.ones_like(log_x), log_x, bend])
                level, before, change = np.linalg.lstsq(design, log_y, rcond=None)[0]
                rows += [[a, np.exp(level), -before, -change, np.exp(place), f] for f in (0.1, 1.0)]
        return np.array(rows)


LAW = BrokenPower()
