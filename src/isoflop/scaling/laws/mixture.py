"""Loss on one domain from the mixture's shares."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


def shares(count: int) -> tuple[str, ...]:
    """Input names of a mixture's domains."""
    return tuple(f"share_{i}" for i in range(1, count + 1))


def mixture_parameters(count: int) -> tuple[Parameter, ...]:
    """Floor, scale and one effect per domain."""
    return (
        Parameter(name="c", low=0.0, high=20.0, meaning="floor"),
        Parameter(name="k", low=1e-9, high=1e6, log=True, meaning="scale"),
        *(Parameter(name=f"t_{i}", low=-20.0, high=20.0, meaning=f"effect of domain {i}")
          for i in range(1, count + 1)),
    )  # fmt: skip


def mixture_loss(theta: Array, x: Data, count: int) -> Array:
    """c + k exp(sum of t_i r_i)."""
    total = sum(theta[..., 2 + i, None] * x[name] for i, name in enumerate(shares(count)))
    return theta[..., 0, None] + theta[..., 1, None] * np.exp(total)


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
    inputs: ClassVar[tuple[str, ...]] = shares(3)
    signed: ClassVar[tuple[str, ...]] = shares(3)
    parameters: ClassVar[tuple[Parameter, ...]] = mixture_parameters(3)

    def predict(self, theta: Array, x: Data) -> Array:
        return mixture_loss(theta, x, 3)


LAW = Mixture()
