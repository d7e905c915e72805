"""Collectives: alpha-beta models of what libraries run, by pattern, size and network tier.

With p ranks, payload m bytes (the full tensor) and link bandwidth B per direction (Thakur,
Rabenseifner and Gropp 2005):

    all-reduce      ring or two-shot  a + 2 (p-1)/p m / B       one-shot  a + (p-1) m / B
    all-gather, reduce-scatter        a +   (p-1)/p m / B
    all-to-all                        a +   (p-1)/p m / B       m is what one rank holds
    in-switch all-reduce              a + m / B (1 + 1/p)       the switch adds on the way

Libraries choose between a low-latency protocol, which spends half of the link on flags, and a
bulk protocol with a larger start-up; the minimum of the two is taken.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from attrs import evolve, frozen
from numpy.typing import ArrayLike

from ..errors import InvalidInput
from ..hardware import Accelerator, Cluster, Tier
from .features import Array

Pattern = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]

NETWORK_EFFICIENCY = 0.85
"""Share of a network adapter's rate that bulk collectives reach between nodes."""


@frozen(kw_only=True)
class CollectiveParameters:
    """Fitted parameters of one library on one kind of link.

    Attributes
    ----------
    fixed : float
        Seconds of an empty collective of two ranks.
    hop : float
        More of it per doubling of the ranks.
    low_latency : float
        Share of the link that the low-latency protocol moves payload at.
    bulk_fixed : float
        Extra start-up of the bulk protocol.
    bulk : float
        Share of the link that the bulk protocol reaches.
    crowding : float
        Loss of link speed per rank beyond two where links are shared (PCIe trees).
    one_shot : bool
        Whether small all-reduces read every peer at once.
    """

    fixed: float
    hop: float
    low_latency: float
    bulk_fixed: float
    bulk: float
    crowding: float = 0.0
    one_shot: bool = False


def link_bytes(pattern: Pattern, ranks: int, in_switch: bool = False) -> float:
    """Bytes each rank puts on its link per byte of payload under the bandwidth-optimal form."""
    share = (ranks - 1) / ranks
    if pattern == "all_reduce":
        return 1.0 + 1.0 / ranks if in_switch else 2.0 * share
    return 1.0 if pattern == "send_recv" else share


def over_host(p: CollectiveParameters, ranks: int) -> CollectiveParameters:
    """Parameters of a library measured over direct links, where cards meet over the host instead.

    Two cards reach each other directly; more of them stage their data in host memory, over one
    path that all share, so that each has a `ranks`-th of the host link.
    """
    if ranks <= 2:
        return p
    return evolve(p, crowding=max(p.crowding, (ranks - 1.0) / (ranks - 2.0)))


def collective_time_s(
    p: CollectiveParameters,
    pattern: Pattern,
    payload_bytes: ArrayLike,
    ranks: int,
    *,
    link_bytes_per_s: float,
    in_switch: bool = False,
    latency_s: float = 0.0,
) -> Array:
    """Seconds of one collective; zero for one rank or nothing to send.

    Parameters
    ----------
    payload_bytes : array
        Bytes of the full tensor (all-reduce, all-gather, reduce-scatter), of what one rank holds
        (all-to-all) or of the message (send).
    link_bytes_per_s : float
        Per direction and device.
    latency_s : float
        One-way latency of the tier, added once per hop.

    Raises
    ------
    InvalidInput
        If ranks is below one.
    """
    if ranks < 1:
        raise InvalidInput(f"A collective of {ranks} ranks is not one; at least 1 is needed.")
    m = np.asarray(payload_bytes, float)
    if ranks == 1:
        return np.zeros(m.shape)
    doublings = np.log2(ranks) - 1.0
    start = p.fixed + p.hop * doublings + latency_s * (doublings + 1.0)
    link = link_bytes_per_s / (1.0 + p.crowding * (ranks - 2))
    moved = m * link_bytes(pattern, ranks, in_switch)
    quick = start + moved / (link * p.low_latency)
    if p.one_shot and pattern == "all_reduce":
        quick = np.minimum(quick + p.hop, start + m * (ranks - 1) / (link * p.low_latency))
    bulk = start + p.bulk_fixed + moved / (link * p.bulk)
    return np.where(m > 0, np.minimum(quick, bulk), 0.0)


