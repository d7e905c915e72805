"""Several instances on one device: what each one's steps cost while the others run too.

Each instance alternates between kernels and host time. While one waits for its host, the others
use the device, so host time and the fixed times of kernels (launch, ramp, drain) of one overlap
with the work of another. The work itself does not: a round of one step from each of k instances
takes at least k times the work of one. So a step of an instance among k busy ones takes

    max(own step alone, k x (own step - host time - fixed kernel times))

which is what Mind the Memory Gap (arXiv 2503.08311) observes: replicas on one device pay as long
as a step leaves the device idle part of the time.
"""

from __future__ import annotations

import numpy as np
from attrs import evolve

from .steptimes import StepTimes


def shared(times: StepTimes, instances: int) -> StepTimes:
    """Step times of one of `instances` equal instances on the same device, all of them busy."""
    t = times.tables
    idle = idle_s(times)
    alone = t.decode[:, None] + t.attention
    together = np.maximum(alone, instances * (alone - idle[:, None]))
    decode = together[:, 0].copy()
    decode[0] = 0.0
    work = np.maximum(t.mixed - times.step.launch_s, 0.0)
    mixed = np.maximum(t.mixed, instances * work)
    return evolve(times, tables=t._replace(
        decode=decode, attention=together - together[:, :1], mixed=mixed,
        prompt=instances * t.prompt,
    ))  # fmt: skip


def idle_s(times: StepTimes) -> np.ndarray:
    """Seconds of a decoding step of B sequences that leave the device free, by B."""
    step = times.step
    b = np.arange(times.max_sequences + 1, dtype=float)
    scale = step.engine.scale(step.device.family)
    fixed = scale * (1.0 - step.engine.captured) * step.launch_s
    free = step.engine.overhead_s(b, step.model.depth) + fixed
    return np.minimum(free, 0.5 * (times.tables.decode + times.tables.attention[:, 0]))
