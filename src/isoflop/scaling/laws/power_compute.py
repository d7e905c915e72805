"""Loss from compute, a power law over a floor."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class PowerCompute(Law):
    """L(C) = (C_c / C)^alpha + E along the compute-optimal frontier.

    E = 0 is Kaplan et al.; Cerebras-GPT fits a floor.

    References
    ----------
    Kaplan et al. 2020, arXiv 2001.08361, equation 1.3. Dey et al. 2023, Cerebras-GPT,
    arXiv 2304.03208, equation 1.
    """

    name: ClassVar[str] = "power-compute"
    title: ClassVar[str] = "loss from compute, a power law over a floor"
    reference: ClassVar[str] = "Kaplan et al. 2020, equation 1.3; Cerebras-GPT 2023, equation 1"
    inputs: ClassVar[tuple[str, ...]] = ("compute_flop",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            name="C_c",
            low=1e10,
            high=1e40,
            log=True,
            meaning="FLOP at which the power term would be 1",
        ),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent"),
        Parameter(name="E", low=0.0, high=50.0, meaning="floor"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        c_c_, alpha, e_ = (theta[..., i, None] for i in range(3))
        return (c_c_ / x["compute_flop"]) ** alpha + e_


LAW = PowerCompute()
