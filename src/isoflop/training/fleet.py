"""What a training step sees of its fleet: the two tiers of its network, and its clocks."""

from __future__ import annotations

from ..cost.collectives import tier_for
from ..cost.sustained import JOULES_PER_FLOP
from ..hardware import Accelerator, Cluster
from .calibration import TrainingCalibration
from .compute import Network


def network_of(device: Accelerator, cluster: Cluster | None, count: int) -> Network:
    """The two tiers training collectives see."""
    if cluster is None:
        node = min(max(device.links.scale_up_domain, 1), 8)
        node = max(node, 8 if count > 1 else 1)
    else:  # a workstation of one device has no network
        node = cluster.tiers[0].devices if cluster.tiers else cluster.devices_per_node
    inner = tier_for(device, cluster, min(node, max(count, 2)))
    outer = tier_for(device, cluster, max(node + 1, count))
    return Network(
        node=node, inner_bytes_per_s=inner.link_bytes_per_s,
        outer_bytes_per_s=outer.link_bytes_per_s,
        inner_latency_s=max(inner.latency_s, 1e-6), outer_latency_s=max(outer.latency_s, 3e-6),
        in_switch=inner.in_switch_reduction,
    )  # fmt: skip


def slow_clock(device: Accelerator, calibration: TrainingCalibration) -> float:
    """Factor on compute time of a board whose power limit is low for its rate; at least 1.

    Only for families whose kernel models do not know their power yet.
    """
    if device.family in JOULES_PER_FLOP:
        return 1.0
    rates = device.rates.dense_flop_per_s
    rate = rates.get("bf16") or rates.get("fp16") or max(rates.values())
    wanted = calibration.watts_per_flop_per_s * rate
    if wanted <= 0 or device.power.board_watts <= 0:
        return 1.0
    return max(1.0, wanted / device.power.board_watts) ** calibration.power_exponent
