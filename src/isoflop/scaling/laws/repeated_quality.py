"""Error over epochs of filtered data that wears out."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class RepeatedQuality(Law):
    """y after k passes: a n^b, each further pass with utility b halved every tau passes.

    n counts samples of the pool in units of 100,000; `epochs` may be fractional.

    References
    ----------
    Goyal et al. 2024, Scaling Laws for Data Filtering: Data Curation cannot be Compute Agnostic,
    arXiv 2404.07177, section 4.
    """

    name: ClassVar[str] = "repeated-quality"
    title: ClassVar[str] = "error over epochs of filtered data that wears out"
    reference: ClassVar[str] = "Goyal et al. 2024, arXiv 2404.07177, equation 3"
    inputs: ClassVar[tuple[str, ...]] = ("pool", "epochs")
    output: ClassVar[str] = "error"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=1e-6, high=1e6, log=True, meaning="scale"),
        Parameter(name="b", low=-3.0, high=0.0, meaning="utility of fresh data"),
        Parameter(
            name="tau",
            low=1e-2,
            high=1e3,
            log=True,
            meaning="passes that halve the utility",
        ),
        Parameter(name="d", low=0.0, high=10.0, meaning="floor"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, b, tau, d = (theta[..., i, None] for i in range(4))
        size, epochs = np.broadcast_arrays(x["pool"], x["epochs"])
        total = b * np.log(size * np.minimum(epochs, 1.0))
        for k in range(2, int(np.ceil(np.max(epochs))) + 1):
            seen = np.clip(epochs, k - 1, k)
            total = total + b * 0.5 ** ((k - 1) / tau) * np.log(seen / (k - 1))
        return a * np.exp(total) + d


LAW = RepeatedQuality()
