"""Loss from tokens alone, a power law."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class PowerTokens(Law):
    """L(D) = (D_c / D)^alpha for large models stopped early.



    References
    ----------
    Kaplan et al. 2020, arXiv 2001.08361, equation 1.2; Hestness et al. 2017, arXiv 1712.00409.
    """

    name: ClassVar[str] = "power-tokens"
    title: ClassVar[str] = "loss from tokens alone, a power law"
    reference: ClassVar[str] = "Kaplan et al. 2020, arXiv 2001.08361, equation 1.2"
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            name="D_c",
            low=1e3,
            high=1e25,
            log=True,
            meaning="tokens at which the loss would be 1",
        ),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        d_c_, alpha = (theta[..., i, None] for i in range(2))
        return (d_c_ / x["tokens"]) ** alpha


LAW = PowerTokens()
