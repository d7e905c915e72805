"""`isoflop spend BUDGET`: where a training budget should go, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..scaling.decide import Budget, Spending


def spend(
    budget: str,
    *,
    law: str = "besiroglu-2024",
    inference_tokens: str = "",
    unique_tokens: str = "",
    given: Annotated[list[str] | None, Parameter(negative=())] = None,
    on: str = "",
    mfu: float = 0.0,
    runs: str = "",
    force: bool | None = None,
    choose: str = "",
    option: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    plot: Path | None = None,
) -> None:
    """Where a training budget should go, and how sure that is.

    Parameters
    ----------
    budget
        FLOP (1e24), or hardware with --on: '5000 gpu-hours', '30 days', '$2M'.
    law
        A published law (see `isoflop laws list`) or a fit saved by `isoflop fit --out`.
    inference_tokens
        Tokens the model will serve, such as 2T: the budget is then lifetime compute.
    unique_tokens
        Tokens of data there are, for laws of repeated data.
    given
        Another input of the law as name=value, such as granularity=8, sparsity=0.9 or
        bits_weight=8; may be repeated.
    on
        Fleet that a budget in hours, days or dollars is spent on; 64xh100-sxm@2.10 has a price of
        yours in USD per device-hour.
    mfu
        Model FLOP utilisation on it; default: that of the best plan `isoflop plan` finds for a
        dense model of about the size, or 40% where none fits.
    runs
        The CSV the law was fitted on: also says which runs to do next.
    force
        Answer however far outside the range of the runs, labelled; without it answers more than
        ten times outside are refused, with --no-force all outside.
    choose
        Decide something else with the budget: precision, experts, teacher, epochs,
        hyperparameters, mix, filtering, vocabulary, updates or test-time.
    option
        An option of that decision, as name=value; may be repeated.
    json
        Print JSON.
    plot
        Write a chart: .svg, .png or .html.
    """
    from ..scaling.decide import load_law, parse_budget, parse_tokens
    from ..scaling.decide import spend as decide
    from .methods import parse_options

    amount = parse_budget(budget, on, mfu)
    believed = load_law(law)
    if choose:
        if on and not mfu and amount.low_flop != amount.high_flop:
            amount = _reached(budget, on, decide(believed, amount.flop), amount)
        _choose(choose, amount, option, json)
        return
    served = parse_tokens(inference_tokens, "number of served tokens")
    more: dict[str, Any] = parse_options(given)
    if unique_tokens:
        more["unique_tokens"] = parse_tokens(unique_tokens, "number of unique tokens")
    if on and not mfu and amount.low_flop != amount.high_flop:
        amount = _reached(budget, on, decide(believed, amount.flop, **more), amount)
    found = decide(believed, amount.flop, inference_tokens=served, force=force, **more)
    ends = {}
    if amount.low_flop != amount.high_flop:
        ends = {
            name: decide(believed, flop, inference_tokens=served, **more).best.inputs
            for name, flop in (("low", amount.low_flop), ("high", amount.high_flop))
        }
    proposals = _proposals(runs, found) if runs else {}
    if json:
        from ._output import print_json

        extra = {"budget": amount.text, "budget_note": amount.note, "mfu_ends": ends,
                "inference_tokens": served, **proposals}  # fmt: skip
        print_json({**found.as_dict(), **extra})
    else:
        _print(found, amount, served, ends, proposals)
    if plot is not None:
        from ..plots.spend import chart
        from ._output import write_chart

        write_chart(chart(found), plot, quiet=json)


def _choose(name: str, amount: Budget, option: list[str] | None, json: bool) -> None:
    from ..scaling.choice import find_choice
    from .methods import parse_options, print_method

    choice = find_choice(name)
    report = choice.run(amount.flop, choice.complete(parse_options(option)))
    given = {"budget": amount.text, "budget_flop": amount.flop, "budget_note": amount.note}
    print_method(name, choice, report, given, json)
    if amount.note and not json:
        print(f"Budget: {amount.flop:.3g} FLOP, {amount.note}.")


def _reached(budget: str, on: str, guess: Spending, assumed: Budget) -> Budget:
    """The budget at what the best plan for a model of about that size reaches on the fleet."""
    from ..advice.utilization import achieved
    from ..scaling.decide import parse_budget

    params = guess.best.inputs.get("params")
    found = achieved(on, params) if params else None
    if found is None:
        return assumed
    return parse_budget(budget, on, reached=(found.low, found.middle, found.high),
                        how=found.note)  # fmt: skip


def _proposals(runs: str, found: Spending) -> dict[str, Any]:
    """Runs to do next: single ones by what they add, and a series that halves the interval.

    What the series promises is checked by fitting simulated runs with and without it.
    """
    from ..scaling.columns import read_runs
    from ..scaling.compare import compute_of
    from ..scaling.design import next_runs, runs_to_halve, simulated_left
    from ..scaling.fit import fit_law

    believed = found.believed
    path = Path(runs)
    if runs == "demo":
        from ..scaling.demo import demo_file

        path = demo_file()
    data = read_runs(path, believed.law)
    noise = fit_law(data, believed.law).noise
    given = (believed, data.data(believed.law), noise, found.budget_flop)
    dearest = float(compute_of(data).max())
    series = runs_to_halve(*given, dearest)
    left = simulated_left(*given, series) if series else None
    return {"next_runs": next_runs(*given, dearest), "runs_to_halve": series,
            "simulated_interval_left": left}  # fmt: skip


def _count(value: float) -> str:
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _print(
    found: Spending, amount: Budget, served: float, ends: dict[str, Any],
    proposals: dict[str, Any],
) -> None:  # fmt: skip
    from ._output import console, table

    out, believed = console(), found.believed
    out.print(
        f"{found.budget_flop:.3g} FLOP under [bold]{believed.name}[/] ({believed.law.name}; "
        f"{believed.source})" + (f"; {amount.note}" if amount.note else "")
    )
    rows = []
    for name, value in found.best.inputs.items():
        ci = found.intervals.get(name)
        rows.append([name, _count(value), f"{_count(ci[0])} to {_count(ci[1])}" if ci else "-",
                     f"{_count(ends['low'][name])} to {_count(ends['high'][name])}"
                     if ends else "-"])  # fmt: skip
    ci = found.intervals.get(believed.law.output)
    rows.append([believed.law.output, f"{found.best.prediction:.4f}",
                 f"{ci[0]:.4f} to {ci[1]:.4f}" if ci else "-", "-"])  # fmt: skip
    columns = ["best", "value", "95% interval"] + ["over the MFU range"] * bool(ends)
    out.print(table("", columns, [r[: len(columns)] for r in rows]))
    inputs = found.best.inputs
    if {"params", "tokens"} <= inputs.keys():
        ratio = inputs["tokens"] / inputs["params"]
        text = f"{ratio:.1f} tokens per parameter"
        if served:
            training = 6 * inputs["params"] * inputs["tokens"] / found.budget_flop
            text += f"; {training:.0%} of the lifetime compute trains, the rest serves "
            text += f"{_count(served)} tokens"
        out.print(text + ".")
    if found.regret is not None:
        out.print(
            f"If the law's constants are off by their own uncertainty, following this costs "
            f"{found.regret:.4f} of {believed.law.output} on average."
        )
    if not found.intervals:
        out.print("The source gives no uncertainty, so there is no interval on this answer.")
    for text in found.outside:
        out.print(f"Extrapolation: {text}.")
    if not proposals:
        return
    rows = [[_count(p["params"]), _count(p["tokens"]), f"{p['flop']:.2e}",
             f"{p['interval_left']:.0%}"] for p in proposals["next_runs"]]  # fmt: skip
    out.print(table("Runs that would narrow the interval of N* most", ["params", "tokens",
              "FLOP", "width left"], rows))  # fmt: skip
    series = proposals["runs_to_halve"]
    if not series:
        out.print("No series of 64 such runs halves the interval: larger runs are needed.")
        return
    total = sum(p["flop"] for p in series)
    kinds = {(round(p["params"], -6), p["flop"]): p for p in series}
    parts = [
        f"{sum(round(p['params'], -6) == key[0] and p['flop'] == key[1] for p in series)} of "
        f"{_count(one['params'])} on {_count(one['tokens'])} tokens"
        for key, one in kinds.items()
    ]
    out.print(f"To halve the interval: {len(series)} runs, {total:.2e} FLOP together: "
              f"{', '.join(parts)}. Fitted to simulated runs with and without them, the interval "
              f"shrinks to {proposals['simulated_interval_left']:.0%}.")  # fmt: skip
