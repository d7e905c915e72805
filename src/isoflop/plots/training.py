"""Charts of a training plan: where a step's time and a device's memory go, over the step too, the
pipeline, and the Pareto front."""

from __future__ import annotations

from typing import Any

from ..training.report import PlanReport
from ..training.timeline import MemoryTimeline
from . import pipeline
from .chart import altair

ROUNDS = 3
"""Micro-batches per stage that a drawn pipeline has at most."""
PARTS = {
    "weights": "#4c4c6d", "gradients": "#8d6a9f", "optimizer": "#b39cd0", "activations": "#1b6ca8",
    "logits": "#66a61e", "transient": "#d95f02",
}  # fmt: skip


def chart(report: PlanReport) -> Any:
    """Bars of step and memory parts, pipeline, memory over the step, time against memory."""
    alt = altair()
    panels = [alt.hconcat(_steps(alt, report), _memory(alt, report))]
    if report.plan.pipeline > 1:
        panels.append(_pipeline(report))
    panels.append(_over_time(alt, report))
    if report.search is not None and len(report.search.seconds) > 1:
        panels.append(_front(alt, report))
    return alt.vconcat(*panels).resolve_scale(color="independent")


def _steps(alt: Any, report: PlanReport) -> Any:
    rows = report.rows()
    return (
        alt.Chart(alt.Data(values=rows), title=f"Step: {report.step_s:.3g} s", width=280)
        .mark_bar()
        .encode(
            x=alt.X("seconds:Q", title="seconds"),
            y=alt.Y("part:N", sort=[r["part"] for r in rows], title=None),
            tooltip=["part:N", "seconds:Q", "share:Q"],
        )
    )


def _memory(alt: Any, report: PlanReport) -> Any:
    rows = [{"part": k, "gib": v / 2**30} for k, v in report.memory.items() if v > 0]
    bars = (
        alt.Chart(alt.Data(values=rows), title="Peak memory of the fullest device", width=280)
        .mark_bar()
        .encode(x=alt.X("gib:Q", title="GiB"), y=alt.Y("part:N", sort="-x", title=None))
    )
    return bars + _limit(alt, report, "x")


def _limit(alt: Any, report: PlanReport, axis: str) -> Any:
    """The usable memory as a dashed line across one axis."""
    data = alt.Data(values=[{"gib": report.usable_bytes / 2**30}])
    return alt.Chart(data).mark_rule(strokeDash=[4, 3]).encode(**{axis: "gib:Q"})


def _pipeline(report: PlanReport) -> Any:
    whole = int(report.step.micro_batches[0])
    shown = min(whole, ROUNDS * report.plan.pipeline)
    line = report.timeline(most=shown).pipeline
    count = f"{whole}" if shown == whole else f"{shown} of {whole}"
    title = f"Pipeline, {report.plan.schedule}, {count} micro-batches"
    return pipeline.panel(line, title, line.total_s)


def _over_time(alt: Any, report: PlanReport) -> Any:
    line = report.timeline().fullest()
    rows = _stacked(line.thinned(1200))
    areas = (
        alt.Chart(alt.Data(values=rows))
        .mark_area()
        .encode(
            x=alt.X("time:Q", title="seconds"),
            y=alt.Y("low:Q", title="GiB"),
            y2="high:Q",
            color=alt.Color("part:N", title=None, scale=alt.Scale(
                domain=list(PARTS), range=list(PARTS.values()))),
        )
        .properties(
            width=640, height=220,
            title=f"Memory over the step, stage {line.stage}: peak "
            f"{line.peak_bytes / 2**30:.3g} GiB at {line.peak_s:.3g} s",
        )
    )  # fmt: skip
    return areas + _limit(alt, report, "y")


def _stacked(line: MemoryTimeline) -> list[dict[str, Any]]:
    """Lower and upper edge of every part at every point."""
    rows: list[dict[str, Any]] = []
    low = 0.0 * line.times_s
    for name in PARTS:
        high = low + line.parts[name] / 2**30
        rows += [
            {"part": name, "time": float(t), "low": float(a), "high": float(b)}
            for t, a, b in zip(line.times_s, low, high, strict=True)
        ]
        low = high
    return rows


def _front(alt: Any, report: PlanReport) -> Any:
    found = report.search
    assert found is not None
    points = [
        {"seconds": float(found.seconds[i]), "gib": float(found.memory_bytes[i]) / 2**30,
         "plan": found.plans.at(int(i)).describe()}
        for i in found.pareto()
    ]  # fmt: skip
    return (
        alt.Chart(alt.Data(values=points), title="Plans no other beats in time and memory",
                  width=640, height=200)
        .mark_line(point=True)
        .encode(
            x=alt.X("gib:Q", title="GiB per device", scale=alt.Scale(zero=False)),
            y=alt.Y("seconds:Q", title="seconds per step", scale=alt.Scale(zero=False)),
            tooltip=["plan:N", "seconds:Q", "gib:Q"],
        )
    )  # fmt: skip
