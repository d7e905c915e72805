"""Loss with efficiencies of a training format."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Allocation, Array, Data, Law, Parameter
from ..split import split_budget


@final
class LowPrecision(Law):
    """L = (A / (N eff_N)^alpha + B / (D eff_D)^beta)^gamma + E.

    eff_N is what the forward format leaves of the parameters, eff_D what the backward one leaves of
    the data: a format pays where its speed gains more than they lose.

    References
    ----------
    Castro et al. 2025, Quartet: Native FP4 Training Can Be Optimal, arXiv 2505.14669.
    """

    name: ClassVar[str] = "low-precision"
    title: ClassVar[str] = "loss with efficiencies of a training format"
    reference: ClassVar[str] = "Quartet 2025, arXiv 2505.14669, equation 1"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "eff_params", "eff_tokens")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="E", low=1e-4, high=1e2, log=True, meaning="irreducible loss"),
        Parameter(name="A", low=1e-3, high=1e14, log=True, meaning="size scale"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent of size"),
        Parameter(name="B", low=1e-3, high=1e14, log=True, meaning="data scale"),
        Parameter(name="beta", low=0.0, high=3.0, meaning="exponent of tokens"),
        Parameter(name="gamma", low=0.05, high=4.0, meaning="outer exponent"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        e_, a_, alpha, b_, beta, gamma = (theta[..., i, None] for i in range(6))
        size = a_ * (x["params"] * x["eff_params"]) ** -alpha
        data = b_ * (x["tokens"] * x["eff_tokens"]) ** -beta
        return (size + data) ** gamma + e_

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """Size and tokens at these other inputs, 6 N D = C."""
        return split_budget(self, theta, budget_flop, given)


LAW = LowPrecision()
