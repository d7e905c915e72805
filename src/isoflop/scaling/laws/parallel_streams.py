"""Loss with parallel streams of one model."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class ParallelStreams(Law):
    """L = (A / (N (k log P + 1)))^alpha + E: P streams are worth log P parameters.



    References
    ----------
    Chen et al. 2025, Parallel Scaling Law for Language Models, arXiv 2505.10475.
    """

    name: ClassVar[str] = "parallel-streams"
    title: ClassVar[str] = "loss with parallel streams of one model"
    reference: ClassVar[str] = "Chen et al. 2025, arXiv 2505.10475, equation 5"
    inputs: ClassVar[tuple[str, ...]] = ("params", "streams")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="A", low=1e-3, high=1e15, log=True, meaning="size scale"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent"),
        Parameter(name="k", low=0.0, high=10.0, meaning="worth of a stream"),
        Parameter(name="E", low=0.0, high=10.0, meaning="floor"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a_, alpha, k, e_ = (theta[..., i, None] for i in range(4))
        return (a_ / (x["params"] * (k * np.log(x["streams"]) + 1.0))) ** alpha + e_


LAW = ParallelStreams()
