"""Loss from dense size and number of experts."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class RoutedExperts(Law):
    """log10 L = a log10 N + b log10 E' + c log10 N log10 E' + d.

    E' saturates: 1/E' = 1/(E - 1 + 1/(1/E_0 - 1/E_max)) + 1/E_max.

    References
    ----------
    Clark et al. 2022, Unified Scaling Laws for Routed Language Models, arXiv 2202.01169,
    equation 2 and table 3.
    """

    name: ClassVar[str] = "routed-experts"
    title: ClassVar[str] = "loss from dense size and number of experts"
    reference: ClassVar[str] = "Clark et al. 2022, arXiv 2202.01169, equation 2"
    inputs: ClassVar[tuple[str, ...]] = ("params", "experts")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=-2.0, high=1.0, meaning="slope of size"),
        Parameter(name="b", low=-2.0, high=1.0, meaning="slope of experts"),
        Parameter(name="c", low=-1.0, high=1.0, meaning="interaction"),
        Parameter(name="d", low=-10.0, high=10.0, meaning="offset"),
        Parameter(name="E_0", low=1.01, high=1e3, log=True, meaning="saturation at few experts"),
        Parameter(name="E_max", low=2, high=1e6, log=True, meaning="saturation at many"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, b, c, d, e_0_, e_max_ = (theta[..., i, None] for i in range(6))
        start = 1.0 / (1.0 / e_0_ - 1.0 / e_max_)
        saturated = 1.0 / (1.0 / (x["experts"] - 1.0 + start) + 1.0 / e_max_)
        n, s = np.log10(x["params"]), np.log10(saturated)
        return 10.0 ** (a * n + b * s + c * n * s + d)


LAW = RoutedExperts()
