"""What leaves the device for its host's memory and drives: bytes, and seconds that outlast compute.

Optimizer state, shards of the weights with their gradients, and activations. With weights away
every rank fetches its own shard of a layer over its own link and the ranks gather it, so that links
and drives of all nodes work at once; fetching runs ahead of the layer before it, forward and
backward, and only what outlasts compute and gathering is exposed.

References
----------
Rajbhandari et al. 2021, ZeRO-Infinity: Breaking the GPU Memory Wall for Extreme Scale Deep
Learning, arXiv 2104.07857 (partitioning by bandwidth, overlap).
Ren et al. 2021, ZeRO-Offload, arXiv 2101.06840 (the optimizer on the CPU).
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..cost.features import Array
from ..hardware import Accelerator, Cluster, Host
from ..units import show_bytes
from .activations import away_bytes
from .memory import (
    gradients_leave,
    micro_batches,
    stage_layers,
    stage_parameters,
    usable_host_bytes,
)
from .plan import OFFLOAD, Plans, Recipe, TrainingJob
from .stages import in_flight_at

CPU, NVME = (OFFLOAD.index(k) for k in OFFLOAD[1:])
WEIGHT_BYTES = 2.0
HOST_LINK_SHARE = 0.8
"""Share of the host link's rate that copies reach; estimate."""
HOST_BUFFERS = 2.0
"""Layers that pass through host memory at once on their way to drives or back: one and the next."""
NVME_SHARE = 0.9
"""Share of a node's drives that a run may fill."""
PART_NAMES = {"optimizer": "optimizer state", "buffers": "buffers of what passes through"}
DEFAULT_NVME_BYTES = 3.84e12
DEFAULT_NVME_BYTES_PER_S = 25e9
"""Drives per device and the rate of a node's, where the catalog names none; estimates."""


def owned_parameters(plans: Plans, dense: Array, experts: Array, from_stage: int) -> Array:
    """Parameters of a device's own shard, of state that ZeRO splits from a stage on."""
    ranks = plans.shard.astype(float)
    group = plans.expert * plans.expert_tensor
    owners = np.maximum(ranks * plans.tensor / group, 1.0)
    split = plans.zero >= from_stage
    return dense / np.where(split, ranks, 1.0) + experts / np.where(split, owners, 1.0)


