"""Intervals: how far a predicted step time may be from a measured one.

Errors of one kernel model are shared by all launches of that kind in a step, errors of different
kinds are not. With t_k the seconds of kind k and s_k the standard deviation of log(measured /
predicted) of its kernel model on held-out shapes, the step's variance is

    s^2 = s_engine^2 + sum_k (t_k / t)^2 s_k^2

A device without measurements of its own adds the spread seen when a device is left out of the fit,
one of a family without any, in kernels or in engines, `FAR_SIGMA` besides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from ..provenance import Label
from .engines import Engine
from .features import Array
from .operators.base import Operator
from .sparse import is_sparse
from .timing import KernelTimer

Z90 = 1.6449
"""Standard normal quantile at 95%, the half-width of a 90% interval."""

FAR_SIGMA = 0.2
"""Further spread of whole steps on a family of which neither kernels nor engines were measured:
with it, 95% of 80 published figures of AMD Instinct and Intel Gaudi lie within their intervals,
without it 82%."""


@frozen(kw_only=True, eq=False)
class Interval:
    """A predicted time with its 90% interval.

    Attributes
    ----------
    seconds, low_s, high_s : array
    label : str
    """

    seconds: Array
    low_s: Array
    high_s: Array
    label: Label


def step_sigma(
    operators: Sequence[Operator], times: Array, overhead: Array, timer: KernelTimer, engine: Engine
) -> Array:
    """Standard deviation of log(measured / predicted) of whole steps."""
    total = times.sum(axis=0) + overhead
    far = not timer.own_family and timer.device.family not in engine.kernel_scale
    variance = np.full(np.shape(total), engine.sigma**2 + far * FAR_SIGMA**2)
    kinds = ["sparse" if is_sparse(op) else op.kind for op in operators]
    for kind in dict.fromkeys(kinds):  # in order, so that the sum is the same in every run
        rows = [i for i, k in enumerate(kinds) if k == kind]
        share = times[rows].sum(axis=0) / np.maximum(total, 1e-30)
        variance = variance + (share * timer.sigma(kind)) ** 2
    return np.sqrt(variance)


def step_interval(
    operators: Sequence[Operator], times: Array, overhead: Array, timer: KernelTimer,
    engine: Engine, ideal: Array, measured: bool = False,
) -> Interval:  # fmt: skip
    """A step's time with its interval and label; no bound lies below the hardware limit.

    `measured`: the engine's own spread of whole steps holds, this being the setup it was found on.
    """
    total = engine.scale(timer.device.family) * times.sum(axis=0) + overhead
    sigma = step_sigma(operators, times, overhead, timer, engine)
    spread = np.exp(Z90 * (np.full(sigma.shape, engine.measured_sigma) if measured else sigma))
    return Interval(
        seconds=total, low_s=np.clip(total / spread, np.minimum(ideal, total), None),
        high_s=total * spread, label=timer.label(operators),
    )  # fmt: skip
