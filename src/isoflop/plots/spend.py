"""Charts of `isoflop spend`: the loss along the budget, and the frontier with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chart import altair
from .laws import FRONT, HEIGHT, LINE, WIDTH
from .scales import log_axis, log_scale, power, short

if TYPE_CHECKING:
    from ..scaling.decide import Spending

REACH = 30.0
"""How far sizes and budgets run on either side of the answer."""


def chart(found: Spending) -> Any:
    """Loss by size at the budget, and optimal size by budget.

    Raises
    ------
    InvalidInput
        If the law does not give a loss from parameters and tokens.
    """
    from ..errors import InvalidInput

    alt = altair()
    law = found.believed.law
    if set(law.inputs) != {"params", "tokens"} or "params" not in found.best.inputs:
        raise InvalidInput(
            f"The chart shows laws of parameters and tokens; '{law.name}' takes "
            f"{', '.join(law.inputs)}."
        )
    return (
        alt.hconcat(_along(found), _frontier(found), spacing=40)
        .configure_view(stroke=None)
        .configure_axis(gridColor="#ececec", domainColor="#888888", tickColor="#888888")
        .configure_title(anchor="start", fontSize=13)
    )


def _along(found: Spending) -> Any:
    """Loss against size at this budget, the optimum and its interval."""
    import numpy as np

    alt, believed = altair(), found.believed
    best = found.best.inputs["params"]
    n = np.geomspace(best / 10, best * 10, 80)
    at = {"params": n, "tokens": found.budget_flop / (6.0 * n)}
    loss = believed.law.predict(believed.theta, at)
    rows = [{"n": float(a), "loss": float(b)} for a, b in zip(n, loss)]
    layers = []
    x = alt.X("n:Q", scale=log_scale(n.tolist()), axis=log_axis(n.tolist(), short=True),
              title="parameters")  # fmt: skip
    y = alt.Y("loss:Q", scale=alt.Scale(zero=False), title="loss (nats per token)")
    ci = found.intervals.get("params")
    if ci:
        span = [{"low": ci[0], "high": ci[1]}]
        layers.append(
            alt.Chart(alt.Data(values=span)).mark_rect(color=LINE, opacity=0.15)
            .encode(x=alt.X("low:Q", scale=log_scale(n.tolist())), x2="high:Q")
        )  # fmt: skip
    text = f"{short(best)} parameters, {short(found.best.inputs['tokens'])} tokens"
    mark = [{"n": best, "loss": found.best.prediction}]
    above = [{"n": best, "loss": float(loss.max()), "text": text}]
    layers += [
        alt.Chart(alt.Data(values=rows)).mark_line(color=FRONT).encode(x=x, y=y),
        alt.Chart(alt.Data(values=mark)).mark_point(shape="diamond", size=80, color="#d9480f",
                                                    filled=True).encode(x=x, y=y),
        alt.Chart(alt.Data(values=above)).mark_text(dy=10, fontSize=11).encode(x=x, y=y,
                                                                               text="text:N"),
    ]  # fmt: skip
    title = f"Loss at {power(found.budget_flop)} FLOP by size"
    title += ", 95% interval of the best" if ci else ""
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title)


def _frontier(found: Spending) -> Any:
    """Optimal size by budget with its 95% band; the law's own runs end at the dashed line."""
    import numpy as np

    from ..scaling.fit import central_interval

    alt, believed = altair(), found.believed
    law = believed.law
    budgets = np.geomspace(found.budget_flop / REACH**2, found.budget_flop * REACH, 40)
    rows, band = [], []
    for c in budgets.tolist():
        rows.append({"c": c, "n": law.optimum(believed.theta, c).inputs["params"]})
        if len(believed.draws) >= 40:
            values = [law.optimum(t, c).inputs["params"] for t in believed.draws[:400]]
            low, high = central_interval(np.array(values))
            band.append({"c": c, "low": low, "high": high})
    ends = [r["n"] for r in rows] + [v for b in band for v in (b["low"], b["high"])]
    reach = [float(budgets[0]), float(budgets[-1])]
    x = alt.X("c:Q", scale=log_scale(reach), axis=log_axis(reach), title="training FLOP")
    scale, axis = log_scale(ends), log_axis(ends, short=True)
    y = alt.Y("n:Q", scale=scale, axis=axis, title="optimal parameters")
    layers = []
    if band:
        layers.append(
            alt.Chart(alt.Data(values=band)).mark_area(color=LINE, opacity=0.2)
            .encode(x=x, y=alt.Y("low:Q", scale=scale, axis=axis, title="optimal parameters"),
                    y2="high:Q")
        )  # fmt: skip
    mark = [{"c": found.budget_flop, "n": law.optimum(believed.theta, found.budget_flop)
             .inputs["params"]}]  # fmt: skip
    layers += [
        alt.Chart(alt.Data(values=rows)).mark_line(color=FRONT).encode(x=x, y=y),
        alt.Chart(alt.Data(values=mark)).mark_point(shape="diamond", size=80, color="#d9480f",
                                                    filled=True).encode(x=x, y=y),
    ]  # fmt: skip
    if {"params", "tokens"} <= believed.valid.keys():
        edge = 6.0 * believed.valid["params"][1] * believed.valid["tokens"][1]
        if reach[0] < edge < reach[1]:
            line = [{"c": edge, "n": min(ends), "text": "largest size and tokens fitted"}]
            layers += [
                alt.Chart(alt.Data(values=line)).mark_rule(strokeDash=[4, 3], color="#888888")
                .encode(x=x),
                alt.Chart(alt.Data(values=line)).mark_text(align="left", dx=4, dy=-8, fontSize=10,
                                                           color="#666666")
                .encode(x=x, y=y, text="text:N"),
            ]  # fmt: skip
    title = "Optimal size by budget" + (", 95% band" if band else "")
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title)
