"""What the plans of one search have in common: equal operators, and their seconds.

Plans of a model differ in a few operators only: a narrower cache changes attention, an expert
degree the experts. A search that prices every plan by itself pays for the same products over and
over; plans that hold one `Shared` pay once. Nothing is approximated: a row is reused where
operator and batch are equal, and is what pricing it again would give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field

from .features import Array, Batch
from .operators.base import Operator

if TYPE_CHECKING:
    from ..hardware import Accelerator, Cluster

KINDS = ("gemm", "moe", "collective")
"""Kinds whose seconds follow from operator and batch on a device. Attention depends on the plan's
cache format besides, and elementwise kernels cost less to price than to look up."""


@define(kw_only=True, eq=False)
class Shared:
    """Operators and their seconds, for plans on one device and one network.

    Attributes
    ----------
    device : Accelerator
    cluster : Cluster or None
    """

    device: Accelerator
    cluster: Cluster | None = None
    _operators: dict[Any, list[Operator]] = field(factory=dict, init=False)
    _timers: dict[Any, Any] = field(factory=dict, init=False)
    _rows: dict[Any, tuple[Operator, Array]] = field(factory=dict, init=False)

    def holds_for(self, device: Accelerator, cluster: Cluster | None) -> bool:
        """Whether it was made for this very device and network."""
        return device is self.device and cluster is self.cluster

    def one_each(self, operators: Sequence[Operator], tensor: int) -> list[Operator]:
        """The operators, those of `KINDS` equal to ones seen at this degree the same objects."""
        return [self._one(op, tensor) if op.kind in KINDS else op for op in operators]

    def _one(self, op: Operator, tensor: int) -> Operator:
        known = self._operators.setdefault((op.name, tensor), [])
        for other in known:
            if other == op:
                return other
        known.append(op)
        return op

    def timer(self, key: Any, make: Callable[[], Any]) -> Any:
        """The timer of `key`, made once: plans of equal cache format need one between them."""
        if key not in self._timers:
            self._timers[key] = make()
        return self._timers[key]

    def seconds(
        self, settings: Any, ops: Sequence[Operator], batch: Batch,
        price: Callable[[Sequence[Operator], Batch], Array],
    ) -> Array:  # fmt: skip
        """Rows of `price`, those of operators from `one_each` priced once per batch.

        `settings` is what else the seconds depend on.
        """
        if not any(op.kind in KINDS for op in ops):
            return price(ops, batch)
        context = (settings, batch.content)
        keys = [(id(op), context) if op.kind in KINDS else None for op in ops]
        left = [i for i, key in enumerate(keys) if key is None or key not in self._rows]
        out = np.empty((len(ops), *batch.shape))
        if left:
            out[left] = price([ops[i] for i in left], batch)
        fresh = set(left)
        for i, key in enumerate(keys):
            if i not in fresh:
                out[i] = self._rows[key][1]
            elif key is not None:
                self._rows[key] = ops[i], out[i]  # holding the operator keeps its id its own
        return out
