"""Learning rate from parameters and tokens."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class BestLr(Law):
    """lr = c N^a D^b.



    References
    ----------
    Li et al. 2025, Predictable Scale: Step Law, arXiv 2503.04715, equation 1.
    """

    name: ClassVar[str] = "best-lr"
    title: ClassVar[str] = "learning rate from parameters and tokens"
    reference: ClassVar[str] = "Li et al. 2025, arXiv 2503.04715, equation 1"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    output: ClassVar[str] = "lr"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="c", low=1e-9, high=1e9, log=True, meaning="scale"),
        Parameter(name="a", low=-3.0, high=3.0, meaning="exponent of size"),
        Parameter(name="b", low=-3.0, high=3.0, meaning="exponent of tokens"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        c, a, b = (theta[..., i, None] for i in range(3))
        return c * x["params"] ** a * x["tokens"] ** b


LAW = BestLr()
