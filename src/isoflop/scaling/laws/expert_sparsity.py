"""Loss from total parameters, tokens and sparsity."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Allocation, Array, Data, Law, Parameter
from ..split import split_budget


@final
class ExpertSparsity(Law):
    """L = e + a N^-alpha + b D^-beta + c (1 - S)^-lam + d (1 - S)^-delta N^-gamma.

    S is the share of experts that a token does not visit; N counts all parameters.

    References
    ----------
    Abnar et al. 2025, Parameters vs FLOPs: Scaling Laws for Optimal Sparsity for MoE Language
    Models, arXiv 2501.12370, table 3.
    """

    name: ClassVar[str] = "expert-sparsity"
    title: ClassVar[str] = "loss from total parameters, tokens and sparsity"
    reference: ClassVar[str] = "Abnar et al. 2025, arXiv 2501.12370, equation 6"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "sparsity")
    signed: ClassVar[tuple[str, ...]] = ("sparsity",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="e", low=0.0, high=10.0, meaning="floor"),
        Parameter(name="a", low=1e-3, high=1e12, log=True, meaning="size scale"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent of size"),
        Parameter(name="b", low=1e-3, high=1e12, log=True, meaning="data scale"),
        Parameter(name="beta", low=0.0, high=3.0, meaning="exponent of tokens"),
        Parameter(name="c", low=1e-6, high=1e6, log=True, meaning="sparsity scale"),
        Parameter(name="lam", low=-3.0, high=3.0, meaning="exponent of density"),
        Parameter(name="d", low=1e-6, high=1e9, log=True, meaning="interaction scale"),
        Parameter(name="delta", low=-3.0, high=3.0, meaning="exponent of density in it"),
        Parameter(name="gamma", low=0.0, high=3.0, meaning="exponent of size in it"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        e, a, alpha, b, beta, c, lam, d, delta, gamma = (theta[..., i, None] for i in range(10))
        density = 1.0 - x["sparsity"]
        mixed = d * density**-delta * x["params"] ** -gamma
        terms = a * x["params"] ** -alpha + b * x["tokens"] ** -beta
        return e + terms + c * density**-lam + mixed

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """With (1 - S) N parameters at work on a token."""
        return split_budget(self, theta, budget_flop, given, share=1.0 - given.get("sparsity", 0.0))


LAW = ExpertSparsity()
