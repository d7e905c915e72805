"""Loss with granularity of experts."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Allocation, Array, Data, Law, Parameter
from ..split import split_budget


@final
class FineGrainedExperts(Law):
    """L = c + (g / G^gamma + a) / N^alpha + b / D^beta.

    G is how many times smaller an expert is than the dense feed-forward layer.

    References
    ----------
    Krajewski et al. 2024, Scaling Laws for Fine-Grained Mixture of Experts, arXiv 2402.07871,
    equation 4 and table 1.
    """

    name: ClassVar[str] = "fine-grained-experts"
    title: ClassVar[str] = "loss with granularity of experts"
    reference: ClassVar[str] = "Krajewski et al. 2024, arXiv 2402.07871, equation 4"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "granularity")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="c", low=0.0, high=10.0, meaning="floor"),
        Parameter(name="a", low=1e-3, high=1e9, log=True, meaning="size scale"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent of size"),
        Parameter(name="b", low=1e-3, high=1e9, log=True, meaning="data scale"),
        Parameter(name="beta", low=0.0, high=3.0, meaning="exponent of tokens"),
        Parameter(name="g", low=1e-6, high=1e6, log=True, meaning="scale of granularity"),
        Parameter(name="gamma", low=0.0, high=3.0, meaning="exponent of granularity"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        c, a, alpha, b, beta, g, gamma = (theta[..., i, None] for i in range(7))
        size = (g * x["granularity"] ** -gamma + a) * x["params"] ** -alpha
        return c + size + b * x["tokens"] ** -beta

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """Size and tokens at these other inputs, 6 N D = C."""
        return split_budget(self, theta, budget_flop, given)


LAW = FineGrainedExperts()
