"""Seconds of ring collectives over ranks that lie inside nodes or across them."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..cost.features import Array
from .calibration import TrainingCalibration
from .compute import Network

LAUNCH_S = 6e-6
"""Start-up of one collective of a library such as NCCL, between streams; estimate."""


@frozen(kw_only=True)
class Rings:
    """Rings on the two tiers of a fleet's network, at the shares of its links a family reaches."""

    net: Network
    cal: TrainingCalibration

    def inside(self, ranks: Array, stride: Array) -> Array:
        """Members of a ring that share a node."""
        return np.clip(self.net.node // np.maximum(stride, 1), 1, np.maximum(ranks, 1))

    def link(self, ranks: Array, stride: Array) -> tuple[Array, Array]:
        """Bytes per second and latency of a ring over `ranks` spaced `stride` devices apart.

        A ring that leaves the node enters and leaves it through as many adapters as it has
        members there.
        """
        n, c = self.net, self.cal
        inside = self.inside(ranks, stride)
        local = ranks * stride <= n.node
        across = np.minimum(
            inside * n.outer_bytes_per_s * c.network, n.inner_bytes_per_s * c.scale_up
        )
        speed = np.where(local, n.inner_bytes_per_s * c.scale_up, across)
        return speed, np.where(local, n.inner_latency_s, n.outer_latency_s)

    def ring(
        self, payload: Array, ranks: Array, stride: Array, rounds: float = 1.0, pieces: float = 1.0
    ) -> Array:
        """Seconds of `rounds` all-gathers or reduce-scatters of `payload` bytes in full.

        Each is a ring: a hop per rank, most of them inside nodes, in `pieces` of equal size.
        """
        speed, latency = self.link(ranks, stride)
        nodes = ranks / self.inside(ranks, stride)
        hops = nodes * latency + (ranks - nodes) * self.net.inner_latency_s
        # Small messages do not fill the channels of a library.
        moved = (payload + self.cal.ramp) * (ranks - 1.0) / ranks / speed
        return np.where(ranks > 1, rounds * (moved + pieces * (hops + LAUNCH_S)), 0.0)
