"""Benchmark accuracy from compute, a sigmoid above chance."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class Benchmark(Law):
    """acc = floor + (1 - floor) / (1 + exp(-k (log10 C - m))).

    Single tasks miss it by about 18 points over one decade, aggregates by about 6.

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
    )

    def predict(self, theta: Array, x: Data) -> Array:
        floor, k, m = (theta[..., i, None] for i in range(3))
        z = k * (np.log10(x["compute_flop"]) - m)
        return floor + (1.0 - floor) / (1.0 + np.exp(-z))


LAW = Benchmark()
