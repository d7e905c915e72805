"""Whether the right plan is chosen: measured plans of one job on one fleet, in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from attrs import field, frozen

from ..cost.features import Array
from .case import Prediction
from .training_rows import TrainingQuestion

SAME_RATIO = 1e-3
"""Measured values closer than this are a tie, which no order can get wrong."""


@frozen(kw_only=True, eq=False)
class RankedPlans:
    """Plans of one source, model, recipe, batch, device and device count.

    Attributes
    ----------
    source, model : str
    devices : int
    plans : int
    tau : float
        Kendall's tau over the pairs that were measured apart; a predicted tie counts as nothing.
    pairs : int
        How many such pairs there are.
    regret : float
        Measured time of the plan predicted fastest over the fastest measured, less one.
    names : tuple of str
    measured, predicted : array, shape (plans,)
        Seconds, or their inverse rates.
    """

    source: str
    model: str
    devices: int
    plans: int
    tau: float
    pairs: int
    regret: float
    names: tuple[str, ...] = ()
    measured: Array = field(factory=lambda: np.zeros(0))
    predicted: Array = field(factory=lambda: np.zeros(0))

    def tau_apart(self, ratio: float) -> tuple[float, int]:
        """Kendall's tau over the pairs measured more than `ratio` apart, and their number."""
        return kendall_tau(self.predicted, self.measured, ratio)

    def rows(self) -> list[dict[str, object]]:
        """Plans in measured order, times over the fastest one's, and their predicted place."""
        place = np.argsort(np.argsort(self.predicted, kind="stable"))
        return [
            {"plan": self.names[i], "measured": float(self.measured[i] / self.measured.min()),
             "predicted": float(self.predicted[i] / self.predicted.min()),
             "predicted_place": int(place[i]) + 1}
            for i in np.argsort(self.measured, kind="stable")
        ]  # fmt: skip


def rank_plans(predictions: Sequence[Prediction]) -> list[RankedPlans]:
    """Every group of at least two training rows that differ in nothing but their plan."""
    groups: dict[tuple, list[Prediction]] = defaultdict(list)
    for p in predictions:
        q = p.case.training
        if p.predicted is None or not isinstance(q, TrainingQuestion):
            continue
        if p.case.metric == "training_memory_bytes":
            continue
        model, job, plan = q.job.model, q.job, q.plans[0]
        shape = model.name, model.depth, model.hidden, job.sequence_tokens, job.global_batch
        key = p.case.source, p.case.metric, *shape, q.recipe, q.device.id, plan.devices
        groups[key].append(p)
    found = []
    for key, rows in groups.items():
        slower = 1.0 if key[1] == "step_s" else -1.0
        measured = np.array([p.case.measured for p in rows]) ** slower
        predicted = np.array([p.predicted for p in rows], float) ** slower
        tau, pairs = kendall_tau(predicted, measured)
        if pairs:
            found.append(
                RankedPlans(
                    source=key[0],
                    model=key[2],
                    devices=key[-1],
                    plans=len(rows),
                    tau=tau,
                    pairs=pairs,
                    regret=float(measured[np.argmin(predicted)] / measured.min() - 1),
                    names=tuple(_plan_name(p) for p in rows),
                    measured=measured,
                    predicted=predicted,
                )
            )
    return found


def _plan_name(p: Prediction) -> str:
    q = p.case.training
    return q.plans[0].describe() if isinstance(q, TrainingQuestion) else ""


def kendall_tau(
    predicted: Array, measured: Array, ratio: float = SAME_RATIO
) -> tuple[float, int]:  # fmt: skip
    """Kendall's tau over the pairs measured apart, and their number; 0 of no pair is 0."""
    i, j = np.triu_indices(len(measured), 1)
    apart = np.abs(np.log(measured[i] / measured[j])) > ratio
    i, j = i[apart], j[apart]
    if not len(i):
        return 0.0, 0
    agree = np.sign(predicted[i] - predicted[j]) * np.sign(measured[i] - measured[j])
    return float(agree.mean()), len(i)
