"""Critical batch size from the loss."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class CriticalBatch(Law):
    """B_crit(L) = B_0 / L^(1 / alpha), in tokens.

    Batches below it waste time, above it compute.

    References
    ----------
    Kaplan et al. 2020, arXiv 2001.08361, equation 1.4; McCandlish et al. 2018, arXiv 1812.06162.
    """

    name: ClassVar[str] = "critical-batch"
    title: ClassVar[str] = "critical batch size from the loss"
    reference: ClassVar[str] = "Kaplan et al. 2020, arXiv 2001.08361, equation 1.4"
    inputs: ClassVar[tuple[str, ...]] = ("loss",)
    output: ClassVar[str] = "batch_tokens"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="B_0", low=1, high=1e15, log=True, meaning="tokens at a loss of 1"),
        Parameter(name="alpha", low=1e-3, high=3.0, meaning="exponent"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        b_0_, alpha = (theta[..., i, None] for i in range(2))
        return b_0_ / x["loss"] ** (1.0 / alpha)


LAW = CriticalBatch()
