"""Error of one model shape from compute."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class VisionShape(Law):
    """E = a (C + d)^-b + c per patch size; switch shape where the next one falls faster.

    `isoflop laws shapes` finds where from the fits of several shapes.

    References
    ----------
    Anagnostidis et al. 2023, Navigating Scaling Laws: Compute Optimality in Adaptive Model
    Training, arXiv 2311.03233.
    """

    name: ClassVar[str] = "vision-shape"
    title: ClassVar[str] = "error of one model shape from compute"
    reference: ClassVar[str] = "Anagnostidis et al. 2023, arXiv 2311.03233, equation 3"
    inputs: ClassVar[tuple[str, ...]] = ("compute_flop",)
    output: ClassVar[str] = "error"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=1e-9, high=1e12, log=True, meaning="scale"),
        Parameter(name="b", low=0.0, high=3.0, meaning="exponent"),
        Parameter(name="c", low=0.0, high=1.0, meaning="floor"),
        Parameter(name="d", low=1e-6, high=1e30, log=True, meaning="offset of compute"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, b, c, d = (theta[..., i, None] for i in range(4))
        return a * (x["compute_flop"] + d) ** -b + c


LAW = VisionShape()
