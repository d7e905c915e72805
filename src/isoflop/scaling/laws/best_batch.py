"""Batch size in tokens from training tokens."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class BestBatch(Law):
    """B = c D^a.



    References
    ----------
    Li et al. 2025, Predictable Scale: Step Law, arXiv 2503.04715, equation 2.
    """

    name: ClassVar[str] = "best-batch"
    title: ClassVar[str] = "batch size in tokens from training tokens"
    reference: ClassVar[str] = "Li et al. 2025, arXiv 2503.04715, equation 2"
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    output: ClassVar[str] = "batch_tokens"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="c", low=1e-9, high=1e9, log=True, meaning="scale"),
        Parameter(name="a", low=-3.0, high=3.0, meaning="exponent of tokens"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        c, a = (theta[..., i, None] for i in range(2))
        return c * x["tokens"] ** a


LAW = BestBatch()
