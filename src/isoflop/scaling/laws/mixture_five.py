"""Loss on one domain from the shares of five."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter
from .mixture import mixture_loss, mixture_parameters, shares


@final
class MixtureFive(Law):
    """L = c + k exp(t_1 r_1 + ... + t_5 r_5), for five domains.

    References
    ----------
    Ye et al. 2024, Data Mixing Laws, arXiv 2403.16952, equation 7.
    """

    name: ClassVar[str] = "mixture-five"
    title: ClassVar[str] = "loss on one domain from the shares of five"
    reference: ClassVar[str] = "Ye et al. 2024, arXiv 2403.16952, equation 7"
    inputs: ClassVar[tuple[str, ...]] = shares(5)
    signed: ClassVar[tuple[str, ...]] = shares(5)
    parameters: ClassVar[tuple[Parameter, ...]] = mixture_parameters(5)

    def predict(self, theta: Array, x: Data) -> Array:
        return mixture_loss(theta, x, 5)


LAW = MixtureFive()
