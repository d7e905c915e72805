"""Charts of `isoflop simulate` and `isoflop advise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chart import altair

if TYPE_CHECKING:
    from ..serving.report import ServingReport
    from ..serving.search import Advice

POINTS = 1500
"""Marks per line: enough for the width of a chart."""


def chart(report: ServingReport) -> Any:
    """Latency distributions, and batch, queue and cache over time."""
    import numpy as np

    alt = altair()
    series = {"first token": report.collected.ttft_s, "whole request": report.collected.e2e_s}
    curves = []
    for name, values in series.items():
        v = np.sort(values[np.isfinite(values)])
        keep = np.unique(np.linspace(0, len(v) - 1, min(len(v), 400)).astype(int))
        curves += [{"what": name, "s": float(v[i]), "share": (i + 1) / len(v)} for i in keep]
    left = (
        alt.Chart(alt.Data(values=curves))
        .mark_line()
        .encode(
            x=alt.X("s:Q", scale=alt.Scale(type="log"), title="seconds"),
            y=alt.Y("share:Q", axis=alt.Axis(format="%"), title="share of requests below"),
            color=alt.Color("what:N", title=None, legend=alt.Legend(orient="top")),
        )
        .properties(width=320, height=240, title="Latency")
    )
    instance = report.instances[0]
    log = instance.state.log[: instance.whole(_n_log())]
    step = max(1, len(log) // POINTS)
    blocks = report.server.blocks
    state = []
    for row in log[::step]:
        state.append({"t": float(row[0]), "what": "decoding", "n": float(row[2])})
        state.append({"t": float(row[0]), "what": "waiting", "n": float(row[3])})
        state.append({"t": float(row[0]), "what": "cache, % of pages",
                      "n": float(row[4]) / blocks * 100})  # fmt: skip
    right = (
        alt.Chart(alt.Data(values=state))
        .mark_line(strokeWidth=1)
        .encode(
            x=alt.X("t:Q", title="simulated time (s)"),
            y=alt.Y("n:Q", title=None),
            row=alt.Row("what:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left")),
        )
        .properties(width=360, height=70)
        .resolve_scale(y="independent")
    )
    return alt.hconcat(left, right)


def _n_log() -> int:
    from ..serving.loop.records import N_LOG

    return N_LOG


def front(found: Advice) -> Any:
    """Price against time per token: every candidate, the front, what was simulated."""
    alt = altair()
    points = [
        {"usd": c.usd_per_hour, "ms": c.tpot_s * 1e3, "what": "closed form"}
        for c in found.candidates
    ]
    edge = [{"usd": p["usd_per_hour"], "ms": p["tpot_s"] * 1e3} for p in found.pareto()]
    marks = [
        {"usd": f.candidate.usd_per_hour,
         "ms": (f.report.summary["tpot_s"]["mean"] or 0.0) * 1e3,
         "label": ("chosen: " if f is found.best else "") + f.candidate.step.plan.describe()}
        for f in found.finalists
    ]  # fmt: skip
    x = alt.X("usd:Q", title="price (USD per hour)", scale=alt.Scale(zero=False))
    y = alt.Y("ms:Q", title="mean time per output token (ms)", scale=alt.Scale(type="log"))
    cloud = alt.Chart(alt.Data(values=points)).mark_point(opacity=0.25, color="#999999").encode(
        x=x, y=y
    )  # fmt: skip
    line = alt.Chart(alt.Data(values=edge)).mark_line(color="#1b6ca8").encode(x=x, y=y)
    spots = alt.Chart(alt.Data(values=marks)).mark_circle(size=80, color="#d95f02")
    text = alt.Chart(alt.Data(values=marks)).mark_text(align="left", dx=8, color="#d95f02")
    return alt.layer(
        cloud, line, spots.encode(x=x, y=y), text.encode(x=x, y=y, text="label:N")
    ).properties(width=520, height=320, title="Price against time per token")  # fmt: skip


def load_curve(rows: list[dict[str, Any]]) -> Any:
    """Latency against load: 99th percentiles by request rate, one line per other setting."""
    alt = altair()
    other = ("max_sequences", "max_tokens", "policy", "plan", "weights", "kv")
    varied = [k for k in other if len({r[k] for r in rows}) > 1]
    points = []
    for r in rows:
        name = ", ".join(f"{k} {r[k]}" for k in varied) or "all"
        for metric, label in (("ttft_s", "first token"), ("tpot_s", "per output token")):
            if r[metric]["p99"] is not None:
                points.append({"rate": r["rate"], "s": r[metric]["p99"], "what": label,
                               "setting": name})  # fmt: skip
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(point=True)
        .encode(
            x=alt.X("rate:Q", title="requests per second"),
            y=alt.Y("s:Q", scale=alt.Scale(type="log"), title="99th percentile (s)"),
            color=alt.Color("setting:N", title=None),
            column=alt.Column("what:N", title=None),
        )
        .properties(width=300, height=240)
        .resolve_scale(y="independent")
    )


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
