"""Loss added by quantising after training."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class PostTrainingBits(Law):
    """delta L = C D^g_D / N^g_N exp(-P / g_P): more training data make it worse.



    References
    ----------
    Kumar et al. 2024, arXiv 2411.04330, equation 2.
    """

    name: ClassVar[str] = "post-training-bits"
    title: ClassVar[str] = "loss added by quantising after training"
    reference: ClassVar[str] = "Kumar et al. 2024, arXiv 2411.04330, equation 2"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "bits_weight")
    output: ClassVar[str] = "loss_added"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="C", low=1e-9, high=1e9, log=True, meaning="scale"),
        Parameter(name="g_D", low=0.0, high=3.0, meaning="exponent of tokens"),
        Parameter(name="g_N", low=0.0, high=3.0, meaning="exponent of size"),
        Parameter(name="g_P", low=1e-2, high=1e2, log=True, meaning="bits"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        c_, g_d_, g_n_, g_p_ = (theta[..., i, None] for i in range(4))
        scale = c_ * x["tokens"] ** g_d_ * x["params"] ** -g_n_
        return scale * np.exp(-x["bits_weight"] / g_p_)


LAW = PostTrainingBits()
