"""A power law that bends towards chance."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class SmoothPower(Law):
    """(e - e_inf) / (e_0 - e)^alpha = beta x^c, solved for e.



    References
    ----------
    Alabdulmohsin et al. 2022, Revisiting Neural Scaling Laws in Language and Vision,
    arXiv 2209.06640, estimator M4; here with alpha = 1, where it has a closed form.
    """

    name: ClassVar[str] = "smooth-power"
    title: ClassVar[str] = "a power law that bends towards chance"
    reference: ClassVar[str] = "Alabdulmohsin et al. 2022, arXiv 2209.06640, M4"
    inputs: ClassVar[tuple[str, ...]] = ("samples",)
    output: ClassVar[str] = "error"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="e_inf", low=0.0, high=10.0, meaning="floor"),
        Parameter(name="e_0", low=0.0, high=20.0, meaning="value without data"),
        Parameter(name="beta", low=1e-9, high=1e12, log=True, meaning="scale"),
        Parameter(name="c", low=-3.0, high=0.0, meaning="exponent"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        e_inf, e_0, beta, c = (theta[..., i, None] for i in range(4))
        ratio = beta * x["samples"] ** c
        return (e_inf + ratio * e_0) / (1.0 + ratio)


LAW = SmoothPower()
