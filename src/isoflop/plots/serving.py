"""Charts of `isoflop simulate` and `isoflop advise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chart import altair
from .scales import log_axis, log_scale

if TYPE_CHECKING:
    from ..cost.features import Array
    from ..cost.step import StepModel
    from ..serving.report import ServingReport
    from ..serving.search import Advice

POINTS = 1500
"""Marks per line: enough for the width of a chart."""


def chart(report: ServingReport) -> Any:
    """Latency distributions; batch, queue, cache and what bounds the first instance over time."""
    from ..serving.loop.records import N_LOG

    alt = altair()
    left = _latencies(report)
    instance = report.instances[0]
    log = instance.state.log[: instance.whole(N_LOG)]
    if not len(log):
        return left
    span = alt.Scale(domain=[float(log[0, 0]), float(log[-1, 0] + log[-1, 1])], nice=False)
    panels = [*_states(log, instance.server.blocks, span), _bounds(instance.server.step, log, span)]
    right = alt.vconcat(*panels, spacing=6)
    return alt.hconcat(left, right).resolve_scale(color="independent")


def _latencies(report: ServingReport) -> Any:
    """Cumulative shares of requests by latency, each curve with its name."""
    import numpy as np

    alt = altair()
    series = {"per output token": report.collected.tpot_s, "first token": report.collected.ttft_s,
              "whole request": report.collected.e2e_s}  # fmt: skip
    curves, ends = [], []
    for name, values in series.items():
        v = np.sort(values[np.isfinite(values)])
        if not len(v):
            continue
        keep = np.unique(np.linspace(0, len(v) - 1, min(len(v), 400)).astype(int))
        curves += [{"what": name, "s": float(v[i]), "share": (i + 1) / len(v)} for i in keep]
        # Labels at different heights, so that none covers another.
        height = 0.8 - 0.3 * len(ends)
        ends.append({"what": name, "s": float(np.quantile(v, height)), "share": height})
    reach = [c["s"] for c in curves]
    colours = alt.Color("what:N", legend=None, scale=alt.Scale(
        domain=list(series), range=["#1b9e77", "#1b6ca8", "#d95f02"]))  # fmt: skip
    x = alt.X("s:Q", scale=log_scale(reach), axis=log_axis(reach, seconds=True), title=None)
    y = alt.Y("share:Q", axis=alt.Axis(format="%"), title="share of requests below")
    return alt.layer(
        alt.Chart(alt.Data(values=curves)).mark_line().encode(x=x, y=y, color=colours),
        alt.Chart(alt.Data(values=ends))
        .mark_text(align="left", dx=6, fontWeight="bold")
        .encode(x=x, y=y, color=colours, text="what:N"),
    ).properties(width=320, height=330, title="Latency")


def _states(log: Array, blocks: int, span: Any) -> list[Any]:
    """Batch, queue and cache over time, one panel each."""
    from ..serving.bounds import with_pauses

    alt = altair()
    seen = with_pauses(log)
    seen = seen[:: max(1, len(seen) // POINTS)]
    panels = []
    for column, name, scale in ((2, "sequences decoding", 1.0), (3, "requests waiting", 1.0),
                                (4, "cache in use, %", 100.0 / blocks)):  # fmt: skip
        values = [{"t": float(r[0]), "n": float(r[column]) * scale} for r in seen]
        top = alt.Scale(domain=[0, max(1.0, *(v["n"] for v in values))])
        panels.append(
            alt.Chart(alt.Data(values=values))
            .mark_area(interpolate="step-after", color="#1b6ca8", opacity=0.6)
            .encode(
                x=alt.X("t:Q", scale=span, title=None, axis=alt.Axis(labels=False)),
                y=alt.Y("n:Q", title=None, axis=alt.Axis(tickCount=3), scale=top),
            )
            .properties(width=380, height=58, title=_left(name))
        )
    return panels


def _bounds(step: StepModel, log: Array, span: Any) -> Any:
    """Shares of time by what bounds it."""
    from ..serving.bounds import over_time

    alt = altair()
    edges, shares = over_time(step, log)
    bars = [
        {"t": float(edges[i]), "u": float(edges[i + 1]), "what": name, "n": float(part[i]),
         "order": order}
        for order, (name, part) in enumerate(shares.items()) for i in range(len(part))
        if part[i] > 1e-4
    ]  # fmt: skip
    whole = alt.Scale(domain=[0, 1])
    colours = alt.Scale(domain=list(BOUND_COLOURS), range=list(BOUND_COLOURS.values()))
    return (
        alt.Chart(alt.Data(values=bars))
        .mark_bar(binSpacing=0)
        .encode(
            x=alt.X("t:Q", scale=span, title="simulated time (s)", bin="binned"),
            x2="u:Q",
            y=alt.Y(
                "n:Q",
                stack=True,
                title=None,
                axis=alt.Axis(format="%", tickCount=3),
                scale=whole,
            ),
            order="order:O",
            color=alt.Color(
                "what:N",
                title=None,
                scale=colours,
                legend=alt.Legend(orient="bottom", columns=5),
            ),
        )
        .properties(width=380, height=58, title=_left("time bound by"))
    )


BOUND_COLOURS = {"compute": "#d95f02", "memory": "#1b6ca8", "network": "#7570b3",
                 "overhead": "#999999", "idle": "#eeeeee"}  # fmt: skip


def _left(text: str) -> Any:
    return altair().TitleParams(
        text, anchor="start", frame="group", fontSize=11, fontWeight="normal", offset=2
    )


def front(found: Advice) -> Any:
    """Price against time per token: every candidate, the front, what was simulated."""
    import math

    alt = altair()
    points = [
        {"usd": c.usd_per_hour, "ms": c.tpot_s * 1e3, "what": "closed form"}
        for c in found.candidates
    ]
    edge = [{"usd": p["usd_per_hour"], "ms": p["tpot_s"] * 1e3} for p in found.pareto()]
    marks = [
        {"usd": f.candidate.usd_per_hour,
         "ms": (f.report.summary["tpot_s"]["mean"] or 0.0) * 1e3,
         "label": f.candidate.short() + (" (chosen)" if f is found.best else "")}
        for f in found.finalists
    ]  # fmt: skip
    marks = [m for m in marks if m["ms"] > 0]
    reach = [p["ms"] for p in (*points, *marks)]
    # Labels of neighbours one below the other: at least 13 of the 320 pixels apart.
    least = 13 / 320 * math.log(max(reach) / min(reach)) if len(reach) > 1 else 0.0
    below = -math.inf
    for m in sorted(marks, key=lambda m: m["ms"]):
        below = max(math.log(m["ms"]), below + least)
        m["label_ms"] = math.exp(below)
    reach += [m["label_ms"] for m in marks]
    x = alt.X("usd:Q", title="price (USD per hour)", scale=alt.Scale(zero=False))
    scale, axis = log_scale(reach), log_axis(reach, short=True)
    y = alt.Y("ms:Q", title="mean time per output token (ms)", scale=scale, axis=axis)
    cloud = alt.Chart(alt.Data(values=points)).mark_point(opacity=0.25, color="#999999").encode(
        x=x, y=y
    )  # fmt: skip
    line = alt.Chart(alt.Data(values=edge)).mark_line(color="#1b6ca8").encode(x=x, y=y)
    spots = alt.Chart(alt.Data(values=marks)).mark_circle(size=80, color="#d95f02", opacity=1)
    text = alt.Chart(alt.Data(values=marks)).mark_text(align="left", dx=8, color="#d95f02")
    return alt.layer(
        cloud, line, spots.encode(x=x, y=y),
        text.encode(x=x, y=alt.Y("label_ms:Q", scale=scale, axis=axis), text="label:N"),
    ).properties(
        width=620, height=320,
        title=alt.TitleParams("Price against time per token",
                              subtitle="grey: closed form, blue: its front, orange: simulated "
                              "on the trace"),
    )  # fmt: skip


def load_curve(rows: list[dict[str, Any]]) -> Any:
    """Latency against load: 99th percentiles by request rate, one line per other setting."""
    alt = altair()
    other = ("max_sequences", "max_tokens", "policy", "plan", "weights", "kv")
    varied = [k for k in other if len({r[k] for r in rows}) > 1]
    points, order = [], []
    for r in rows:
        name = ", ".join(f"{k.replace('_', ' ')} {r[k]}" for k in varied) or "all"
        if name not in order:
            order.append(name)
        for metric, label in (("ttft_s", "first token"), ("tpot_s", "per output token")):
            if r[metric]["p99"] is not None:
                points.append({"rate": r["rate"], "s": r[metric]["p99"], "what": label,
                               "setting": name})  # fmt: skip
    panels = []
    for label in ("first token", "per output token"):
        mine = [p for p in points if p["what"] == label]
        if not mine:
            continue
        reach = [p["s"] for p in mine]
        panels.append(
            alt.Chart(alt.Data(values=mine))
            .mark_line(point=True)
            .encode(
                x=alt.X("rate:Q", title="requests per second"),
                y=alt.Y("s:Q", scale=log_scale(reach), axis=log_axis(reach, seconds=True),
                        title="99th percentile"),
                color=alt.Color("setting:N", title=None, sort=order,
                                legend=alt.Legend(orient="top", symbolType="stroke")
                                if len(order) > 1 else None),
            )
            .properties(width=300, height=240, title=label)
        )  # fmt: skip
    return alt.hconcat(*panels)


def power(series: list[dict[str, Any]]) -> Any:
    """Power of a row over time, with and without caps, by number of servers."""
    alt = altair()
    points = [
        {"t": r["time_s"], "kw": r[key] / 1e3, "what": what, "servers": r["servers"]}
        for r in series
        for key, what in (("watts", "capped"), ("uncapped_watts", "without caps"),
                          ("budget_watts", "budget"))
    ]  # fmt: skip
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(strokeWidth=1)
        .encode(
            x=alt.X("t:Q", title="seconds"),
            y=alt.Y("kw:Q", title="power of the row (kW)", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "what:N",
                title=None,
                scale=alt.Scale(
                    domain=["capped", "without caps", "budget"],
                    range=["#1b6ca8", "#bbbbbb", "#d95f02"],
                ),
            ),
            facet=alt.Facet("servers:N", columns=2, title="servers"),
        )
        .properties(width=300, height=160)
    )