def hierarchical_time_s(
    inner: CollectiveParameters, outer: CollectiveParameters, payload_bytes: ArrayLike, ranks: int,
    per_node: int, *, inner_tier: Tier, outer_tier: Tier,
) -> Array:  # fmt: skip
    """Seconds of an all-reduce over nodes: scattered within, reduced across, gathered within.

    Each of the `per_node` devices of a node reduces its share of the payload with its peers in
    the other nodes, so the slow links carry payload / per_node each.

    Parameters
    ----------
    inner, outer : CollectiveParameters
        Of the links within and between nodes.
    ranks : int
        A multiple of `per_node`.
    """
    m = np.asarray(payload_bytes, float)
    near, wait = inner_tier.link_bytes_per_s, inner_tier.latency_s
    scatter = collective_time_s(inner, "reduce_scatter", m, per_node, link_bytes_per_s=near,
                                latency_s=wait)  # fmt: skip
    gather = collective_time_s(inner, "all_gather", m, per_node, link_bytes_per_s=near,
                               latency_s=wait)  # fmt: skip
    across = collective_time_s(
        outer, "all_reduce", m / per_node, ranks // per_node,
        link_bytes_per_s=outer_tier.link_bytes_per_s, latency_s=outer_tier.latency_s,
        in_switch=outer_tier.in_switch_reduction,
    )  # fmt: skip
    return scatter + across + gather


def exchange_time_s(
    library: CollectiveParameters, payload_bytes: ArrayLike, copies: float, ranks: int,
    per_node: int, *, inner_tier: Tier, outer_tier: Tier,
) -> Array:  # fmt: skip
    """Seconds of an expert exchange over nodes: a token leaves once per node, then fans out.

    A token whose k copies are spread over g nodes visits (g - 1)(1 - (1 - 1/g)^k) others on
    average (DeepSeek-V3, section 3.2.2).

    Parameters
    ----------
    payload_bytes : array
        All copies of one rank's tokens.
    copies : float
        Ranks each token goes to.
    """
    m = np.asarray(payload_bytes, float)
    nodes = ranks / per_node
    visited = (nodes - 1.0) * (1.0 - (1.0 - 1.0 / nodes) ** copies)
    # An all-to-all keeps 1/g of its payload at home; `visited` counts what leaves.
    across = m / copies * visited * nodes / (nodes - 1.0)
    first = collective_time_s(
        library, "all_to_all", across, max(2, round(nodes)),
        link_bytes_per_s=outer_tier.link_bytes_per_s, latency_s=outer_tier.latency_s,
    )  # fmt: skip
    return first + collective_time_s(
        library, "all_to_all", m, per_node, link_bytes_per_s=inner_tier.link_bytes_per_s,
        latency_s=inner_tier.latency_s,
    )  # fmt: skip


def tier_for(device: Accelerator, cluster: Cluster | None, ranks: int) -> Tier:
    """The innermost tier that joins `ranks` devices.

    Without a cluster the device's own scale-up link is used up to its usual domain, and an
    InfiniBand-class network of 50 GB/s per device beyond.
    """
    if cluster is not None and cluster.tiers:
        for tier in cluster.tiers:
            if ranks <= tier.devices:
                return tier
        return cluster.tiers[-1]
    links = device.links
    if links.scale_up_bytes_per_s > 0 and ranks <= max(links.scale_up_domain, 1):
        return Tier(
            name=links.scale_up_name or "scale-up", devices=links.scale_up_domain,
            link_bytes_per_s=links.scale_up_bytes_per_s, latency_s=0.0, source=links.source,
            in_switch_reduction=device.family in ("hopper", "blackwell", "rubin"),
        )  # fmt: skip
    # Bridges join pairs of cards; a larger group in one server meets over PCIe.
    bridged = links.scale_up_domain == 2
    if (links.scale_up_bytes_per_s <= 0 or bridged) and ranks <= 8:
        return Tier(
            name=links.host_name, devices=8, link_bytes_per_s=links.host_bytes_per_s,
            latency_s=0.0, source=links.source,
        )  # fmt: skip
    return Tier(
        name="network", devices=10**6, link_bytes_per_s=50e9, latency_s=5e-6, source="estimate",
        note="400 Gbit/s per device, the usual rail-optimised cluster",
    )  # fmt: skip
