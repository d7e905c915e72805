"""Coverage from the number of samples."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class RepeatedSampling(Law):
    """c = exp(a k^b) with a < 0 and b < 0: problems solved by at least one of k samples.



    References
    ----------
    Brown et al. 2024, Large Language Monkeys, arXiv 2407.21787, equation 2.
    """

    name: ClassVar[str] = "repeated-sampling"
    title: ClassVar[str] = "coverage from the number of samples"
    reference: ClassVar[str] = "Brown et al. 2024, arXiv 2407.21787, equation 2"
    inputs: ClassVar[tuple[str, ...]] = ("samples",)
    output: ClassVar[str] = "coverage"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=-50.0, high=0.0, meaning="log coverage of one sample"),
        Parameter(name="b", low=-3.0, high=0.0, meaning="exponent"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, b = (theta[..., i, None] for i in range(2))
        return np.exp(a * x["samples"] ** b)


LAW = RepeatedSampling()
