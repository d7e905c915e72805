"""Average downstream error from loss."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class DownstreamError(Law):
    """Err(L) = eps - k exp(-g L).

    Top-1 error averaged over tasks; single tasks scatter far more.

    References
    ----------
    Gadre et al. 2024, arXiv 2403.08540, equation 5.
    """

    name: ClassVar[str] = "downstream-error"
    title: ClassVar[str] = "average downstream error from loss"
    reference: ClassVar[str] = "Gadre et al. 2024, arXiv 2403.08540, equation 5"
    inputs: ClassVar[tuple[str, ...]] = ("loss",)
    output: ClassVar[str] = "error"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="eps", low=0.0, high=1.5, meaning="error of a useless model"),
        Parameter(name="k", low=1e-6, high=1e6, log=True, meaning="scale"),
        Parameter(name="g", low=1e-3, high=20.0, meaning="rate per nat"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        eps, k, g = (theta[..., i, None] for i in range(3))
        return eps - k * np.exp(-g * x["loss"])


LAW = DownstreamError()
