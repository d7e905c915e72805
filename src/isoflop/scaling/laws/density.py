"""Effective parameters per parameter over time."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class Density(Law):
    """rho = exp(a t + b), t in days: capability per parameter doubles about every 3.3 months.



    References
    ----------
    Xiao et al. 2024, Densing Law of LLMs, arXiv 2412.04315.
    """

    name: ClassVar[str] = "density"
    title: ClassVar[str] = "effective parameters per parameter over time"
    reference: ClassVar[str] = "Xiao et al. 2024, arXiv 2412.04315, equation 6"
    inputs: ClassVar[tuple[str, ...]] = ("days",)
    output: ClassVar[str] = "density"
    signed: ClassVar[tuple[str, ...]] = ("days",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=0.0, high=0.1, meaning="growth per day"),
        Parameter(name="b", low=-10.0, high=10.0, meaning="offset"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, b = (theta[..., i, None] for i in range(2))
        return np.exp(a * x["days"] + b)


LAW = Density()
