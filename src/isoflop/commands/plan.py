"""`isoflop plan MODEL --on 512xh100-sxm`: how to lay out a training run, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ._training import DEFAULT_JOB, DEFAULT_RECIPE, Flag, JobOptions, RecipeOptions

if TYPE_CHECKING:
    from ..training.plan import Recipe, TrainingJob
    from ..training.published import PublishedRun
    from ..training.report import PlanReport


def plan(
    model: str,
    *,
    on: str,
    size: JobOptions = DEFAULT_JOB,
    layout: Annotated[str, Parameter(name="--plan")] = "",
    why_not: str = "",
    options: RecipeOptions = DEFAULT_RECIPE,
    emit: str = "",
    json: Flag = False,
    plot: Path | None = None,
) -> None:
    """Find the fastest training plan that fits, what bounds it, its cost and what would help.

    Parameters
    ----------
    model
        Catalog id or alias, or a Hugging Face config.json.
    on
        Fleet: 512xh100-sxm, 1024xdgx-h100, or with a price of yours in USD per device-hour,
        512xh100-sxm@2.10. Several by commas: the best plan of each, and the
        fleets that no other beats in both time and money.
    size
        What is trained.
    layout
        Price this plan instead of searching: tp8,pp4,vpp2,mb1,zero1,sp,full; dp fills the fleet.
    why_not
        Say why this plan was not chosen.
    options
        How it is trained.
    emit
        Print the plan's settings for megatron, torchtitan or deepspeed, and nothing else.
    json
        Print JSON.
    plot
        Write a chart: .svg, .png or .html.
    """
    from ..models import load_asked

    recipe = options.recipe()
    job = size.job(load_asked(model))
    fleets = [f.strip() for f in on.split(",") if f.strip()]
    if len(fleets) > 1:
        _compare(job, recipe, fleets, layout, json)
        return
    report = _report(job, recipe, on, layout, why_not)
    _answer(report, emit, json)
    if plot is not None:
        from ..plots.training import chart
        from ._output import write_chart

        write_chart(chart(report), plot, quiet=json or bool(emit))


def _report(job: TrainingJob, recipe: Recipe, on: str, layout: str, why_not: str) -> PlanReport:
    """The named plan priced, or the best one searched for."""
    from attrs import evolve

    from ..errors import InvalidPlan
    from ..hardware import load_fleet
    from ..training.plan_text import fill_data, parse_training_plan
    from ..training.report import (
        describe_plan,
        explain_why_not,
        plan_run,
        require_fit,
        what_helps,
    )

    device, count, cluster = load_fleet(on)
    if layout:
        chosen = fill_data(parse_training_plan(layout, recipe.placement), count)
        report = describe_plan(job, recipe, device, count, chosen, cluster)
        require_fit(report, cluster)
        report = evolve(report, changes=what_helps(report, cluster))
    else:
        report = plan_run(job, recipe, device, count, cluster)
    if why_not:
        asked = parse_training_plan(why_not, recipe.placement)
        try:
            asked = fill_data(asked, count)
            answer = explain_why_not(report, asked, cluster)
        except InvalidPlan as error:
            answer = f"{asked.describe()} is not possible: {error}"
        report = evolve(report, why_not=answer)
    return report


def _compare(job: TrainingJob, recipe: Recipe, fleets: list[str], layout: str, json: bool) -> None:
    """The best plan of every fleet; one that cannot hold the model says why."""
    from ..errors import DoesNotFit, InvalidPlan
    from ._output import console, print_json, table

    records: list[dict[str, Any]] = []
    for fleet in fleets:
        try:
            r = _report(job, recipe, fleet, layout, "")
        except (DoesNotFit, InvalidPlan) as error:
            records.append({"fleet": fleet, "plan": None, "reason": str(error)})
            continue
        hours = None if r.days is None else r.days * 24.0
        records.append({
            "fleet": fleet, "plan": r.plan.describe(), "reason": "", "step_s": r.step_s,
            "mfu": r.model_flop_utilization, "memory_bytes": sum(r.memory.values()),
            "days": r.days, "usd": r.usd, "device_hours": hours and hours * r.count,
        })  # fmt: skip
    for r in records:
        r["undominated"] = r["plan"] is not None and not any(
            _beats(other, r) for other in records if other["plan"] is not None and other is not r
        )
    if json:
        print_json({"model": job.model.id, "fleets": records})
        return
    rows = []
    for r in records:
        if r["plan"] is None:
            rows.append([r["fleet"], "does not fit", "", "", "", "", ""])
            continue
        days = "-" if r["days"] is None else f"{r['days']:.3g}"
        cost = "-" if r["usd"] is None else f"{r['usd']:,.0f}"
        rows.append([r["fleet"], r["plan"], f"{r['mfu']:.1%}", f"{r['step_s']:.3g} s", days, cost,
                     "yes" if r["undominated"] else ""])  # fmt: skip
    heads = ["fleet", "best plan", "MFU", "step", "days", "USD", "Pareto"]
    console().print(table(f"{job.model.name} by fleet", heads, rows, left=2, wrap=True))
    if not job.tokens:
        console().print("Give --tokens for days and dollars.")


def _beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether fleet a is at least as quick and as cheap as b, and better in one.

    Fleets of which only one has a price cannot be compared in money, so neither beats the other.
    """
    if (a["usd"] is None) != (b["usd"] is None):
        return False
    first, second = (a["step_s"], a["usd"] or 0.0), (b["step_s"], b["usd"] or 0.0)
    return all(x <= y for x, y in zip(first, second)) and first != second


