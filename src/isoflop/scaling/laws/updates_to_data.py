"""Samples to a return from updates per sample."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class UpdatesToData(Law):
    """D(s) = D_min (1 + (b / s)^alpha): more updates per sample need fewer samples.



    References
    ----------
    Rybkin et al. 2025, Value-Based Deep RL Scales Predictably, arXiv 2502.04327.
    """

    name: ClassVar[str] = "updates-to-data"
    title: ClassVar[str] = "samples to a return from updates per sample"
    reference: ClassVar[str] = "Rybkin et al. 2025, arXiv 2502.04327, equation 3"
    inputs: ClassVar[tuple[str, ...]] = ("utd",)
    output: ClassVar[str] = "samples"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            name="D_min",
            low=1,
            high=1e12,
            log=True,
            meaning="samples with unlimited updates",
        ),
        Parameter(
            name="b",
            low=1e-3,
            high=1e3,
            log=True,
            meaning="updates per sample at twice that",
        ),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        d_min_, b, alpha = (theta[..., i, None] for i in range(3))
        return d_min_ * (1.0 + (x["utd"] / b) ** -alpha)


LAW = UpdatesToData()
