"""Error over epochs of two pools of filtered data, mixed."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


def mixed_error(a: Array, b: Array, tau: Array, d: Array, size: Array, epochs: Array) -> Array:
    """Error after some passes over a union of pools.

    Parameters
    ----------
    a, d : array (..., 1)
        Scale and floor.
    b, tau : array (pools, ..., 1)
        Utility of each pool's fresh data (below zero) and the passes that halve it. In a mixture of
        p pools each is seen 1/p as often, so its half-life counts p times.
    size : array
        Samples of the union, in units of 100,000.
    epochs : array
        Passes over it; may be fractional.
    """
    pools = len(b)
    size, epochs = np.broadcast_arrays(size, epochs)
    total = b.mean(axis=0) * np.log(size * np.minimum(epochs, 1.0))
    for k in range(2, int(np.ceil(np.max(epochs))) + 1):
        worn = (b * 0.5 ** ((k - 1) / (pools * tau))).mean(axis=0)
        total = total + worn * np.log(np.clip(epochs, k - 1, k) / (k - 1))
    return a * np.exp(total) + d


@final
class MixedQuality(Law):
    """y = a n^b over passes of two pools mixed, each pool's utility halved every 2 tau passes.

    The mixture's utility in a pass is the mean of the pools'; n counts samples of the union in
    units of 100,000.

    References
    ----------
    Goyal et al. 2024, Scaling Laws for Data Filtering: Data Curation cannot be Compute Agnostic,
    arXiv 2404.07177, section 4 (mixing data pools).
    """

    name: ClassVar[str] = "mixed-quality"
    title: ClassVar[str] = "error over epochs of two pools of filtered data, mixed"
    reference: ClassVar[str] = "Goyal et al. 2024, arXiv 2404.07177, theorem 1"
    inputs: ClassVar[tuple[str, ...]] = ("pool", "epochs")
    output: ClassVar[str] = "error"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=1e-6, high=1e6, log=True, meaning="scale"),
        Parameter(name="b_1", low=-3.0, high=0.0, meaning="utility of the first pool, fresh"),
        Parameter(name="tau_1", low=1e-2, high=1e3, log=True, meaning="passes that halve it"),
        Parameter(name="b_2", low=-3.0, high=0.0, meaning="utility of the second pool, fresh"),
        Parameter(name="tau_2", low=1e-2, high=1e3, log=True, meaning="passes that halve it"),
        Parameter(name="d", low=0.0, high=10.0, meaning="floor"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, b_1, tau_1, b_2, tau_2, d = (theta[..., i, None] for i in range(6))
        return mixed_error(a, np.stack([b_1, b_2]), np.stack([tau_1, tau_2]), d, x["pool"],
                           x["epochs"])  # fmt: skip


LAW = MixedQuality()
