"""Loss from parameters and tokens, one power of a sum."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Allocation, Array, Data, Law, Parameter


@final
class KaplanJoint(Law):
    """L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D: no floor.

    References
    ----------
    Kaplan et al. 2020, arXiv 2001.08361, equation 1.5.
    """

    name: ClassVar[str] = "kaplan-joint"
    title: ClassVar[str] = "loss from parameters and tokens, one power of a sum"
    reference: ClassVar[str] = "Kaplan et al. 2020, arXiv 2001.08361, equation 1.5"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="N_c", low=1e3, high=1e25, log=True, meaning="parameter scale"),
        Parameter(name="D_c", low=1e3, high=1e25, log=True, meaning="token scale"),
        Parameter(name="alpha_N", low=1e-3, high=3.0, meaning="exponent of parameters"),
        Parameter(name="alpha_D", low=1e-3, high=3.0, meaning="exponent of tokens"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        n_c_, d_c_, alpha_n_, alpha_d_ = (theta[..., i, None] for i in range(4))
        inner = (n_c_ / x["params"]) ** (alpha_n_ / alpha_d_) + d_c_ / x["tokens"]
        return inner**alpha_d_

    def gradient(self, theta: Array, x: Data) -> Array:
        n_c, d_c, alpha_n, alpha_d = (theta[..., i, None] for i in range(4))
        power = alpha_n / alpha_d
        size, data = (n_c / x["params"]) ** power, d_c / x["tokens"]
        inner = size + data
        slope = alpha_d * inner ** (alpha_d - 1.0)
        turn = slope * size * np.log(n_c / x["params"])
        columns = [
            slope * size * power / n_c, slope * data / d_c, turn / alpha_d,
            inner**alpha_d * np.log(inner) - turn * power / alpha_d,
        ]  # fmt: skip
        return np.stack(columns, axis=-1)

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """Where the sum inside is smallest along 6 N D = C."""
        n_c, d_c, alpha_n, alpha_d = (float(v) for v in theta)
        power = alpha_n / alpha_d
        # d/dN of (N_c / N)^p + 6 D_c N / C is zero.
        params = (power * n_c**power * budget_flop / (6.0 * d_c)) ** (1.0 / (power + 1.0))
        tokens = budget_flop / (6.0 * params)
        loss = ((n_c / params) ** power + d_c / tokens) ** alpha_d
        return Allocation(inputs={"params": params, "tokens": tokens}, prediction=loss)

    def starts(self, x: Data, y: Array) -> Array:
        """Exponents on a grid; scales such that both terms are half of a middle run's."""
        rows = []
        n, d, loss = (float(np.exp(np.mean(np.log(v)))) for v in (x["params"], x["tokens"], y))
        for alpha_d in (0.06, 0.1, 0.2, 0.4):
            for ratio in (0.5, 0.8, 1.2):
                half = max(loss, 1e-3) ** (1.0 / alpha_d) / 2.0
                rows.append([n * half ** (1.0 / ratio), d * half, ratio * alpha_d, alpha_d])
        return np.array(rows)


LAW = KaplanJoint()
