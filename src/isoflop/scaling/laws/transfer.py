"""Tokens that pre-training is worth on a new distribution."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class Transfer(Law):
    """D_T = k D_F^a N^b: effective data transferred.



    References
    ----------
    Hernandez et al. 2021, Scaling Laws for Transfer, arXiv 2102.01293, equation 1.2.
    """

    name: ClassVar[str] = "transfer"
    title: ClassVar[str] = "tokens that pre-training is worth on a new distribution"
    reference: ClassVar[str] = "Hernandez et al. 2021, arXiv 2102.01293, equation 1.2"
    inputs: ClassVar[tuple[str, ...]] = ("params", "fine_tuning_tokens")
    output: ClassVar[str] = "effective_tokens"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="k", low=1e-9, high=1e12, log=True, meaning="scale"),
        Parameter(name="a", low=0.0, high=3.0, meaning="exponent of fine-tuning data"),
        Parameter(name="b", low=0.0, high=3.0, meaning="exponent of size"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        k, a, b = (theta[..., i, None] for i in range(3))
        return k * x["fine_tuning_tokens"] ** a * x["params"] ** b


LAW = Transfer()
