"""Loss from compute and tokens per parameter."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Allocation, Array, Data, Law, Parameter


@final
class Overtraining(Law):
    """L(C, M) = E + (a M^h + b M^-h) C^-h with M = D / N and C = 6 N D.

    Chinchilla with equal exponents, written so that over-training is one number.

    References
    ----------
    Gadre et al. 2024, Language Models Scale Reliably with Over-Training, arXiv 2403.08540,
    equation 4.
    """

    name: ClassVar[str] = "overtraining"
    title: ClassVar[str] = "loss from compute and tokens per parameter"
    reference: ClassVar[str] = "Gadre et al. 2024, arXiv 2403.08540, equation 4"
    inputs: ClassVar[tuple[str, ...]] = ("compute_flop", "tokens_per_param")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="E", low=1e-3, high=1e2, log=True, meaning="irreducible loss"),
        Parameter(name="a", low=1e-6, high=1e9, log=True, meaning="scale of the data side"),
        Parameter(name="b", low=1e-6, high=1e9, log=True, meaning="scale of the size side"),
        Parameter(name="h", low=1e-3, high=2.0, meaning="exponent of compute"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        e_, a, b, h = (theta[..., i, None] for i in range(4))
        m = x["tokens_per_param"]
        return e_ + (a * m**h + b * m**-h) * x["compute_flop"] ** -h

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """M* = (b / a)^(1 / (2 h)): the same at every budget."""
        e, a, b, h = (float(v) for v in theta)
        ratio = (b / a) ** (0.5 / h)
        params = (budget_flop / (6.0 * ratio)) ** 0.5
        loss = e + (a * ratio**h + b * ratio**-h) * budget_flop**-h
        return Allocation(inputs={"params": params, "tokens": ratio * params}, prediction=loss)


LAW = Overtraining()
