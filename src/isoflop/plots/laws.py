"""Charts of `isoflop fit`: isoFLOP curves, envelope, equal loss with the frontier, residuals and
bootstrap clouds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chart import altair
from .scales import log_axis, log_scale, power

if TYPE_CHECKING:
    from ..scaling.columns import Runs
    from ..scaling.fit import LawFit

HALO: tuple[dict[str, Any], ...] = (
    {"fontSize": 11, "stroke": "white", "strokeWidth": 4}, {"fontSize": 11, "color": "#222222"},
)  # fmt: skip
"""A label over lines: white around it, then itself."""
CLOUD = 600
"""Resamples drawn."""
LABELS = 8
"""Curves that carry their FLOP, where there are many."""
WIDTH, HEIGHT = 380, 260
LINE, DOT, FRONT = "#4c78a8", "#9a9a9a", "#222222"
SCHEME = {"name": "viridis", "extent": [0.0, 0.85]}
"""Without its yellow end, which is hard to read as text on white."""


def chart(fit: LawFit, runs: Runs) -> Any:
    """All panels that the law's inputs allow."""
    alt = altair()
    panels, best = [], []
    if set(fit.law.inputs) == {"params", "tokens"}:
        best = frontier(fit, runs)
        panels = [_curves(fit, runs)]
        if best:
            panels += [_envelope(fit, runs, best), _contours(fit, runs, best)]
    panels.append(_residuals(fit, runs))
    if len(fit.draws) >= 40:
        if {"alpha", "beta"} <= {p.name for p in fit.law.parameters}:
            panels.append(_cloud(fit))
        if best:
            panels.append(_optimum_cloud(fit, runs))
    rows = [alt.hconcat(*panels[i : i + 2], spacing=40) for i in range(0, len(panels), 2)]
    return (
        alt.vconcat(*rows, spacing=30)
        .resolve_scale(color="independent", x="independent", y="independent")
        .configure_view(stroke=None)
        .configure_axis(gridColor="#ececec", domainColor="#888888", tickColor="#888888")
        .configure_title(anchor="start", fontSize=13)
    )


def frontier(fit: LawFit, runs: Runs) -> list[dict[str, float]]:
    """Optimal size, tokens and loss by compute, to thirty times the largest run; empty without."""
    import numpy as np

    from ..errors import InvalidInput
    from ..scaling.compare import compute_of

    flop = compute_of(runs)
    try:
        best = [(float(b), fit.law.optimum(fit.theta, float(b)))
                for b in np.geomspace(flop.min(), flop.max() * 30, 40)]  # fmt: skip
    except InvalidInput:
        return []
    return [{"c": b, "n": o.inputs["params"], "d": o.inputs["tokens"], "loss": o.prediction}
            for b, o in best]  # fmt: skip


