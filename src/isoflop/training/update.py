"""Seconds of what closes a step: compressing gradients and the optimizer's passes over parameters.

Both are memory traffic, in device memory or, offloaded, in the host's memory, its link and drives.
"""

from __future__ import annotations

import numpy as np
from attrs import evolve

from ..cost.features import Array
from ..hardware import Accelerator, Cluster
from .offload import NVME, WEIGHT_BYTES, drive_rates, owned_parameters, sharing
from .plan import OFFLOAD, Plans, Recipe

OPTIMIZER_PASSES_BYTES = 10.0
"""Bytes per parameter besides state read and written: gradient read twice (norm, update) in fp32
and 16-bit weights written."""
OPTIMIZER_BANDWIDTH_SHARE = 0.85
"""Share of memory bandwidth that elementwise passes over parameters reach; estimate."""
CPU_ADAM_SHARE = 0.5
"""Share of host memory bandwidth an optimizer on the CPU reaches; estimate."""
DEFAULT_HOST_BYTES_PER_S = 400e9
"""A two-socket server's memory, where the catalog names no host."""


LEARNED_FEATURES, LEARNED_WIDTH = 39, 32
"""Inputs and width of the per-parameter network of a learned rule (Metz et al. 2022)."""
VECTOR_SHARE = 0.3
"""Share of the vector rate that small networks reach; estimate."""


def perceptron_flop(features: int, hidden: int, layers: int) -> float:
    """FLOP per parameter of a network of `layers` hidden layers with two outputs, and features.

    Features are normalised over the tensor: ten operations each.
    """
    return 2.0 * (features * hidden + (layers - 1) * hidden * hidden + 2 * hidden) + 10.0 * features


def compression_s(
    recipe: Recipe, plans: Plans, device: Accelerator, micro_batches: Array, values: Array
) -> Array:
    """Seconds to compress and decompress `values` local gradients as often as they travel."""
    traffic = recipe.gradient_exchange.traffic_bytes
    each = (plans.zero == 2) | ((plans.zero == 3) & (plans.pipeline == 1))
    ranks = plans.data * plans.context
    moved = traffic * values * np.where(each, micro_batches, 1.0) * (ranks > 1)
    return moved / (OPTIMIZER_BANDWIDTH_SHARE * device.memory.bandwidth_bytes_per_s)


def optimizer_s(
    recipe: Recipe, plans: Plans, held: tuple[Array, Array], device: Accelerator,
    cluster: Cluster | None, node: int,
) -> Array:  # fmt: skip
    """Seconds to read gradient, state and master weights, write them and the 16-bit weights.

    Parameters
    ----------
    held : (array, array)
        Dense and expert parameters on one device.
    node : int
        Devices that share a host where no cluster says so.
    """
    dense, experts = held
    if recipe.adapters:
        return np.zeros(len(plans))
    owned = owned_parameters(plans, dense, experts, 1)
    moved = 2.0 * recipe.state_bytes + OPTIMIZER_PASSES_BYTES
    if recipe.optimizer == "learned":
        moved += 4.0 * LEARNED_FEATURES
    if recipe.offload == "none":
        time = owned * moved / (OPTIMIZER_BANDWIDTH_SHARE * device.memory.bandwidth_bytes_per_s)
        if recipe.optimizer != "learned":
            return time
        flop = perceptron_flop(LEARNED_FEATURES, LEARNED_WIDTH, 2)
        rate = VECTOR_SHARE * device.rates.vector_flop_per_s
        return np.maximum(time, owned * flop / rate)
    host = cluster.host if cluster else None
    memory = host.memory_bandwidth_bytes_per_s if host else DEFAULT_HOST_BYTES_PER_S
    # With weights away gradients left layer by layer, and the new weights are where they belong.
    away = plans.offload_weights > 0
    crossing = owned * (recipe.gradient_bytes + WEIGHT_BYTES) / device.links.host_bytes_per_s
    together = owned * sharing(cluster, node)
    cpu = together * moved / (memory * CPU_ADAM_SHARE)
    time = np.maximum(np.where(away, 0.0, crossing), cpu)
    read, write = drive_rates(host)
    kept = recipe.state_bytes * (recipe.offload == "nvme")
    reading = kept + np.where(away, recipe.gradient_bytes * (recipe.offload == "nvme"), 0.0)
    writing = kept + np.where(plans.offload_weights == NVME, WEIGHT_BYTES, 0.0)
    return np.maximum(time, together * (reading / read + writing / write))


def least_optimizer_s(
    recipe: Recipe, plans: Plans, held: tuple[Array, Array], device: Accelerator,
    cluster: Cluster | None, node: int,
) -> Array:  # fmt: skip
    """Seconds that no place for the weights takes the optimizer below.

    On the device, weights and gradients cross the link around the update; away from it, gradients
    may have to be read from drives. Drives for the weights only add to that.
    """
    here = optimizer_s(recipe, plans, held, device, cluster, node)
    if recipe.offload_weights == "none":
        return here
    away = evolve(plans, offload_weights=np.full_like(plans.zero, OFFLOAD.index("cpu")))
    return np.minimum(here, optimizer_s(recipe, away, held, device, cluster, node))
