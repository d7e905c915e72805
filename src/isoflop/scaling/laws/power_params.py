"""Loss from parameters alone, a power law."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class PowerParams(Law):
    """L(N) = (N_c / N)^alpha, data and compute unlimited.

    N counts parameters without embeddings.

    References
    ----------
    Kaplan et al. 2020, Scaling Laws for Neural Language Models, arXiv 2001.08361, equation 1.1.
    """

    name: ClassVar[str] = "power-params"
    title: ClassVar[str] = "loss from parameters alone, a power law"
    reference: ClassVar[str] = "Kaplan et al. 2020, arXiv 2001.08361, equation 1.1"
    inputs: ClassVar[tuple[str, ...]] = ("params",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            name="N_c",
            low=1e3,
            high=1e25,
            log=True,
            meaning="parameters at which the loss would be 1",
        ),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        n_c_, alpha = (theta[..., i, None] for i in range(2))
        return (n_c_ / x["params"]) ** alpha


LAW = PowerParams()
