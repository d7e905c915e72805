"""`isoflop fit RUNS.csv`: a scaling law from training runs, with honest intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..scaling.columns import Runs
    from ..scaling.fit import LawFit
    from ..scaling.law import Law


PRINTED_DRAWS = 400
"""Resamples in printed JSON: enough for intervals, and a tenth of the text of all."""


def fit(
    runs: Path,
    *,
    law: str = "chinchilla",
    n: str = "",
    d: str = "",
    c: str = "",
    loss: str = "",
    column: Annotated[list[str] | None, Parameter(negative=())] = None,
    where: Annotated[list[str] | None, Parameter(negative=())] = None,
    bootstrap: int = 1000,
    resampling: Literal["case", "cluster", "noise"] = "case",
    cluster: str = "",
    delta: float | None = None,
    drop_worst: int = 0,
    seed: int = 0,
    hold_out: Annotated[bool, Parameter(negative=())] = False,
    compare: Annotated[bool, Parameter(negative=())] = False,
    predict: Annotated[list[str] | None, Parameter(negative=())] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
    plot: Path | None = None,
) -> None:
    """A scaling law from training runs, with honest intervals.

    Parameters
    ----------
    runs
        CSV of runs, one per line; `demo` for the project's generated example.
    law
        Form: see `isoflop laws list`.
    n
        Column of parameters, if its name is not recognised.
    d
        Column of training tokens.
    c
        Column of training FLOP; with N it gives D = C / (6 N) where tokens are missing.
    loss
        Column of the loss (or of what the law predicts).
    column
        Any other input of the law, as name=column; may be repeated.
    where
        Only lines whose column holds a value, as column=value; may be repeated.
    bootstrap
        Resamples for standard errors and intervals; 0 for none.
    resampling
        case: draw runs; cluster: draw whole clusters; noise: draw residuals.
    cluster
        Column that says which runs belong together; implies cluster resampling.
    delta
        Huber threshold on log loss (on the output itself for shares and logarithms); default: the
        law's own, 0.001 for losses.
    drop_worst
        Leave out so many runs of the highest loss.
    seed
        Seed of the bootstrap.
    hold_out
        Fit the cheapest runs only and predict the top tenfold of compute.
    compare
        The same for every form of parameters and tokens, and for their combination.
    predict
        Forecast a run, as params=7e10,tokens=2e12; may be repeated.
    json
        Print JSON.
    out
        Save the fit with all its resamples, for `isoflop spend --law FILE`.
    plot
        Write a chart: .svg, .png or .html.
    """
    from ..scaling.fit import fit_law
    from ..scaling.law import find_law
    from ..scaling.sensitivity import sensitivity
    from ._output import progress_bar

    form = find_law(law)
    _check_settings(bootstrap, drop_worst, delta)
    named = {"params": n, "tokens": d, "compute_flop": c, form.output: loss, **_pairs(column)}
    data = _read(_path(runs), form, named, cluster, _pairs(where), drop_worst)
    how = "cluster" if cluster else resampling
    with progress_bar("resamples", bootstrap >= 2000) as progress:
        result = fit_law(data, form, delta=delta, bootstrap=bootstrap, resampling=how, seed=seed,
                         progress=progress)  # fmt: skip
    extra = {"sensitivity": sensitivity(data, result)}
    extra |= _extras(data, result, hold_out, compare, predict)
    if out is not None:
        import json as encoder

        from ._output import write_whole

        write_whole(out, encoder.dumps(result.as_dict()))
    if json:
        from ._output import print_json

        print_json({**result.as_dict(at_most=PRINTED_DRAWS), **extra})
    else:
        _print(result, extra)
        if out is not None:
            print(f"Fit written to {out}; use it with: isoflop spend 1e24 --law {out}")
    if plot is not None:
        from ..plots.laws import chart
        from ._output import write_chart

        write_chart(chart(result, data), plot, quiet=json)


def _check_settings(bootstrap: int, drop_worst: int, delta: float | None) -> None:
    from ..errors import InvalidInput

    for name, value in (("bootstrap", bootstrap), ("drop-worst", drop_worst)):
        if value < 0:
            raise InvalidInput(f"--{name} is {value}; it must be 0 or more.")
    if delta is not None and not 0 < delta < float("inf"):
        raise InvalidInput(f"The Huber threshold is above zero, not {delta}.")


def _read(
    path: Path, form: Law, named: dict[str, str], cluster: str, where: dict[str, str], worst: int
) -> Runs:
    """The runs that are fitted, without the `worst` of the highest loss."""
    from ..scaling.columns import check_runs, read_runs

    data = read_runs(path, form, named, cluster, where)
    if worst:
        import numpy as np

        order = np.argsort(data.columns[form.output], kind="stable")
        data = data.take(np.sort(order[: len(data) - worst]))
        check_runs(data, form)
    return data


def _path(runs: Path) -> Path:
    if str(runs) == "demo":
        from ..scaling.demo import demo_file

        return demo_file()
    return runs


def _pairs(texts: list[str] | None) -> dict[str, str]:
    """`name=text` as a dictionary."""
    from ..errors import InvalidInput

    found = {}
    for text in texts or []:
        name, sign, value = text.partition("=")
        if not sign:
            raise InvalidInput(f"'{text}' names no column: write name=column or column=value.")
        found[name.strip()] = value.strip()
    return found


def _extras(
    data: Runs, result: LawFit, hold_out: bool, compare: bool, predict: list[str] | None
) -> dict[str, Any]:
    """Held-out errors and forecasts, where asked for."""
    from ..errors import InvalidInput

    extra: dict[str, Any] = {}
    if hold_out:
        from ..scaling.compare import extrapolate

        extra["hold_out"] = extrapolate(data, result.law, delta=result.delta)
    if not (compare or predict):
        return extra
    if not {"params", "tokens", "loss"} <= set(data.columns):
        raise InvalidInput(
            "Comparing forms and forecasting need parameters, tokens and a loss of every run."
        )
    if compare:
        from ..scaling.ensemble import compare_forms

        extra["comparison"] = compare_forms(data, delta=result.delta)
    if predict:
        from ..scaling.ensemble import forecast

        extra["forecast"] = forecast(data, _points(predict), delta=result.delta).as_dict()
    return extra


def _points(texts: list[str]) -> dict[str, Any]:
    import numpy as np

    from ..errors import InvalidInput

    rows = []
    for text in texts:
        try:
            row = {k.strip(): float(v) for k, v in (part.split("=") for part in text.split(","))}
        except ValueError:
            row = {}
        if set(row) != {"params", "tokens"} or not all(0 < v < np.inf for v in row.values()):
            raise InvalidInput(
                f"'{text}' is no run to forecast: write params=7e10,tokens=2e12, both above zero."
            )
        rows.append(row)
    return {k: np.array([r[k] for r in rows]) for k in ("params", "tokens")}


def _print(result: LawFit, extra: dict[str, Any]) -> None:
    from ..units import show_count
    from ._output import console, table

    out, law = console(), result.law
    out.print(f"[bold]{law.name}[/] ({law.reference}) fitted to {result.runs} runs")
    errors, intervals = result.standard_errors, result.ci95
    rows = []
    for p in law.parameters:
        ci = intervals.get(p.name)
        rows.append([
            p.name, f"{result.params[p.name]:.5g}",
            f"{errors[p.name]:.3g}" if p.name in errors else "-",
            f"{ci[0]:.4g} to {ci[1]:.4g}" if ci else "-", p.meaning,
        ])  # fmt: skip
    out.print(table("", ["constant", "value", "standard error", "95% interval", "meaning"], rows,
                    wrap=True))  # fmt: skip
    compared = f"log {law.output}" if result.log_residual else law.output
    scatter = f"{result.noise:.2%}" if result.log_residual else f"{result.noise:.3g}"
    out.print(
        f"Huber sum {result.objective:.6e} (delta {result.delta:g} on {compared}); scatter of the "
        f"runs {scatter}; {len(result.draws):,} {result.resampling or 'no'} resamples"
        + (f", {result.failed} did not converge" if result.failed else "")
        + f"; {result.seconds:.2f} s."
    )
    shown = {
        "exponent_params": "{:.4g}".format,
        "params_at": show_count,
        "loss_at": "{:.4g}".format,
    }
    rows = [[r["choice"], *(f(r[k]) if r.get(k) is not None else "-" for k, f in shown.items())]
            for r in extra["sensitivity"]]  # fmt: skip
    if rows:
        out.print(table("What the choices change", ["", "exponent of N*", "N* at 10x the largest "
                  "run", "its loss"], rows))  # fmt: skip
    for text in (*result.notes, *result.flat):
        out.print(f"Note: {text}.")
    if "hold_out" in extra:
        h = extra["hold_out"]
        out.print(
            f"Held out: fitted on {h['fitted']} runs up to {h['limit_flop']:.3g} FLOP, the "
            f"{h['predicted']} runs above are predicted within {h['mean_abs_pct']:.2f}% on average "
            f"(a constant: {h['baseline_mean_abs_pct']:.2f}%); the 90% interval covers "
            f"{h['coverage_90']:.0f}%."
        )
    if "comparison" in extra:
        _print_comparison(extra["comparison"])
    if "forecast" in extra:
        _print_forecast(extra["forecast"])


def _print_comparison(found: list[dict[str, Any]]) -> None:
    from ._output import console, table

    rows = []
    for r in found:
        if "error" in r:
            rows.append([r["law"], "-", "-", "-"])
            continue
        held = "-" if r["coverage_90"] is None else f"{r['coverage_90']:.0f}%"
        rows.append([r["law"], f"{r['mean_abs_pct']:.2f}%", f"{r['bias_pct']:+.2f}%", held])
    first = next(r for r in found if "error" not in r)
    title = (f"Fitted up to {first['limit_flop']:.3g} FLOP, {first['predicted']} dearer runs "
             "predicted")  # fmt: skip
    console().print(table(title, ["", "mean error", "bias", "90% interval holds"], rows))


def _print_forecast(found: dict[str, Any]) -> None:
    from ..units import show_count
    from ._output import console, table

    rows = [[show_count(r["params"]), show_count(r["tokens"]), f"{r['loss']:.4f}",
             f"{r['low']:.4f} to {r['high']:.4f}"] for r in found["points"]]  # fmt: skip
    out = console()
    out.print(table("Forecast by the forms together", ["params", "tokens", "loss",
              f"{found['level']:.0%} interval"], rows))  # fmt: skip
    best = ", ".join(
        f"{m['form']} {m['weight']:.0%}"
        + (f" (top {m['span']:g}x of compute)" if m["span"] else "")
        for m in found["members"][:4]
    )
    out.print(
        f"Weights by {found['trials']} trials inside the runs, where together they were "
        f"{found['trial_error']:.2%} off: {best}, ..."
    )
