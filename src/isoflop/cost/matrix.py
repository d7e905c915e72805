"""The heart: a forward pass as a matrix.

`StepMatrix` holds one row per operator and one column per batch feature for each resource
(FLOP, bytes read, bytes written, bytes sent). The cost of a step is the matrix times phi; its
ideal time is the roofline of each row. Nothing here knows about efficiencies: with every rate at
its peak the result is an admissible lower bound, which searches prune with.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from .features import Array, Batch
from .operators.base import CollectiveShape, Operator

RESOURCES = ("flop", "read", "written", "sent")


@frozen(kw_only=True, eq=False)
class StepMatrix:
    """Coefficients of one compiled (model, plan).

    Attributes
    ----------
    operators : tuple of Operator
        Row order.
    features : tuple of str
        Column order.
    flop, read, written, sent : array of shape (operators, features)
        Per step and rank, repeat counts included.
    count : array of shape (operators,)
        Launches per step.
    """

    operators: tuple[Operator, ...]
    features: tuple[str, ...]
    flop: Array
    read: Array
    written: Array
    sent: Array
    count: Array

    @classmethod
    def compile(cls, operators: list[Operator]) -> StepMatrix:
        """Stack the operators' coefficient rows."""
        names = sorted({k for op in operators for r in RESOURCES for k in getattr(op, r)})
        column = {name: i for i, name in enumerate(names)}
        arrays = {r: np.zeros((len(operators), len(names))) for r in RESOURCES}
        for i, op in enumerate(operators):
            for r in RESOURCES:
                for name, value in getattr(op, r).items():
                    arrays[r][i, column[name]] = value * op.count
        return cls(
            operators=tuple(operators), features=tuple(names),
            count=np.array([op.count for op in operators]), **arrays,
        )  # fmt: skip

    def phi(self, batch: Batch) -> Array:
        """Feature vectors, shape (features, *batch.shape)."""
        return np.stack([batch.feature(name) for name in self.features])

    def cost(self, batch: Batch) -> dict[str, Array]:
        """FLOP and bytes by operator, each of shape (operators, *batch.shape)."""
        phi = self.phi(batch)
        return {r: np.tensordot(getattr(self, r), phi, axes=1) for r in RESOURCES}

    def total(self, resource: str, batch: Batch) -> Array:
        """One resource summed over operators: (column sums) . phi, without the rows."""
        return np.tensordot(getattr(self, resource).sum(axis=0), self.phi(batch), axes=1)


@frozen(kw_only=True, eq=False)
class Peaks:
    """Peak rates of each row of a matrix on one device: what efficiency 1 means.

    Attributes
    ----------
    flop_per_s : array of shape (operators,)
        Dense rate of the row's operand format; the vector rate for elementwise rows.
    bandwidth_bytes_per_s : float
    link_bytes_per_s : array of shape (operators,)
        Per direction, of the tier that joins the row's ranks.
    """

    flop_per_s: Array
    bandwidth_bytes_per_s: float
    link_bytes_per_s: Array


def bus_factor(op: Operator) -> float:
    """Bytes each rank must put on its link per byte of payload, whatever the algorithm.

    All-reduce 2 (p-1)/p, all-gather and reduce-scatter (p-1)/p of the full tensor, all-to-all
    (p-1)/p of what the rank holds, a transfer 1 (Thakur, Rabenseifner and Gropp 2005).
    """
    shape = op.shape
    if not isinstance(shape, CollectiveShape):
        return 0.0
    p = shape.ranks
    share = (p - 1) / p
    return {"all_reduce": 2 * share, "send_recv": 1.0}.get(shape.pattern, share)


def roofline_s(matrix: StepMatrix, peaks: Peaks, batch: Batch) -> dict[str, Array]:
    """Ideal seconds of each row by resource: keys compute, memory, network.

    The step can never be faster than the sum over rows of the largest of the three.
    """
    cost = matrix.cost(batch)
    extra = (np.newaxis,) * len(batch.shape)
    moved = (cost["read"] + cost["written"]) / peaks.bandwidth_bytes_per_s
    factors = np.array([bus_factor(op) for op in matrix.operators])
    return {
        "compute": cost["flop"] / peaks.flop_per_s[(..., *extra)],
        "memory": moved,
        "network": cost["sent"] * (factors / peaks.link_bytes_per_s)[(..., *extra)],
    }
