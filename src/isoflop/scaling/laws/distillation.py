"""Loss of a distilled student."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class Distillation(Law):
    """The student's loss from its size, its tokens and its teacher's loss.

    `loss_alone` is what the student would reach supervised with the same tokens; a teacher much
    better than that no longer helps (capacity gap).

    References
    ----------
    Busbridge et al. 2025, Distillation Scaling Laws, arXiv 2502.08606, equation 8 and table 6.
    """

    name: ClassVar[str] = "distillation"
    title: ClassVar[str] = "loss of a distilled student"
    reference: ClassVar[str] = "Busbridge et al. 2025, arXiv 2502.08606, equation 8"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "loss_teacher", "loss_alone")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="A", low=1e-3, high=1e14, log=True, meaning="size scale"),
        Parameter(name="alpha", low=0.0, high=3.0, meaning="exponent of size"),
        Parameter(name="B", low=1e-3, high=1e14, log=True, meaning="data scale"),
        Parameter(name="beta", low=0.0, high=3.0, meaning="exponent of tokens"),
        Parameter(name="gamma", low=0.05, high=4.0, meaning="outer exponent"),
        Parameter(name="c_0", low=0.0, high=10.0, meaning="exponent of the teacher"),
        Parameter(name="c_1", low=1e-3, high=1e5, log=True, meaning="strength of the capacity gap"),
        Parameter(name="f_1", low=1e-3, high=10, log=True, meaning="width of the gap"),
        Parameter(name="d_1", low=1e-2, high=1e2, log=True, meaning="place of the gap"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a_, alpha, b_, beta, gamma, c_0, c_1, f_1, d_1 = (theta[..., i, None] for i in range(9))
        teacher = x["loss_teacher"]
        gap = (teacher / (x["loss_alone"] * d_1)) ** (1.0 / f_1)
        inner = a_ * x["params"] ** -alpha + b_ * x["tokens"] ** -beta
        return teacher + teacher**-c_0 * (1.0 + gap) ** (-c_1 * f_1) * inner**gamma


LAW = Distillation()
