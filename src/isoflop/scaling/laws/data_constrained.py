"""Repeated data: effective tokens and parameters saturate."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Allocation, Array, Data, Law, Parameter


@final
class DataConstrained(Law):
    """Chinchilla over effective parameters and tokens that decay with repetition.

    D' = U (1 + R_D (1 - exp(-(D / U - 1) / R_D))), U unique tokens; N' likewise over the size
    that U tokens deserve.

    References
    ----------
    Muennighoff et al. 2023, Scaling Data-Constrained Language Models, arXiv 2305.16264,
    equations 5 and 6; constants in the authors' repository.
    """

    name: ClassVar[str] = "data-constrained"
    title: ClassVar[str] = "repeated data: effective tokens and parameters saturate"
    reference: ClassVar[str] = "Muennighoff et al. 2023, arXiv 2305.16264, equation 6"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "unique_tokens")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="E", low=1e-3, high=1e2, log=True, meaning="irreducible loss"),
        Parameter(name="A", low=1e-3, high=1e12, log=True, meaning="scale of the parameter term"),
        Parameter(name="B", low=1e-3, high=1e12, log=True, meaning="scale of the data term"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent of both"),
        Parameter(
            name="R_D",
            low=1e-2,
            high=1e4,
            log=True,
            meaning="repetitions after which tokens are worth 1/e",
        ),
        Parameter(
            name="R_N",
            low=1e-2,
            high=1e4,
            log=True,
            meaning="the same for excess parameters",
        ),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        e_, a_, b_, alpha, r_d_, r_n_ = (theta[..., i, None] for i in range(6))
        n, d = x["params"], x["tokens"]
        unique = np.minimum(x["unique_tokens"], d)
        fit = (a_ / b_) ** (1.0 / alpha) * unique  # G^2 of Hoffmann et al., equation 4
        small = np.where(np.real(fit) < n, fit, n)
        effective_d = unique * (1.0 + r_d_ * -np.expm1(-(d / unique - 1.0) / r_d_))
        effective_n = small * (1.0 + r_n_ * -np.expm1(-(n / small - 1.0) / r_n_))
        return e_ + a_ * effective_n**-alpha + b_ * effective_d**-alpha

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """Best split of C = 6 N D with `unique_tokens` of data; without it data are unlimited."""
        unique = given.get("unique_tokens", 1e30)
        log_n = np.linspace(np.log(1e5), np.log(budget_flop / 6.0 / 1e5), 4001)
        params = np.exp(log_n)
        tokens = budget_flop / (6.0 * params)
        x = {"params": params, "tokens": tokens, "unique_tokens": np.full(4001, unique)}
        loss = self.predict(np.asarray(theta, float), x)
        i = int(np.argmin(loss))
        found = {"params": float(params[i]), "tokens": float(tokens[i])}
        found["epochs"] = max(1.0, found["tokens"] / unique)
        return Allocation(inputs=found, prediction=float(loss[i]))


LAW = DataConstrained()
