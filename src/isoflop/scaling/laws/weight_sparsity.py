"""Loss from non-zero weights, tokens and sparsity."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Allocation, Array, Data, Law, Parameter
from ..split import split_budget


@final
class WeightSparsity(Law):
    """L = (a (1 - S)^b + c) (1 / N)^alpha + (D_c / D)^beta + E.

    N counts non-zero parameters.

    References
    ----------
    Frantar et al. 2023, Scaling Laws for Sparsely-Connected Foundation Models, arXiv 2309.08520,
    equation 1.
    """

    name: ClassVar[str] = "weight-sparsity"
    title: ClassVar[str] = "loss from non-zero weights, tokens and sparsity"
    reference: ClassVar[str] = "Frantar et al. 2023, arXiv 2309.08520, equation 1"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "sparsity")
    signed: ClassVar[tuple[str, ...]] = ("sparsity",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=1e-6, high=1e9, log=True, meaning="scale that density removes"),
        Parameter(name="b", low=0.0, high=3.0, meaning="exponent of density"),
        Parameter(name="c", low=1e-6, high=1e9, log=True, meaning="scale that stays"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent of size"),
        Parameter(name="D_c", low=1, high=1e25, log=True, meaning="token scale"),
        Parameter(name="beta", low=0.0, high=3.0, meaning="exponent of tokens"),
        Parameter(name="E", low=0.0, high=10.0, meaning="floor"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, b, c, alpha, d_c_, beta, e_ = (theta[..., i, None] for i in range(7))
        size = (a * (1.0 - x["sparsity"]) ** b + c) * x["params"] ** -alpha
        return size + (d_c_ / x["tokens"]) ** beta + e_

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """Size and tokens at these other inputs, 6 N D = C."""
        return split_budget(self, theta, budget_flop, given)


LAW = WeightSparsity()
