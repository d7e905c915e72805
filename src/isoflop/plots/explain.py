"""The chart of `isoflop explain`: step time by batch with its interval, limit and bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chart import altair

if TYPE_CHECKING:
    from ..advice.explain import Explanation

COLORS = {"compute": "#d95f02", "memory": "#1b6ca8", "network": "#7570b3", "overhead": "#999999"}


def chart(result: Explanation) -> Any:
    """Two panels over batch: step time against its limit, and what the time goes to."""
    alt = altair()
    times = [
        {
            "batch": r["batch"],
            "ms": r["step_s"] * 1e3,
            "low": r["low_s"] * 1e3,
            "high": r["high_s"] * 1e3,
            "limit": r["ideal_s"] * 1e3,
        }
        for r in result.rows()
    ]
    parts = [
        {"batch": str(r["batch"]), "bound": k, "ms": v * r["step_s"] * 1e3, "order": r["batch"]}
        for r in result.rows()
        for k, v in r["shares"].items()
    ]
    x = alt.X("batch:Q", scale=alt.Scale(type="log", base=2), title="batch (sequences)")
    y = alt.Y("ms:Q", scale=alt.Scale(type="log"), title="step time (ms)")
    base = alt.Chart(alt.Data(values=times))
    band = base.mark_area(opacity=0.2, color="#1b6ca8").encode(
        x=x, y=alt.Y("low:Q", title="step time (ms)"), y2="high:Q"
    )
    line = base.mark_line(point=True, color="#1b6ca8").encode(x=x, y=y)
    limit = base.mark_line(strokeDash=[4, 3], color="#444444").encode(x=x, y="limit:Q")
    last = alt.Data(values=times[-1:])
    labels = [
        alt.Chart(last)
        .mark_text(align="left", dx=6, color=color)
        .encode(x=x, y=alt.Y(f"{key}:Q"), text=alt.value(text))
        for key, text, color in (
            ("ms", "predicted, 90% interval", "#1b6ca8"),
            ("limit", "hardware limit", "#444444"),
        )
    ]
    left = alt.layer(band, line, limit, *labels).properties(width=360, height=260)
    right = (
        alt.Chart(alt.Data(values=parts))
        .mark_bar()
        .encode(
            x=alt.X("batch:N", sort=alt.EncodingSortField("order"), title="batch (sequences)"),
            y=alt.Y(
                "ms:Q", stack="normalize", axis=alt.Axis(format="%"), title="share of the step"
            ),
            color=alt.Color(
                "bound:N",
                title="bound by",
                scale=alt.Scale(domain=list(COLORS), range=list(COLORS.values())),
            ),
        )
        .properties(width=300, height=260)
    )
    s, q = result.step, result.question
    title = (
        f"{s.model.name} on {s.device.name} ({s.plan.describe()}), {q.phase}, context {q.context}"
    )
    return alt.hconcat(left, right, spacing=90).properties(title=title)
