"""Perplexity with algorithms that improve every year."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class Progress(Law):
    """log loss terms that shrink with size, data and date.

    ln ppl = exp(a - a_Y t - a_N ln(N/N_0)) + exp(b - b_Y t - b_D ln(D/D_0)), t years after 2012;
    here N and D are relative to the data set's smallest.

    References
    ----------
    Ho et al. 2024, Algorithmic Progress in Language Models, arXiv 2403.05812, model 7.
    """

    name: ClassVar[str] = "progress"
    title: ClassVar[str] = "perplexity with algorithms that improve every year"
    reference: ClassVar[str] = "Ho et al. 2024, arXiv 2403.05812, model 7"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "years")
    output: ClassVar[str] = "log_perplexity"
    signed: ClassVar[tuple[str, ...]] = ("years",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=-10.0, high=10.0, meaning="size offset"),
        Parameter(name="a_Y", low=-1.0, high=1.0, meaning="yearly gain of size"),
        Parameter(name="a_N", low=-1.0, high=1.0, meaning="exponent of size"),
        Parameter(name="b", low=-10.0, high=10.0, meaning="data offset"),
        Parameter(name="b_Y", low=-1.0, high=1.0, meaning="yearly gain of data"),
        Parameter(name="b_D", low=-1.0, high=1.0, meaning="exponent of data"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, a_y_, a_n_, b, b_y_, b_d_ = (theta[..., i, None] for i in range(6))
        t = x["years"]
        size = np.exp(a - a_y_ * t - a_n_ * np.log(x["params"]))
        return size + np.exp(b - b_y_ * t - b_d_ * np.log(x["tokens"]))

    @staticmethod
    def doubling_years(constants: dict[str, float]) -> float:
        """Years in which algorithms double effective compute: 1/T = 1/T_N + 1/T_D.

        T_N = a_N / a_Y ln 2 for effective parameters, T_D = b_D / b_Y ln 2 for effective data
        (Ho et al. 2024, section 3.1).
        """
        size = constants["a_N"] / constants["a_Y"] * np.log(2.0)
        data = constants["b_D"] / constants["b_Y"] * np.log(2.0)
        return float(1.0 / (1.0 / size + 1.0 / data))


LAW = Progress()
