"""Seconds that stages of a pipeline wait for each other's activations and gradients.

Borders between stages lie inside nodes or across them. The fill of a pipeline passes every border
once. In the steady state of 1F1B a cycle of the schedule that spans k borders passes each of them
twice and takes k + 1 micro-batches, so a micro-batch waits for the largest of 2 x (sum of the
cycle's borders) / (k + 1): one slow border among fast ones costs its own time once per
micro-batch, a run of equal ones up to twice that.
"""

from __future__ import annotations

import numpy as np

from ..cost.features import Array
from .calibration import TrainingCalibration
from .compute import Network
from .placement import by_placement
from .plan import Plans
from .rings import LAUNCH_S

TRANSFER_REST = 0.25
"""Share of interleaved stage transfers that waits; estimate."""


def transfer_s(
    plans: Plans, net: Network, cal: TrainingCalibration, size: Array, micro_batches: Array
) -> Array:  # fmt: skip
    """Exposed seconds of a step, forward and back.

    Parameters
    ----------
    size : array
        Bytes that a device sends for one micro-batch over one border.
    """

    p, v = plans.pipeline, plans.virtual
    # Interleaved schedules send ahead of need; only the fill of the pipeline waits.
    turns = np.where(v > 1, TRANSFER_REST * micro_batches * v, micro_batches)
    inner = size / (net.inner_bytes_per_s * cal.scale_up) + net.inner_latency_s + LAUNCH_S
    outer = size / (net.outer_bytes_per_s * cal.network) + net.outer_latency_s + LAUNCH_S
    stride = plans.tensor * plans.context

    def over(near: bool) -> Array:
        if not near:
            # Borders count as one kind, as they did when the factors of families were fitted.
            each = np.where(stride * plans.data * 2 <= net.node, inner, outer)
            return 2.0 * (turns + p - 1.0) * each
        across = crossing(p, v, np.maximum(net.node // stride, 1))
        mean = across * outer + (1.0 - across) * inner
        alone = np.where((across > 0) & (v == 1), 0.5 * outer, 0.0)
        return 2.0 * (turns * np.maximum(mean, alone) + (p - 1.0) * mean)

    return np.where(p > 1, by_placement(plans, over), 0.0)


def crossing(stages: Array, chunks: Array, near: Array) -> Array:
    """Share of the borders between stages that leave a node holding `near` stages.

    With several chunks the last stage sends to the first one too.
    """
    nodes = -(-stages // near)
    ring = (chunks > 1).astype(int)
    return (nodes - 1 + ring * (nodes > 1)) / np.maximum(stages - 1 + ring, 1)
