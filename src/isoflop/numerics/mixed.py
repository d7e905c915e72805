"""Several formats over one checkpoint: totals, the undominated ones, a format per layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ..errors import InvalidInput
from .allocation import allocate, pareto
from .report import QuantizationReport, Sums, measures

Runs = Sequence[Sequence[QuantizationReport]]
"""runs[format][file]."""


def total_of(reports: Sequence[QuantizationReport]) -> Sums:
    """Sums over the layers of several files."""
    return sum((report.total for report in reports), Sums())


def totals(names: Sequence[str], runs: Runs) -> list[dict[str, Any]]:
    """One record per format, saying which no other format beats in both bytes and output error."""
    sums = [total_of(reports) for reports in runs]
    front = set(pareto([(s.storage_bytes, s.relative_output_rmse) for s in sums]))
    return [
        {"format": name, **measures(s), "undominated": i in front}
        for i, (name, s) in enumerate(zip(names, sums))
    ]


@frozen(kw_only=True)
class Choice:
    """A format per layer.

    Attributes
    ----------
    formats : dict
        Layer name -> format name.
    error : float
        Sum over layers of the squared relative output error.
    """

    formats: dict[str, str]
    error: float
    storage_bytes: int
    bits_per_weight: float

    @property
    def counts(self) -> dict[str, int]:
        """Layers per format, most used first."""
        used = list(self.formats.values())
        return dict(sorted(((n, used.count(n)) for n in set(used)), key=lambda p: (-p[1], p[0])))

    def row(self) -> dict[str, Any]:
        """A plain record."""
        return {
            "formats": dict(self.formats), "error": self.error,
            "storage_bytes": self.storage_bytes, "bits_per_weight": self.bits_per_weight,
        }  # fmt: skip


def choose(
    names: Sequence[str],
    runs: Runs,
    *,
    budget_bytes: float | None = None,
    bits_per_weight: float | None = None,
) -> Choice:
    """The format of each layer with the least summed squared relative output error in a budget.

    Raises
    ------
    DoesNotFit, InvalidInput
    """
    layers = [[layer for report in reports for layer in report.layers] for reports in runs]
    count = sum(layer.sums.count for layer in layers[0])
    if bits_per_weight is not None:
        if not bits_per_weight > 0:
            raise InvalidInput(f"The budget is {bits_per_weight} bits per weight; give more.")
        allowed = bits_per_weight * count / 8
        budget_bytes = allowed if budget_bytes is None else min(budget_bytes, allowed)
    if budget_bytes is None:
        raise InvalidInput("A budget in bytes or bits per weight is needed.")
    errors = np.array([[x.sums.relative_output_rmse**2 for x in of] for of in layers]).T
    sizes = np.array([[x.sums.storage_bytes for x in of] for of in layers]).T
    best = allocate(errors, sizes, budget_bytes)
    return Choice(
        formats={layer.name: names[c] for layer, c in zip(layers[0], best.choice)},
        error=best.error, storage_bytes=best.storage_bytes,
        bits_per_weight=8 * best.storage_bytes / count,
    )  # fmt: skip