def _curves(fit: LawFit, runs: Runs) -> Any:
    """Loss against size: runs of one compute share a curve, labelled at its end."""
    import numpy as np

    from ..errors import InvalidInput
    from ..scaling.approaches import groups
    from ..scaling.compare import compute_of

    alt = altair()
    flop, n_all = compute_of(runs), runs.columns["params"]
    sets = groups(runs) or [np.arange(len(runs))]
    points, lines, ends, best = [], [], [], []
    for part in sets:
        budget = float(np.exp(np.log(flop[part]).mean()))
        points += [{"n": float(n_all[i]), "loss": float(runs.columns[fit.law.output][i]),
                    "c": budget} for i in part]  # fmt: skip
        n = np.geomspace(n_all[part].min() / 1.3, n_all[part].max() * 1.3, 60)
        y = fit.predict({"params": n, "tokens": budget / (6 * n)})
        lines += [{"n": float(a), "loss": float(b), "c": budget} for a, b in zip(n, y)]
        ends.append({"n": float(n[-1]), "loss": float(y[-1]), "c": budget, "text": power(budget)})
        try:
            at = fit.law.optimum(fit.theta, budget)
        except InvalidInput:
            continue
        best.append({"n": at.inputs["params"], "loss": at.prediction})
    ends = ends[:: -max(1, -(-len(ends) // LABELS))]
    reach = [min(r["n"] for r in lines), max(r["n"] for r in lines) * 2.5]
    x = alt.X("n:Q", scale=log_scale(reach), axis=log_axis(reach, short=True), title="parameters")
    y = alt.Y("loss:Q", scale=alt.Scale(zero=False), title=f"{fit.law.output} (nats per token)")
    shades = alt.Scale(type="log", scheme=alt.SchemeParams(**SCHEME))
    color = alt.Color("c:Q", scale=shades, legend=None)
    layers = [
        alt.Chart(alt.Data(values=lines)).mark_line().encode(x=x, y=y, color=color, detail="c:Q"),
        alt.Chart(alt.Data(values=points)).mark_circle(size=26, opacity=0.9)
        .encode(x=x, y=y, color=color),
        alt.Chart(alt.Data(values=ends)).mark_text(align="left", dx=5, fontSize=10)
        .encode(x=x, y=y, text="text:N", color=color),
        alt.Chart(alt.Data(values=best)).mark_point(shape="diamond", color=FRONT, size=60)
        .encode(x=x, y=y),
    ]  # fmt: skip
    title = "IsoFLOP curves (training FLOP at their ends), optima"
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title)


def _envelope(fit: LawFit, runs: Runs, best: list[dict[str, float]]) -> Any:
    """Loss against compute: every run, the lowest of each bin, and the law's frontier."""
    import numpy as np

    from ..scaling.approaches import envelope
    from ..scaling.compare import compute_of

    alt = altair()
    flop, loss = compute_of(runs), runs.columns[fit.law.output]
    rows = [{"c": float(c), "loss": float(y)} for c, y in zip(flop, loss)]
    found = envelope(runs, fit.law.output)
    lowest = []
    if found is not None:
        for c in found.flop:
            i = int(np.argmin(np.abs(np.log(flop / c)) + (loss - loss.min()) * 1e-9))
            same = np.nonzero(np.isclose(flop, flop[i], rtol=1e-6))[0]
            low = same[np.argmin(loss[same])]
            lowest.append({"c": float(flop[low]), "loss": float(loss[low])})
    reach = [best[0]["c"], best[-1]["c"]]
    x = alt.X("c:Q", scale=log_scale(reach), axis=log_axis(reach), title="training FLOP")
    y = alt.Y("loss:Q", scale=alt.Scale(zero=False), title=f"{fit.law.output} (nats per token)")
    layers = []
    band = _band(fit, [r["c"] for r in best])
    if band:
        layers.append(
            alt.Chart(alt.Data(values=band)).mark_area(color=LINE, opacity=0.2)
            .encode(x=x, y=alt.Y("low:Q", scale=alt.Scale(zero=False)), y2="high:Q")
        )  # fmt: skip
    label = [{**best[24], "text": "law at its optimum"}]
    layers += [
        alt.Chart(alt.Data(values=rows)).mark_circle(size=14, color=DOT).encode(x=x, y=y),
        alt.Chart(alt.Data(values=best)).mark_line(color=FRONT, strokeWidth=2).encode(x=x, y=y),
        alt.Chart(alt.Data(values=lowest)).mark_point(color="#d9480f", size=40)
        .encode(x=x, y=y),
        alt.Chart(alt.Data(values=label)).mark_text(align="left", dy=-10, dx=4, fontSize=11)
        .encode(x=x, y=y, text="text:N"),
    ]  # fmt: skip
    title = "Envelope: lowest run of each budget (rings), 95% band"
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title)


def _band(fit: LawFit, budgets: list[float]) -> list[dict[str, float]]:
    if len(fit.draws) < 40:
        return []
    rows = []
    for c in budgets:
        values = [fit.law.optimum(t, c).prediction for t in fit.draws[:CLOUD]]
        import numpy as np

        low, high = fit.interval(np.array(values))
        rows.append({"c": c, "low": low, "high": high})
    return rows


def _contours(fit: LawFit, runs: Runs, best: list[dict[str, float]]) -> Any:
    """Levels of equal loss over size and compute, labelled, with the frontier and the runs."""
    import numpy as np

    from ..scaling.compare import compute_of

    alt = altair()
    flop, n_all = compute_of(runs), runs.columns["params"]
    levels = np.quantile([r["loss"] for r in best], [0.08, 0.25, 0.42, 0.58, 0.75, 0.92])
    reach = [best[0]["c"], best[-1]["c"]]
    sizes = np.geomspace(n_all.min() / 2, max(n_all.max() * 2, best[-1]["n"] * 1.5), 120)
    tokens = np.geomspace(1e5, 1e16, 400)
    rows, labels = [], []
    for level in levels:
        line = []
        for n in sizes:
            loss = fit.predict({"params": np.full(len(tokens), n), "tokens": tokens})
            if loss[-1] < level < loss[0]:
                # Between grid points: loss falls with tokens, so it can be inverted.
                d = np.exp(np.interp(-level, -loss, np.log(tokens)))
                if reach[0] / 3 <= 6 * n * d <= reach[1]:
                    line.append({"n": float(n), "c": float(6 * n * d), "loss": float(level)})
        rows += line
        if line:
            labels.append({**max(line, key=lambda r: r["n"]), "text": f"{level:.2f}"})
    x = alt.X("c:Q", scale=log_scale(reach), axis=log_axis(reach), title="training FLOP")
    span = [float(sizes[0]), float(sizes[-1])]
    y = alt.Y("n:Q", scale=log_scale(span), axis=log_axis(span, short=True), title="parameters")
    shades = alt.Scale(scheme=alt.SchemeParams(**SCHEME), reverse=True)
    color = alt.Color("loss:Q", scale=shades, legend=None)
    runs_rows = [{"c": float(c), "n": float(n)} for c, n in zip(flop, n_all)]
    text = [{**best[26], "text": "efficient frontier"}]
    layers = [
        alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=1.5)
        .encode(x=x, y=y, order="n:Q", color=color, detail="loss:Q"),
        alt.Chart(alt.Data(values=labels)).mark_text(align="left", dx=3, fontSize=10)
        .encode(x=x, y=y, text="text:N", color=color),
        alt.Chart(alt.Data(values=runs_rows)).mark_circle(size=12, color=DOT).encode(x=x, y=y),
        alt.Chart(alt.Data(values=best)).mark_line(color=FRONT, strokeWidth=2.5).encode(x=x, y=y),
        *(alt.Chart(alt.Data(values=text)).mark_text(align="left", dy=14, dx=8, **style)
          .encode(x=x, y=y, text="text:N") for style in HALO),
    ]  # fmt: skip
    title = "Equal loss (nats per token) and the efficient frontier"
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title)


