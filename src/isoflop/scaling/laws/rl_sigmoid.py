"""Reward from RL compute, a sigmoid."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class RlSigmoid(Law):
    """R = R_0 + (A - R_0) / (1 + (C_mid / C)^B).



    References
    ----------
    Khatri et al. 2025, The Art of Scaling Reinforcement Learning Compute for LLMs,
    arXiv 2510.13786, equation 1.
    """

    name: ClassVar[str] = "rl-sigmoid"
    title: ClassVar[str] = "reward from RL compute, a sigmoid"
    reference: ClassVar[str] = "Khatri et al. 2025, arXiv 2510.13786, equation 1"
    inputs: ClassVar[tuple[str, ...]] = ("compute_flop",)
    output: ClassVar[str] = "reward"
    signed: ClassVar[tuple[str, ...]] = ("reward",)
    log_residual: ClassVar[bool] = False
    delta: ClassVar[float] = 0.02
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="R_0", low=0.0, high=1.0, meaning="reward before"),
        Parameter(name="A", low=0.0, high=1.0, meaning="ceiling"),
        Parameter(name="C_mid", low=1, high=1e30, log=True, meaning="compute of half way"),
        Parameter(name="B", low=0.05, high=10.0, meaning="steepness"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        r_0_, a_, c_mid_, b_ = (theta[..., i, None] for i in range(4))
        return r_0_ + (a_ - r_0_) / (1.0 + (c_mid_ / x["compute_flop"]) ** b_)


LAW = RlSigmoid()
