"""Benchmark accuracy from compute, a sigmoid above chance."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class Benchmark(Law):
    """acc = floor + (ceiling - floor) / (1 + exp(-k (log10 C - m))).

    The paper's sigmoid ends at 1; benchmarks hold questions whose key is wrong or disputed, and a
    free ceiling halves the error of extrapolating MMLU by a decade of compute (`isoflop laws
    reproduce`). The paper finds aggregates of many tasks predictable to about 6 points over one
    decade, single tasks to about 18: put that much around a forecast.

    References
    ----------
    Owen 2024, How Predictable Is Language Model Benchmark Performance?, arXiv 2401.04757.
    """

    name: ClassVar[str] = "benchmark"
    title: ClassVar[str] = "benchmark accuracy from compute, a sigmoid above chance"
    reference: ClassVar[str] = "Owen 2024, arXiv 2401.04757, section 3"
    inputs: ClassVar[tuple[str, ...]] = ("compute_flop",)
    output: ClassVar[str] = "accuracy"
    signed: ClassVar[tuple[str, ...]] = ("accuracy",)
    log_residual: ClassVar[bool] = False
    delta: ClassVar[float] = 0.05
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="floor", low=0.0, high=1.0, meaning="chance"),
        Parameter(name="k", low=0.01, high=20.0, meaning="steepness per decade"),
        Parameter(name="m", low=5.0, high=40.0, meaning="decade of half way"),
        Parameter(name="ceiling", low=0.0, high=1.0, meaning="most that compute reaches"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        floor, k, m, ceiling = (theta[..., i, None] for i in range(4))
        z = k * (np.log10(x["compute_flop"]) - m)
        return floor + (ceiling - floor) / (1.0 + np.exp(-z))

    def starts(self, x: Data, y: Array) -> Array:
        """From the lowest score to the highest or to 1, half way within the runs."""
        decades = np.quantile(np.log10(x["compute_flop"]), (0.3, 0.6, 0.9))
        return np.array([
            [float(y.min()), k, m, ceiling]
            for k in (1.0, 3.0) for m in decades for ceiling in (float(y.max()), 1.0)
        ])  # fmt: skip


LAW = Benchmark()
