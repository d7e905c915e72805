"""Loss from parameters and tokens, one power of a sum."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class KaplanJoint(Law):
    """L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D.



    References
    ----------
    Kaplan et al. 2020, arXiv 2001.08361, equation 1.5.
    """

    name: ClassVar[str] = "kaplan-joint"
    title: ClassVar[str] = "loss from parameters and tokens, one power of a sum"
    reference: ClassVar[str] = "Kaplan et al. 2020, arXiv 2001.08361, equation 1.5"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="N_c", low=1e3, high=1e25, log=True, meaning="parameter scale"),
        Parameter(name="D_c", low=1e3, high=1e25, log=True, meaning="token scale"),
        Parameter(name="alpha_N", low=1e-3, high=3.0, meaning="exponent of parameters"),
        Parameter(name="alpha_D", low=1e-3, high=3.0, meaning="exponent of tokens"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        n_c_, d_c_, alpha_n_, alpha_d_ = (theta[..., i, None] for i in range(4))
        inner = (n_c_ / x["params"]) ** (alpha_n_ / alpha_d_) + d_c_ / x["tokens"]
        return inner**alpha_d_


LAW = KaplanJoint()
