"""Several instances on one device: what each one's steps cost while the others run too.

Each instance alternates between kernels and host time. While one waits for its host, the others
use the device, so k instances overlap host time with kernels; and kernels too small to fill the
device run side by side. What cannot overlap is the work itself: at full load a round of k steps
takes at least k times the *busy* time of one step, its bytes and FLOP at the rates a saturated
device reaches. So a step of an instance among k takes

    max(own step alone, k x busy time of one step)
"""

from __future__ import annotations

import numpy as np
from attrs import evolve

from ..cost.features import Array, Batch
from .steptimes import StepTimes

SATURATED = 0.92
"""Share of the roofline that a device full of kernels reaches: what the largest measured GEMM and
stream kernels of the calibrated devices reach of their datasheet rates."""


def shared(times: StepTimes, instances: int) -> StepTimes:
    """Step times of one of `instances` equal instances on the same device, all of them busy."""
    step, t = times.step, times.tables
    local = 1.0 / (step.plan.data * step.plan.pipeline)
    b = np.arange(times.max_sequences + 1, dtype=float)
    middle = t.context[len(t.context) // 2]
    low = step.ideal_s(Batch(decode_sequences=b * local, decode_context=0.0)) / SATURATED
    high = step.ideal_s(Batch(decode_sequences=b * local, decode_context=middle)) / SATURATED
    slope = (high - low) / middle
    busy_attention = slope[:, None] * t.context[None, :]
    alone = t.decode[:, None] + t.attention
    together = instances * (low[:, None] + busy_attention)
    decode, attention = _split(np.maximum(alone, together))
    tokens = np.arange(len(t.mixed), dtype=float)
    work = step.ideal_s(Batch(prefill_sequences=1.0, prefill_tokens=np.maximum(tokens, 1.0)))
    mixed = np.maximum(t.mixed, instances * work / SATURATED)
    mixed[0] = 0.0
    return evolve(times, tables=t._replace(decode=decode, attention=attention, mixed=mixed,
                                           prompt=instances * t.prompt))  # fmt: skip


def _split(total: Array) -> tuple[Array, Array]:
    """A table of step times as a base per batch and an attention part per batch and context."""
    base = total[:, 0].copy()
    base[0] = 0.0
    return base, total - total[:, :1]