def _answer(report: PlanReport, framework: str, json: bool) -> None:
    if framework:
        from ..training.emit import emit

        print(emit(framework, report.job, report.recipe, report.plan))
    elif json:
        from ._output import print_json

        near = _nearest(report)
        print_json({**report.as_dict(), "nearest_run": {
            "name": near.name, "plan": near.plan, "devices": near.devices, "figure": near.figure,
            "source": near.citation(),
        }})  # fmt: skip
    else:
        _print(report)


def _print(report: PlanReport) -> None:
    from ..training.report import MEMORY_ERROR
    from ..units import show_count, show_s
    from ._output import console

    out = console()
    job, r = report.job, report
    out.print(
        f"[bold]{job.model.name}[/bold] on {r.count} x {r.device.name}: "
        f"{job.global_batch} sequences of {job.sequence_tokens} tokens a step "
        f"({show_count(job.step_tokens)} tokens), {r.recipe.format}, {r.recipe.optimizer}"
    )
    low, high = (r.step_s * f for f in (1 / _spread(r), _spread(r)))
    out.print(
        f"Plan [bold]{r.plan.describe()}[/bold]: {show_s(r.step_s)} a step "
        f"(90% between {show_s(low)} and {show_s(high)}), {show_count(r.tokens_per_s)} tokens/s"
    )
    out.print(
        f"MFU {r.model_flop_utilization:.1%} ({r.recipe.rounds:g} x forward, causal attention "
        f"at half), HFU {r.hardware_flop_utilization:.1%} (recomputation counted), of the 16-bit "
        "dense rate"
    )
    _print_run(report, out)
    _print_held("Memory", r.memory, r.usable_bytes, out)
    if r.roomy is not None:
        out.print(
            f"  No measured peak was more than {MEMORY_ERROR:.0%} off; with that much to spare "
            f"{r.roomy.describe()} takes {r.roomy_s / r.step_s - 1:.1%} longer"
        )
    _print_held("Host memory", r.host, r.usable_host_bytes, out)
    _print_held("Drives", r.drives, r.usable_drive_bytes, out)
    out.print(f"\nStep  bound by {r.bound}")
    for row in r.rows():
        out.print(f"  {row['part']:12s} {_bar(row['share'])} {show_s(row['seconds'])}")
    _print_more(report, out)


def _print_held(place: str, parts: dict[str, float], usable: float, out) -> None:
    """What a device keeps in one place; nothing where that place is not used."""
    from ..units import show_bytes

    used = sum(parts.values())
    if used <= 0:
        return
    out.print(f"\n{place}  {show_bytes(used)} of {show_bytes(usable)} usable a device")
    for name, value in sorted(parts.items(), key=lambda kv: -kv[1]):
        if value > 0:
            out.print(f"  {name:12s} {_bar(value / usable)} {show_bytes(value)}")


def _spread(r: PlanReport) -> float:
    import math

    from ..cost.interval import Z90

    return math.exp(Z90 * r.sigma)


def _bar(share: float) -> str:
    width = 40
    return ("#" * max(1, round(min(share, 1.0) * width))).ljust(width)


def _print_run(r: PlanReport, out) -> None:
    from ..units import show_count, show_energy, show_s

    if r.days is None:
        return
    price = r.device.price
    usd = f", {r.usd:,.0f} USD at {price.named}" if r.usd and price else ""
    energy = f", {show_energy(r.energy_joules)} in the devices" if r.energy_joules else ""
    g = r.goodput
    out.print(f"{show_count(r.job.tokens)} tokens: [bold]{r.days:.1f} days[/bold]{usd}{energy}")
    out.print(
        f"Goodput {g.useful:.1%}: a failure every {show_s(g.between_failures_s)} at the rate of "
        f"Llama 3's 16,384 H100, a checkpoint every {show_s(g.interval_s)} (Young and Daly)"
    )


def _nearest(r: PlanReport) -> PublishedRun:
    from ..training.published import nearest_run

    model = r.job.model
    return nearest_run(
        model.parameters, model.active_parameters, r.device.id, r.count, r.job.sequence_tokens
    )


def _print_more(r: PlanReport, out) -> None:
    from ..units import show_s

    if r.changes:
        out.print("\nWhat would help most")
        for c in r.changes:
            out.print(f"  {c.name}: {c.gain:+.1%} speed with {c.plan}")
    if r.runner_up is not None:
        out.print(
            f"\nRunner-up with another layout: {r.runner_up.describe()}, "
            f"{show_s(r.runner_up_s)} a step ({r.runner_up_s / r.step_s - 1:+.1%})"
        )
    near = _nearest(r)
    out.print(
        f"\nNearest published run: {near.name} ({near.plan}), {near.sequence_tokens:,} tokens a "
        f"sequence: {near.figure} ({near.citation()})"
    )
    if r.why_not:
        out.print(f"\nWhy not: {r.why_not}")
    if r.search is not None:
        s = r.search
        out.print(
            f"\n{s.considered:,} plans in {show_s(s.elapsed_s)}: {s.too_large:,} too large, "
            f"{s.outbid:,} ruled out by a bound, {s.priced:,} priced"
        )
    if not r.measured_family:
        out.print("No training run of this device family was measured: take the figures as rough.")
