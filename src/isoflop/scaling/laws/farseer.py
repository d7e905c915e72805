"""Loss with exponents that change with size."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Allocation, Array, Data, Law, Parameter
from ..split import split_budget


@final
class Farseer(Law):
    """L = exp(s N^q + S) + exp(B N^b + Q) D^(-exp(A N^a + E)).

    References
    ----------
    Li et al. 2025, Predictable Scale: Farseer, arXiv 2506.10972, equation 4.
    """

    name: ClassVar[str] = "farseer"
    title: ClassVar[str] = "loss with exponents that change with size"
    reference: ClassVar[str] = "Li et al. 2025, arXiv 2506.10972, equation 4"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="s", low=-10.0, high=10.0, meaning="floor slope"),
        Parameter(name="q", low=-1.0, high=1.0, meaning="floor exponent"),
        Parameter(name="S", low=-20.0, high=20.0, meaning="floor offset"),
        Parameter(name="B", low=-500.0, high=500.0, meaning="scale slope"),
        Parameter(name="b", low=-1.0, high=1.0, meaning="scale exponent"),
        Parameter(name="Q", low=-50.0, high=50.0, meaning="scale offset"),
        Parameter(name="A", low=-10.0, high=10.0, meaning="exponent slope"),
        Parameter(name="a", low=-1.0, high=1.0, meaning="exponent exponent"),
        Parameter(name="E", low=-10.0, high=10.0, meaning="exponent offset"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        n, d = x["params"], x["tokens"]
        floor = np.exp(theta[..., 0, None] * n ** theta[..., 1, None] + theta[..., 2, None])
        scale = np.exp(theta[..., 3, None] * n ** theta[..., 4, None] + theta[..., 5, None])
        power = np.exp(theta[..., 6, None] * n ** theta[..., 7, None] + theta[..., 8, None])
        return floor + scale * d**-power

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """By search along 6 N D = C, from one token per parameter to a hundred thousand."""
        most = float(np.sqrt(budget_flop / 6.0))
        return split_budget(self, theta, budget_flop, given, sizes=(most * 3e-3, most))

    def starts(self, x: Data, y: Array) -> Array:
        """Chinchilla's floor and size term as the first, its data term as the second."""
        from ..solve import chinchilla_point

        e, log_a, alpha, log_b, beta = chinchilla_point(x, y)
        log_floor = np.log(np.exp(e) + np.exp(log_a - alpha * np.log(x["params"])))
        rows = []
        for q in (-0.1, 0.1):
            s, offset = np.polyfit(x["params"] ** q, log_floor, 1)
            for slope in (-0.1, -0.4):
                size = slope * np.mean(x["params"] ** 0.08)
                rows.append([s, q, offset, 1.0, -0.08, log_b, slope, 0.08,
                             np.log(max(beta, 1e-2)) - size])  # fmt: skip
        return np.array(rows)


LAW = Farseer()