def _residuals(fit: LawFit, runs: Runs) -> Any:
    """Relative residuals against what is predicted."""
    alt = altair()
    predicted = fit.predict(runs.data(fit.law))
    measured = runs.columns[fit.law.output]
    left = measured / predicted - 1.0 if fit.log_residual else measured - predicted
    rows = [{"p": float(p), "r": float(r)} for p, r in zip(predicted, left)]
    words = ("+.1%", "measured over predicted, less one", f"{fit.noise:.2%}")
    if not fit.log_residual:
        words = ("+.3~f", "measured less predicted", f"{fit.noise:.2g}")
    dots = (
        alt.Chart(alt.Data(values=rows))
        .mark_circle(size=22, opacity=0.6, color=LINE)
        .encode(
            x=alt.X(
                "p:Q",
                scale=alt.Scale(zero=False),
                axis=alt.Axis(tickCount=6),
                title=f"predicted {fit.law.output}",
            ),
            y=alt.Y("r:Q", axis=alt.Axis(format=words[0]), title=words[1]),
        )
    )
    zero = alt.Chart(alt.Data(values=[{"r": 0.0}])).mark_rule(color=FRONT).encode(y="r:Q")
    title = f"Residuals (scatter {words[2]})"
    return alt.layer(zero, dots).properties(width=WIDTH, height=HEIGHT, title=title)


def _cloud(fit: LawFit) -> Any:
    """The two exponents over resamples, the fit marked."""
    names = [p.name for p in fit.law.parameters]
    i, j = names.index("alpha"), names.index("beta")
    rows = [{"a": float(t[i]), "b": float(t[j])} for t in fit.draws[:CLOUD]]
    mark = [{"a": fit.params["alpha"], "b": fit.params["beta"], "text": "fit"}]
    title = f"Bootstrap of the exponents ({min(len(fit.draws), CLOUD)} resamples)"
    return _scatter(rows, mark, "exponent of parameters", "exponent of tokens", title)


def _optimum_cloud(fit: LawFit, runs: Runs) -> Any:
    """Optimal size and its loss at ten times the largest run, over resamples."""
    from ..scaling.compare import compute_of

    budget = 10.0 * float(compute_of(runs).max())
    rows = []
    for theta in fit.draws[:CLOUD]:
        at = fit.law.optimum(theta, budget)
        rows.append({"a": at.inputs["params"] / 1e9, "b": at.prediction})
    at = fit.law.optimum(fit.theta, budget)
    mark = [{"a": at.inputs["params"] / 1e9, "b": at.prediction, "text": "fit"}]
    title = f"Bootstrap of the optimum at {power(budget)} FLOP"
    return _scatter(rows, mark, "optimal parameters (billions)",
                    f"{fit.law.output} there (nats per token)", title)  # fmt: skip


def _scatter(
    rows: list[dict[str, Any]], mark: list[dict[str, Any]], x_title: str, y_title: str, title: str
) -> Any:
    alt = altair()
    axis = alt.Axis(tickCount=6)
    x = alt.X("a:Q", scale=alt.Scale(zero=False), axis=axis, title=x_title)
    y = alt.Y("b:Q", scale=alt.Scale(zero=False), axis=axis, title=y_title)
    return alt.layer(
        alt.Chart(alt.Data(values=rows)).mark_circle(size=12, opacity=0.4, color=LINE)
        .encode(x=x, y=y),
        alt.Chart(alt.Data(values=mark)).mark_point(shape="diamond", size=70, color=FRONT)
        .encode(x=x, y=y),
        alt.Chart(alt.Data(values=mark)).mark_text(dx=16, fontSize=11).encode(x=x, y=y,
                                                                              text="text:N"),
    ).properties(width=WIDTH, height=HEIGHT, title=title)  # fmt: skip
