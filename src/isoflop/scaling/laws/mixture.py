"""Loss on one domain from the mixture's shares."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class Mixture(Law):
    """L = c + k exp(t_1 r_1 + t_2 r_2 + ...), for three domains.



    References
    ----------
    Ye et al. 2024, Data Mixing Laws, arXiv 2403.16952, equation 7.
    """

    name: ClassVar[str] = "mixture"
    title: ClassVar[str] = "loss on one domain from the mixture's shares"
    reference: ClassVar[str] = "Ye et al. 2024, arXiv 2403.16952, equation 7"
    inputs: ClassVar[tuple[str, ...]] = ("share_1", "share_2", "share_3")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="c", low=0.0, high=20.0, meaning="floor"),
        Parameter(name="k", low=1e-9, high=1e6, log=True, meaning="scale"),
        Parameter(name="t_1", low=-20.0, high=20.0, meaning="effect of domain 1"),
        Parameter(name="t_2", low=-20.0, high=20.0, meaning="effect of domain 2"),
        Parameter(name="t_3", low=-20.0, high=20.0, meaning="effect of domain 3"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        c, k, t_1, t_2, t_3 = (theta[..., i, None] for i in range(5))
        total = t_1 * x["share_1"] + t_2 * x["share_2"] + t_3 * x["share_3"]
        return c + k * np.exp(total)


LAW = Mixture()