def away_parts(
    job: TrainingJob, recipe: Recipe, plans: Plans
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Bytes that one device of the fullest stage keeps in host memory, and on drives, by part.

    The CPU's optimizer has its gradients beside its state. Activations always wait in memory.
    """
    layers = stage_layers(job, recipe, plans)
    dense, experts = stage_parameters(job, recipe, plans)
    state = owned_parameters(plans, dense, experts, 1) * (not recipe.adapters)
    weights = owned_parameters(plans, dense, experts, 3) * WEIGHT_BYTES
    flying = in_flight_at(plans, micro_batches(job, plans), np.zeros_like(plans.pipeline))
    on_cpu, on_nvme = recipe.offload == "cpu", recipe.offload == "nvme"
    passing = np.where(plans.offload_weights == NVME, weights, 0.0)
    passing = passing + state * (recipe.state_bytes + recipe.gradient_bytes) * on_nvme
    gone, waiting = plans.offload_weights > 0, gradients_leave(recipe, plans)
    host = {
        "optimizer": state * recipe.state_bytes * on_cpu,
        "weights": np.where(plans.offload_weights == CPU, weights, 0.0),
        "gradients": state * recipe.gradient_bytes * (on_cpu | (waiting & ~gone)),
        "activations": flying * away_bytes(job, recipe, plans, layers),
        "buffers": HOST_BUFFERS * passing / layers,
    }
    drives = {
        "optimizer": state * recipe.state_bytes * on_nvme,
        "weights": np.where(plans.offload_weights == NVME, weights, 0.0),
        "gradients": np.where(gone, state * recipe.gradient_bytes * on_nvme, 0.0),
    }
    return host, drives


def host_bytes(job: TrainingJob, recipe: Recipe, plans: Plans) -> Array:
    """Bytes that one device of the fullest stage keeps in host memory."""
    return np.sum(list(away_parts(job, recipe, plans)[0].values()), axis=0)


def fits_away(job: TrainingJob, recipe: Recipe, plans: Plans, cluster: Cluster | None) -> Array:
    """Whether host memory and drives hold what plans keep there."""
    host, drives = (np.sum(list(p.values()), axis=0) for p in away_parts(job, recipe, plans))
    return (host <= usable_host_bytes(cluster)) & (drives <= usable_nvme_bytes(cluster))


@frozen(kw_only=True)
class Shortage:
    """A place away from the device that does not hold what a plan keeps there."""

    place: str
    part: str
    needed_bytes: float
    available_bytes: float

    @property
    def sentence(self) -> str:
        """What is needed, what is there, and what takes most."""
        return (
            f"keeps {show_bytes(self.needed_bytes)} per device {self.place}, which has "
            f"{show_bytes(self.available_bytes)} for each, most of it {self.part}"
        )


def shortage(
    job: TrainingJob, recipe: Recipe, plans: Plans, cluster: Cluster | None
) -> Shortage | None:
    """The first of host memory and drives that is too small for one plan; None where both do."""
    rooms = (
        ("in host memory", usable_host_bytes(cluster)),
        ("on drives", usable_nvme_bytes(cluster)),
    )
    for (place, room), parts in zip(rooms, away_parts(job, recipe, plans), strict=True):
        needed = {PART_NAMES.get(k, k): float(v[0]) for k, v in parts.items()}
        total = sum(needed.values())
        if total > room:
            return Shortage(place=place, part=max(needed, key=lambda k: needed[k]),
                            needed_bytes=total, available_bytes=room)  # fmt: skip
    return None


def least_away_bytes(job: TrainingJob, recipe: Recipe, plans: Plans) -> tuple[Array, Array]:
    """Bytes in host memory and on drives that no ZeRO stage takes a layout below: state alone."""
    dense, experts = stage_parameters(job, recipe, plans)
    ranks = (plans.data * plans.context).astype(float)
    owners = np.maximum(ranks * plans.tensor / (plans.expert * plans.expert_tensor), 1.0)
    state = (dense / ranks + experts / owners) * recipe.state_bytes * (not recipe.adapters)
    return state * (recipe.offload == "cpu"), state * (recipe.offload == "nvme")


def usable_nvme_bytes(cluster: Cluster | None) -> float:
    """What a device's process may fill of its node's drives."""
    if cluster is None or cluster.host is None or not cluster.host.nvme_bytes:
        return NVME_SHARE * DEFAULT_NVME_BYTES
    return NVME_SHARE * cluster.host.nvme_bytes / cluster.devices_per_node


def sharing(cluster: Cluster | None, node: int) -> int:
    """Devices that share a host: of the cluster's node, or of `node` where none is named."""
    return cluster.devices_per_node if cluster else node


def host_link_bytes_per_s(device: Accelerator, cluster: Cluster | None) -> float:
    """Bytes per second and direction between a device and host memory while its neighbours copy.

    Its own link, its share of what links the node's devices to memory together, or of memory.
    """
    rate = device.links.host_bytes_per_s
    host = cluster.host if cluster else None
    if cluster is not None and host is not None:
        together = host.link_bytes_per_s or np.inf
        rate = min(
            rate, min(together, host.memory_bandwidth_bytes_per_s) / cluster.devices_per_node
        )
    return HOST_LINK_SHARE * rate


def drive_rates(host: Host | None) -> tuple[float, float]:
    """Bytes per second that a node's drives read and write."""
    read = (host.nvme_read_bytes_per_s if host else 0.0) or DEFAULT_NVME_BYTES_PER_S
    write = (host.nvme_write_bytes_per_s if host else 0.0) or DEFAULT_NVME_BYTES_PER_S
    return read, write


@frozen(kw_only=True)
class LayerTraffic:
    """Bytes that one device moves for an average layer and one micro-batch.

    Attributes
    ----------
    forward_in, forward_out, backward_in, backward_out : array
        Over the host link, by direction.
    forward_read, backward_read, backward_write : array
        Of drives.
    """

    forward_in: Array
    forward_out: Array
    backward_in: Array
    backward_out: Array
    forward_read: Array
    backward_read: Array
    backward_write: Array


def layer_traffic(job: TrainingJob, recipe: Recipe, plans: Plans) -> LayerTraffic:
    """What a layer's passes move: weights in twice, gradients out, activations out and in.

    Gradients of several micro-batches are added where they are: drives read what they have first.
    Where weights stay, gradients wait in host memory.
    """
    layers = stage_layers(job, recipe, plans)
    gone = plans.offload_weights > 0
    leaving = (gone | gradients_leave(recipe, plans)) & (not recipe.adapters)
    held = stage_parameters(job, recipe, plans)
    weights = np.where(gone, WEIGHT_BYTES * owned_parameters(plans, *held, 3) / layers, 0.0)
    reduced = recipe.gradient_bytes * owned_parameters(plans, *held, 2) / layers
    gradients = np.where(leaving, reduced, 0.0)
    stored = np.where(plans.offload_weights == NVME, weights, 0.0)
    kept = np.where(gone, gradients, 0.0) * (recipe.offload == "nvme")
    again = kept * (1.0 - 1.0 / micro_batches(job, plans))
    activations = away_bytes(job, recipe, plans, layers) / layers
    return LayerTraffic(
        forward_in=weights, forward_out=activations, backward_in=weights + activations,
        backward_out=gradients, forward_read=stored, backward_read=stored + again,
        backward_write=kept,
    )  # fmt: skip


def moving_s(
    traffic: LayerTraffic, device: Accelerator, cluster: Cluster | None, node: int
) -> tuple[Array, Array]:
    """Seconds that a layer's traffic takes forward and backward; link and drives work at once."""
    link = host_link_bytes_per_s(device, cluster)
    read, write = (r / sharing(cluster, node) for r in drive_rates(cluster and cluster.host))
    t = traffic
    forward = np.maximum(t.forward_in, t.forward_out) / link
    backward = np.maximum(t.backward_in, t.backward_out) / link
    return (
        np.maximum(forward, t.forward_read / read),
        np.maximum(backward, t.backward_read / read + t.backward_write / write),
    )


def outlasting_s(
    job: TrainingJob, recipe: Recipe, plans: Plans, device: Accelerator, cluster: Cluster | None,
    node: int, passes: tuple[Array, Array], gathers: tuple[Array, Array],
) -> tuple[Array, Array]:  # fmt: skip
    """Seconds per average layer that traffic with the host outlasts its passes.

    Activations leave and come back ahead of need. Weights come for the layers after the one being
    gathered, so what gathering exposes hides them too, unless nothing of ZeRO-3's traffic runs
    beside compute.

    Parameters
    ----------
    node : int
        Devices that share a host where no cluster says so.
    passes, gathers : (array, array)
        Seconds of a layer forward and backward, and what gathering weights adds to them.
    """
    gone = plans.offload_weights > 0
    leaving = gradients_leave(recipe, plans)
    if not np.any(plans.offload_layers) and not np.any(gone | leaving):
        return np.zeros(len(plans)), np.zeros(len(plans))
    moving = moving_s(layer_traffic(job, recipe, plans), device, cluster, node)
    serial = gone & (not (recipe.overlap_data and recipe.look_ahead))
    beside = (np.where(serial, 0.0, s + np.where(gone, g, 0.0))
              for s, g in zip(passes, gathers, strict=True))  # fmt: skip
    forward, backward = (np.maximum(m - s, 0.0) for m, s in zip(moving, beside, strict=True))
    return forward, backward
