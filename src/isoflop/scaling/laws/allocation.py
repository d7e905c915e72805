"""Optimal parameters from compute, a power law."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Allocation, Array, Data, Law, Parameter


@final
class ParameterAllocation(Law):
    """N*(C) = k C^a, with D* = C / (6 N*).

    What envelope and isoFLOP fits give: no loss, only where the optimum lies.

    References
    ----------
    Hoffmann et al. 2022, arXiv 2203.15556, section 3.1. Porian et al. 2024, Resolving Discrepancies
    in Compute-Optimal Scaling of Language Models, arXiv 2406.19146.
    """

    name: ClassVar[str] = "allocation"
    title: ClassVar[str] = "optimal parameters from compute, a power law"
    reference: ClassVar[str] = (
        "Hoffmann et al. 2022, section 3.1; Porian et al. 2024, arXiv 2406.19146"
    )
    inputs: ClassVar[tuple[str, ...]] = ("compute_flop",)
    output: ClassVar[str] = "params"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="k", low=1e-20, high=1e12, log=True, meaning="parameters at one FLOP"),
        Parameter(name="a", low=0.0, high=3.0, meaning="exponent of compute"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        k, a = (theta[..., i, None] for i in range(2))
        return k * x["compute_flop"] ** a

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """N* from the law, D* = C / (6 N*); the prediction is N* itself."""
        params = float(theta[0]) * budget_flop ** float(theta[1])
        tokens = budget_flop / (6.0 * params)
        return Allocation(inputs={"params": params, "tokens": tokens}, prediction=params)


LAW = ParameterAllocation()
