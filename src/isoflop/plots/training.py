"""Charts of a training plan: where a step's time and a device's memory go, and the Pareto front."""

from __future__ import annotations

from typing import Any

from ..training.report import PlanReport
from .chart import altair


def chart(report: PlanReport) -> Any:
    """Bars of step parts and memory parts, and time against memory of the plans searched."""
    alt = altair()
    time = [r | {"part": r["part"]} for r in report.rows()]
    memory = [{"part": k, "gib": v / 2**30} for k, v in report.memory.items() if v > 0]
    order = [r["part"] for r in time]
    steps = (
        alt.Chart(alt.Data(values=time), title=f"Step: {report.step_s:.3g} s", width=420)
        .mark_bar()
        .encode(
            x=alt.X("seconds:Q", title="seconds"),
            y=alt.Y("part:N", sort=order, title=None),
            tooltip=["part:N", "seconds:Q", "share:Q"],
        )
    )
    bars = (
        alt.Chart(alt.Data(values=memory), title="Memory of the fullest device", width=420)
        .mark_bar()
        .encode(x=alt.X("gib:Q", title="GiB"), y=alt.Y("part:N", sort="-x", title=None))
    )
    limit = (
        alt.Chart(alt.Data(values=[{"gib": report.usable_bytes / 2**30}]))
        .mark_rule(strokeDash=[4, 3])
        .encode(x="gib:Q")
    )
    panels = [steps, bars + limit]
    if report.search is not None and len(report.search.seconds) > 1:
        panels.append(_front(alt, report))
    return alt.vconcat(*panels)


def _front(alt: Any, report: PlanReport) -> Any:
    found = report.search
    assert found is not None
    points = [
        {"seconds": float(found.seconds[i]), "gib": float(found.memory_bytes[i]) / 2**30,
         "plan": found.plans.at(int(i)).describe()}
        for i in found.pareto()
    ]  # fmt: skip
    return (
        alt.Chart(alt.Data(values=points), title="Plans no other beats in both", width=420)
        .mark_line(point=True)
        .encode(
            x=alt.X("gib:Q", title="GiB per device", scale=alt.Scale(zero=False)),
            y=alt.Y("seconds:Q", title="seconds per step", scale=alt.Scale(zero=False)),
            tooltip=["plan:N", "seconds:Q", "gib:Q"],
        )
    )
