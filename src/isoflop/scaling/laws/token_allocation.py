"""Optimal tokens from compute, a power law."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Allocation, Array, Data, Law, Parameter


@final
class TokenAllocation(Law):
    """D*(C) = k C^a, with N* = C / (6 D*).



    References
    ----------
    Grattafiori et al. 2024, The Llama 3 Herd of Models, arXiv 2407.21783, section 3.2.1. Bi et al.
    2024, DeepSeek LLM, arXiv 2401.02954, section 3.
    """

    name: ClassVar[str] = "token-allocation"
    title: ClassVar[str] = "optimal tokens from compute, a power law"
    reference: ClassVar[str] = "Llama 3 2024, arXiv 2407.21783, section 3.2.1"
    inputs: ClassVar[tuple[str, ...]] = ("compute_flop",)
    output: ClassVar[str] = "tokens"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="k", low=1e-20, high=1e12, log=True, meaning="tokens at one FLOP"),
        Parameter(name="a", low=0.0, high=3.0, meaning="exponent of compute"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        k, a = (theta[..., i, None] for i in range(2))
        return k * x["compute_flop"] ** a

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """D* from the law, N* = C / (6 D*); the prediction is D* itself."""
        tokens = float(theta[0]) * budget_flop ** float(theta[1])
        params = budget_flop / (6.0 * tokens)
        return Allocation(inputs={"params": params, "tokens": tokens}, prediction=tokens)


LAW = TokenAllocation()
