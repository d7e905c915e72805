"""Error by source: what a report says, and what the dumb baseline would have said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from .case import Prediction


@frozen(kw_only=True)
class Summary:
    """Predictions grouped by source, metric and role."""

    items: tuple[Prediction, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One record per source, metric and role, then one per metric and role over all sources.

        Percentages are of the measured value; `baseline_mean_abs_pct` is the mean error of one
        constant fitted on the source itself: of the value for serving, of the efficiency (step
        time = model FLOP / (peak x constant)) for training.
        """
        groups: dict[tuple[str, str, str], list[Prediction]] = defaultdict(list)
        for item in self.items:
            c = item.case
            groups[c.source, c.metric, c.role].append(item)
            groups["(all sources)", c.metric, c.role].append(item)
        order = sorted(groups, key=lambda k: (k[0] == "(all sources)", k[1], k[0], k[2]))
        return [_record(*key, groups[key]) for key in order]

    def predictions(self) -> list[dict[str, Any]]:
        """One record per row of the file."""
        return [
            {
                "line": p.case.line, "source": p.case.source, "metric": p.case.metric,
                "measured": p.case.measured, "predicted": p.predicted, "low": p.low,
                "high": p.high, "label": p.label, "role": p.case.role, "reason": p.reason,
            }
            for p in self.items
        ]  # fmt: skip

    def reasons(self) -> list[tuple[str, int]]:
        """Why rows were not priced, most frequent first."""
        return Counter(p.reason for p in self.items if p.predicted is None).most_common()


def summarise(predictions: Sequence[Prediction]) -> Summary:
    """Group predictions for reporting."""
    return Summary(items=tuple(predictions))


def _record(source: str, metric: str, role: str, items: Sequence[Prediction]) -> dict[str, Any]:
    priced = [p for p in items if p.predicted is not None]
    record: dict[str, Any] = {
        "source": source, "metric": metric, "role": role, "rows": len(items),
        "supported": len(priced), "median_abs_pct": None, "mean_abs_pct": None,
        "p90_abs_pct": None, "bias_pct": None, "coverage_90": None, "baseline_mean_abs_pct": None,
    }  # fmt: skip
    if not priced:
        return record
    measured = np.array([p.case.measured for p in priced])
    predicted = np.array([p.predicted for p in priced], float)
    inside = [p.low <= p.case.measured <= p.high for p in priced]  # type: ignore[operator]
    error = 100.0 * (predicted / measured - 1.0)
    naive = np.array([p.naive for p in priced])
    baseline = 100.0 * np.abs(np.median(measured / naive) * naive / measured - 1.0)
    return record | {
        "median_abs_pct": float(np.median(np.abs(error))),
        "mean_abs_pct": float(np.mean(np.abs(error))),
        "p90_abs_pct": float(np.quantile(np.abs(error), 0.9)),
        "bias_pct": float(np.median(error)),
        "coverage_90": float(100.0 * np.mean(inside)),
        "baseline_mean_abs_pct": float(np.mean(baseline)),
    }
