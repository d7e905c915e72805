"""Loss when weights, activations and cache have few bits."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Allocation, Array, Data, Law, Parameter
from ..split import split_budget


@final
class Precision(Law):
    """Chinchilla over N (1 - e^(-P_w/g_w)) (1 - e^(-P_a/g_a)) (1 - e^(-P_kv/g_kv)).

    Bits in training; what quantising afterwards adds is `post-training-bits`.

    References
    ----------
    Kumar et al. 2024, Scaling Laws for Precision, arXiv 2411.04330, equation 3 and appendix K.
    """

    name: ClassVar[str] = "precision"
    title: ClassVar[str] = "loss when weights, activations and cache have few bits"
    reference: ClassVar[str] = "Kumar et al. 2024, arXiv 2411.04330, equation 3"
    inputs: ClassVar[tuple[str, ...]] = (
        "params",
        "tokens",
        "bits_weight",
        "bits_activation",
        "bits_kv",
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="E", low=1e-3, high=1e2, log=True, meaning="irreducible loss"),
        Parameter(name="A", low=1e-3, high=1e12, log=True, meaning="size scale"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent of size"),
        Parameter(name="B", low=1e-3, high=1e12, log=True, meaning="data scale"),
        Parameter(name="beta", low=0.0, high=3.0, meaning="exponent of tokens"),
        Parameter(name="g_w", low=1e-2, high=1e2, log=True, meaning="bits of weights"),
        Parameter(name="g_a", low=1e-2, high=1e2, log=True, meaning="bits of activations"),
        Parameter(name="g_kv", low=1e-2, high=1e2, log=True, meaning="bits of the cache"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        e_, a_, alpha, b_, beta, g_w, g_a, g_kv = (theta[..., i, None] for i in range(8))
        kept = -np.expm1(-x["bits_weight"] / g_w)
        kept = kept * -np.expm1(-x["bits_activation"] / g_a) * -np.expm1(-x["bits_kv"] / g_kv)
        return e_ + a_ * (x["params"] * kept) ** -alpha + b_ * x["tokens"] ** -beta

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """Size and tokens at these other inputs, 6 N D = C."""
        return split_budget(self, theta, budget_flop, given)


LAW = Precision()
