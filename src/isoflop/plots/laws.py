"""Charts of `isoflop fit`: isoFLOP curves and frontier, residuals, bootstrap cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chart import altair

if TYPE_CHECKING:
    from ..scaling.columns import Runs
    from ..scaling.fit import LawFit

CLOUD = 600
"""Resamples drawn."""


def chart(fit: LawFit, runs: Runs) -> Any:
    """All panels that the law's inputs allow."""
    alt = altair()
    panels = []
    if set(fit.law.inputs) == {"params", "tokens"}:
        panels = [_curves(fit, runs), _contours(fit, runs)]
    lower = [_residuals(fit, runs)]
    if len(fit.draws) >= 40 and "alpha" in fit.params and "beta" in fit.params:
        lower.append(_cloud(fit))
    rows = [alt.hconcat(*panels)] if panels else []
    return alt.vconcat(*rows, alt.hconcat(*lower)).resolve_scale(color="independent")


def _log(alt: Any) -> Any:
    return alt.Scale(type="log")


def _curves(fit: LawFit, runs: Runs) -> Any:
    """Loss against size, one fitted curve per isoFLOP set, optimum marked."""
    import numpy as np

    from ..scaling.approaches import groups
    from ..scaling.compare import compute_of

    alt = altair()
    flop = compute_of(runs)
    sets = groups(runs) or [np.arange(len(runs))]
    points, lines, best = [], [], []
    n_all = runs.columns["params"]
    for part in sets:
        budget = float(np.exp(np.log(flop[part]).mean()))
        name = f"{budget:.0e}"
        points += [{"n": float(n_all[i]), "loss": float(runs.columns[fit.law.output][i]),
                    "flop": name} for i in part]  # fmt: skip
        n = np.geomspace(n_all[part].min() / 1.3, n_all[part].max() * 1.3, 40)
        y = fit.predict({"params": n, "tokens": budget / (6 * n)})
        lines += [{"n": float(a), "loss": float(b), "flop": name} for a, b in zip(n, y)]
        at = fit.law.optimum(fit.theta, budget)
        best.append({"n": at.inputs["params"], "loss": at.prediction})
    x = alt.X("n:Q", scale=_log(alt), title="parameters")
    y = alt.Y("loss:Q", scale=alt.Scale(zero=False), title=f"{fit.law.output} (nats/token)")
    color = alt.Color("flop:N", title="FLOP", sort=None)
    layers = [
        alt.Chart(alt.Data(values=lines)).mark_line().encode(x=x, y=y, color=color),
        alt.Chart(alt.Data(values=points)).mark_circle(size=22).encode(x=x, y=y, color=color),
        alt.Chart(alt.Data(values=best)).mark_point(shape="diamond", color="black", size=60)
        .encode(x=x, y=y),
    ]  # fmt: skip
    return alt.layer(*layers).properties(width=340, height=240, title="IsoFLOP curves, optima")


def _contours(fit: LawFit, runs: Runs) -> Any:
    """Levels of equal loss over (N, C) with the efficient frontier and the runs."""
    import numpy as np

    from ..scaling.compare import compute_of

    alt = altair()
    flop = compute_of(runs)
    n_all, y_all = runs.columns["params"], runs.columns[fit.law.output]
    levels = np.quantile(y_all, [0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
    sizes = np.geomspace(n_all.min() / 2, n_all.max() * 2, 60)
    rows = []
    for level in levels:
        for n in sizes:
            grid = np.geomspace(1e6, 1e15, 500)
            loss = fit.predict({"params": np.full(500, n), "tokens": grid})
            below = np.nonzero(loss <= level)[0]
            if len(below):
                rows.append({"n": float(n), "c": float(6 * n * grid[below[0]]),
                             "loss": f"{level:.2f}"})  # fmt: skip
    high = flop.max() * 30
    rows = [r for r in rows if flop.min() / 10 <= r["c"] <= high]
    budgets = np.geomspace(flop.min(), high, 30)
    frontier = [{"c": float(b), "n": fit.law.optimum(fit.theta, float(b)).inputs["params"]}
                for b in budgets]  # fmt: skip
    runs_rows = [{"c": float(c), "n": float(n)} for c, n in zip(flop, n_all)]
    x = alt.X("c:Q", scale=_log(alt), title="training FLOP")
    y = alt.Y("n:Q", scale=_log(alt), title="parameters")
    layers = [
        alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=1)
        .encode(x=x, y=y, order="n:Q", color=alt.Color("loss:N", title="loss")),
        alt.Chart(alt.Data(values=runs_rows)).mark_circle(size=12, color="#999999")
        .encode(x=x, y=y),
        alt.Chart(alt.Data(values=frontier)).mark_line(color="black", strokeWidth=2.5)
        .encode(x=x, y=y),
    ]  # fmt: skip
    title = "Equal loss, and the efficient frontier"
    return alt.layer(*layers).properties(width=340, height=240, title=title)


def _residuals(fit: LawFit, runs: Runs) -> Any:
    """Relative residuals against what is predicted."""
    alt = altair()
    predicted = fit.predict(runs.data(fit.law))
    measured = runs.columns[fit.law.output]
    rows = [{"p": float(p), "r": float(m / p - 1.0)} for p, m in zip(predicted, measured)]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_circle(size=18, opacity=0.6)
        .encode(
            x=alt.X("p:Q", scale=alt.Scale(zero=False), title=f"predicted {fit.law.output}"),
            y=alt.Y("r:Q", axis=alt.Axis(format=".1%"), title="measured / predicted - 1"),
        )
        .properties(width=340, height=180, title="Residuals")
    )


def _cloud(fit: LawFit) -> Any:
    """The two exponents over resamples."""
    alt = altair()
    names = [p.name for p in fit.law.parameters]
    i, j = names.index("alpha"), names.index("beta")
    rows = [{"a": float(t[i]), "b": float(t[j])} for t in fit.draws[:CLOUD]]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_circle(size=10, opacity=0.4)
        .encode(
            x=alt.X("a:Q", scale=alt.Scale(zero=False), title="exponent of parameters"),
            y=alt.Y("b:Q", scale=alt.Scale(zero=False), title="exponent of tokens"),
        )
        .properties(width=340, height=180, title="Bootstrap resamples")
    )
