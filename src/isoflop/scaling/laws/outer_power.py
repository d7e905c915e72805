"""Chinchilla with an exponent around the sum."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Allocation, Array, Data, Law, Parameter


@final
class OuterPower(Law):
    """L(N, D) = E + (A / N^alpha + B / D^beta)^gamma.

    With gamma = 1 it is Chinchilla; the optimum lies where the inner sum is smallest, so its closed
    form stays.

    References
    ----------
    Busbridge et al. 2025, Distillation Scaling Laws, arXiv 2502.08606 (supervised law, table 6).
    """

    name: ClassVar[str] = "outer-power"
    title: ClassVar[str] = "Chinchilla with an exponent around the sum"
    reference: ClassVar[str] = "Busbridge et al. 2025, arXiv 2502.08606, equation 3"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="E", low=1e-4, high=1e2, log=True, meaning="irreducible loss"),
        Parameter(name="A", low=1e-3, high=1e14, log=True, meaning="scale of the parameter term"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent of parameters"),
        Parameter(name="B", low=1e-3, high=1e14, log=True, meaning="scale of the data term"),
        Parameter(name="beta", low=0.0, high=3.0, meaning="exponent of tokens"),
        Parameter(name="gamma", low=0.05, high=4.0, meaning="outer exponent"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        e_, a_, alpha, b_, beta, gamma = (theta[..., i, None] for i in range(6))
        inner = a_ * x["params"] ** -alpha + b_ * x["tokens"] ** -beta
        return e_ + inner**gamma

    def gradient(self, theta: Array, x: Data) -> Array:
        _, a, alpha, b, beta, gamma = (theta[..., i, None] for i in range(6))
        n, d = x["params"] ** -alpha, x["tokens"] ** -beta
        inner = a * n + b * d
        slope = gamma * inner ** (gamma - 1.0)
        columns = [
            np.ones_like(inner), slope * n, -slope * a * n * np.log(x["params"]), slope * d,
            -slope * b * d * np.log(x["tokens"]), inner**gamma * np.log(inner),
        ]  # fmt: skip
        return np.stack(columns, axis=-1)

    def starts(self, x: Data, y: Array) -> Array:
        """Around the best Chinchilla fits: (A/N^a + B/D^b)^g is near A^(1/g)... for each g."""
        from ..solve import chinchilla_point

        e, log_a, alpha, log_b, beta = chinchilla_point(x, y)
        rows = []
        for gamma in (0.3, 0.5, 0.75, 1.0, 1.5):
            floor = np.exp(e) * (0.7 if gamma < 1 else 1.0)
            rows.append([floor, np.exp(min(log_a / gamma, 32.0)), alpha / gamma,
                         np.exp(min(log_b / gamma, 32.0)), beta / gamma, gamma])  # fmt: skip
        return np.array(rows)

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """The optimum of the inner sum, equation 4 of Hoffmann et al. 2022."""
        e, a, alpha, b, beta, gamma = (float(v) for v in theta)
        scale = (alpha * a / (beta * b)) ** (1.0 / (alpha + beta))
        params = scale * (budget_flop / 6.0) ** (beta / (alpha + beta))
        tokens = budget_flop / (6.0 * params)
        loss = e + (a * params**-alpha + b * tokens**-beta) ** gamma
        return Allocation(inputs={"params": params, "tokens": tokens}, prediction=loss)


LAW = OuterPower()
