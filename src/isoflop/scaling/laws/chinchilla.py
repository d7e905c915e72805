"""L(N, D) = E + A / N^alpha + B / D^beta, and its optimum under C = 6 N D."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Allocation, Array, Data, Law, Parameter


@final
class Chinchilla(Law):
    """Loss from parameters and tokens, two separate power laws over a floor.

    References
    ----------
    Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, arXiv 2203.15556,
    section 3.3 (Approach 3), equation 2; its optimum, equation 4.
    """

    name: ClassVar[str] = "chinchilla"
    title: ClassVar[str] = "loss from parameters and tokens, two power laws over a floor"
    reference: ClassVar[str] = "Hoffmann et al. 2022, arXiv 2203.15556, equation 2"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="E", low=1e-3, high=1e2, log=True, meaning="irreducible loss, nats/token"),
        Parameter(name="A", low=1e-3, high=1e12, log=True, meaning="scale of the parameter term"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent of parameters"),
        Parameter(name="B", low=1e-3, high=1e12, log=True, meaning="scale of the data term"),
        Parameter(name="beta", low=0.0, high=3.0, meaning="exponent of tokens"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        e, a, alpha, b, beta = (theta[..., i, None] for i in range(5))
        return e + a * x["params"] ** -alpha + b * x["tokens"] ** -beta

    def gradient(self, theta: Array, x: Data) -> Array:
        _, a, alpha, b, beta = (theta[..., i, None] for i in range(5))
        n, d = x["params"] ** -alpha, x["tokens"] ** -beta
        columns = [
            np.ones_like(n * d), n + 0 * d, -a * n * np.log(x["params"]) + 0 * d, d + 0 * n,
            -b * d * np.log(x["tokens"]) + 0 * n,
        ]  # fmt: skip
        return np.stack(columns, axis=-1)

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """N* = G (C/6)^(beta/(alpha+beta)) and D* = C / (6 N*), G from equation 4."""
        e, a, alpha, b, beta = (float(v) for v in theta)
        scale = (alpha * a / (beta * b)) ** (1.0 / (alpha + beta))
        params = scale * (budget_flop / 6.0) ** (beta / (alpha + beta))
        tokens = budget_flop / (6.0 * params)
        loss = e + a * params**-alpha + b * tokens**-beta
        return Allocation(inputs={"params": params, "tokens": tokens}, prediction=loss)


LAW = Chinchilla()
