"""Caches sent from one instance to another."""

from __future__ import annotations

import numpy as np
from attrs import evolve

from ..cost.collectives import tier_for
from ..cost.features import Array
from ..cost.memory import cache_layers
from ..cost.step import StepModel
from ..hardware import Tier


def transfer_s(step: StepModel, prompt: Array, to: StepModel | None = None) -> Array:
    """Seconds to send a prompt's cache from an instance to one like it, or to another kind.

    All ranks send at once over the network tier that joins the instances. Every rank of the
    receiver reads its own shard from the ranks that hold it, so where the degrees differ the
    shards are laid anew on the way: pages keep heads apart, and a shard is whole heads and layers.
    What crosses the receiver's links is what crosses the sender's, spread over as many ranks as
    each has; the slower end decides.

    Parameters
    ----------
    prompt : array
        Tokens in the cache.
    to : StepModel or None
        The receiver; None for an instance like the sender.
    """
    to = to or step
    tokens = np.asarray(prompt, float)
    received = np.zeros(tokens.shape)
    for layer in cache_layers(to.model, to.plan):
        held = np.minimum(tokens, layer.window) if layer.window else tokens
        received = received + layer.layers * (held * layer.token_bytes + layer.sequence_bytes)
    sent = received * (_ranks(to) / _ranks(step))
    ends = (_tier(step, to), sent), (_tier(to, step), received)
    latency_s = max(tier.latency_s for tier, _ in ends)
    return latency_s + np.maximum(*(each / tier.link_bytes_per_s for tier, each in ends))


def _ranks(step: StepModel) -> int:
    """Ranks that hold one sequence's cache together."""
    return step.plan.devices // step.plan.data


def _tier(step: StepModel, other: StepModel) -> Tier:
    """What an instance reaches the other over; devices of another kind are in another node."""
    device, cluster = step.device, step.cluster
    if (device.id, cluster) == (other.device.id, other.cluster):
        return tier_for(device, cluster, step.plan.devices + other.plan.devices)
    node = cluster.devices_per_node if cluster else max(device.links.scale_up_domain, 8)
    tier = tier_for(device, cluster, node + 1)
    # Adapters move device memory over the host link.
    slowest = min(tier.link_bytes_per_s, device.links.host_bytes_per_s or np.inf)
    return evolve(tier, link_bytes_per_s=slowest)
