"""Caches sent from one instance to another."""

from __future__ import annotations

import numpy as np

from ..cost.collectives import tier_for
from ..cost.features import Array
from ..cost.memory import cache_bytes
from ..cost.step import StepModel


def transfer_s(step: StepModel, prompt: Array) -> Array:
    """Seconds to send a prompt's cache between instances, every rank its own share.

    All ranks of an instance send at once over the network tier that joins the instances.
    """
    tier = tier_for(step.device, step.cluster, 2 * step.plan.devices)
    each = cache_bytes(step.model, step.plan, 1.0, 1.0)
    return tier.latency_s + np.asarray(prompt, float) * each / tier.link_bytes_per_s
