"""Loss on one domain from the shares of five and the model's size."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter
from .mixture import mixture_loss, mixture_parameters, shares

UNIT = 1e8
"""Parameters in which the size is counted, so that its scale is a loss."""


@final
class MixtureSized(Law):
    """L = c + m (N / 1e8)^-a + k exp(t_1 r_1 + ... + t_5 r_5): size and mixture add up.

    Of four ways to join the two (size scaling the mixture's part, the whole, both, or added) this
    one predicts the largest of four public sizes best from the others. Since the size does not
    touch the mixture's part, the best shares are the same at every size.

    References
    ----------
    Ye et al. 2024, Data Mixing Laws, arXiv 2403.16952, equation 7 for the mixture; their own way to
    other sizes is to fit power laws through the losses of each mixture (section 4).
    """

    name: ClassVar[str] = "mixture-sized"
    title: ClassVar[str] = "loss on one domain from the shares of five and size"
    reference: ClassVar[str] = "Ye et al. 2024, arXiv 2403.16952, equation 7, with a term of size"
    inputs: ClassVar[tuple[str, ...]] = ("params", *shares(5))
    signed: ClassVar[tuple[str, ...]] = shares(5)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *mixture_parameters(5),
        Parameter(name="m", low=1e-6, high=1e3, log=True, meaning="scale of the size term"),
        Parameter(name="a", low=0.0, high=3.0, meaning="exponent of size"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        size = theta[..., 7, None] * (x["params"] / UNIT) ** -theta[..., 8, None]
        return mixture_loss(theta, x, 5) + size

    def starts(self, x: Data, y: Array) -> Array:
        """Half the lowest loss as the floor, mild effects of every domain, a few exponents."""
        rng = np.random.default_rng(0)
        low = float(y.min())
        return np.array([
            [floor * low, 0.4 * low, *rng.normal(-1.0, 0.7, 5), 0.3 * low, a]
            for a in (0.1, 0.3, 0.6) for floor in (0.3, 0.6) for _ in range(6)
        ])  # fmt: skip


LAW = MixtureSized()
