"""`isoflop training`: pipeline schedules, failures and recomputation, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from ._options import Count
from .limits import limits
from .recompute import recompute

app = App(name="training", help="Pipeline schedules, failures and recomputation, one by one.")
app.command(recompute)
app.command(limits)
Flag = Annotated[bool, Parameter(negative=())]


@app.command
def schedules(
    *,
    stages: int = 4,
    micro_batches: int = 16,
    chunks: int = 2,
    forward: float = 1.0,
    backward: float = 1.0,
    weight: float = 1.0,
    transfer: float = 0.0,
    json: Flag = False,
    plot: Path | None = None,
) -> None:
    """Pipeline schedules event by event, beside their closed forms.

    Parameters
    ----------
    stages
        Pipeline stages.
    micro_batches
        Micro-batches of a step.
    chunks
        Model chunks per stage, for the interleaved schedule.
    forward
        Seconds of one micro-batch forward on one stage.
    backward
        Seconds of its inputs' gradient.
    weight
        Seconds of its weights' gradient.
    transfer
        Seconds to send activations to the next stage.
    json
        Print JSON.
    plot
        Draw the timelines: .svg, .png or .html.
    """
    from ..errors import InvalidInput, InvalidPlan
    from ..training.schedule import StageTimes, find_schedule, schedule_names
    from ._output import print_json

    for name, value in (("forward", forward), ("backward", backward), ("weight", weight)):
        if not 0 < value < float("inf"):
            raise InvalidInput(f"The {name} time is {value}; it must be a positive number.")
    if not 0 <= transfer < float("inf"):
        raise InvalidInput(f"The transfer time is {transfer}; it must be zero or more.")
    t = StageTimes(forward_s=forward, backward_s=backward, weight_s=weight)
    rows, lines = [], {}
    absent = []
    for name in schedule_names():
        schedule = find_schedule(name)
        v = chunks if name == "interleaved" else 1
        try:
            line = schedule.run([t] * stages, micro_batches, chunks=v, transfer_s=transfer)
        except InvalidPlan as error:
            absent.append({"schedule": name, "reason": str(error)})
            continue
        lines[name] = line
        rows.append({"schedule": name, "total_s": line.total_s,
                     "closed_form_s": schedule.closed_form_s(stages, micro_batches, v, t),
                     "bubble": line.bubble, "peak_in_flight": max(line.peak_in_flight),
                     "reference": schedule.reference})  # fmt: skip
    if not rows:
        raise InvalidPlan(absent[0]["reason"])
    if json:
        print_json(rows + absent)
    else:
        _print_schedules(f"{stages} stages, {micro_batches} micro-batches", rows, absent)
    if plot is not None:
        from ..plots.pipeline import chart
        from ._output import write_chart

        write_chart(chart(lines), plot, quiet=json)


def _print_schedules(title: str, rows: list[dict[str, Any]], absent: list[dict[str, Any]]) -> None:
    """Schedules as a table, and why some are not in it."""
    from ._output import console, table

    shown = [[r["schedule"], f"{r['total_s']:.4g}", f"{r['closed_form_s']:.4g}",
              f"{r['bubble']:.1%}", f"{r['peak_in_flight']:.3g}",
              r["reference"].split(", arXiv ")[-1]]
             for r in rows]  # fmt: skip
    columns = ["schedule", "step", "closed form", "bubble", "most in flight", "arXiv"]
    console().print(table(title, columns, shown))
    console().print("Closed forms hold for even stages and free transfers.")
    for r in absent:
        console().print(f"{r['schedule']} is left out: {r['reason']}")


@app.command
def failures(
    *,
    devices: int,
    per_device_hour: float = 0.0,
    restart: float = 600.0,
    checkpoint: float = 60.0,
    days: float = 30.0,
    runs: int = 200,
    json: Flag = False,
) -> None:
    """Checkpoint interval and goodput: Young, Daly, and a simulation.

    Parameters
    ----------
    devices
        Devices of the job.
    per_device_hour
        Failures per device-hour; default: Llama 3's 419 in 54 days on 16,384 devices.
    restart
        Seconds from a failure to running again.
    checkpoint
        Seconds a checkpoint stops the job.
    days
        Days of useful work.
    runs
        Simulated lives.
    json
        Print JSON.
    """
    from ..errors import InvalidInput
    from ..training.failures import Failures, daly_s, expected_s, simulate_s, young_s
    from ..training.goodput import FAILURES_PER_DEVICE_HOUR
    from ..units import show_s
    from ._output import console, print_json, table

    if devices < 1 or runs < 2 or not 0 < days < float("inf"):
        raise InvalidInput("Give at least one device, two runs and a positive number of days.")
    rate = per_device_hour or FAILURES_PER_DEVICE_HOUR
    f = Failures(mtbf_s=3600.0 / (rate * devices), restart_s=restart, checkpoint_s=checkpoint)
    work = days * 86400.0
    rows = []
    best = daly_s(f)
    choices = {"Young": young_s(f), "Daly": best, "half of Daly": best / 2, "twice Daly": best * 2}
    for name, interval in choices.items():
        sample = simulate_s(f, work, interval, runs=runs)
        half = 1.645 * sample.std(ddof=1) / len(sample) ** 0.5
        rows.append({"interval": name, "interval_s": interval,
                     "goodput": work / expected_s(f, work, interval),
                     "simulated_goodput": float(work / sample.mean()),
                     "low": float(work / (sample.mean() + half)),
                     "high": float(work / (sample.mean() - half))})  # fmt: skip
    if json:
        print_json({"mtbf_s": f.mtbf_s, "rows": rows})
        return
    shown = [[r["interval"], show_s(r["interval_s"]), f"{r['goodput']:.2%}",
              f"{r['simulated_goodput']:.2%}", f"{r['low']:.2%} - {r['high']:.2%}"]
             for r in rows]  # fmt: skip
    console().print(f"{devices:,} devices fail every {show_s(f.mtbf_s)}.")
    columns = ["checkpoint every", "", "goodput", "simulated", "90% interval"]
    console().print(table("", columns, shown))


@app.command
def methods(*, json: Flag = False) -> None:
    """Training ideas from papers, with their options."""
    from ..training.method import find_training_method, training_method_names
    from .methods import list_methods

    list_methods([(n, find_training_method(n)) for n in training_method_names()], json)


@app.command
def run(
    name: str,
    model: str,
    *,
    on: str,
    sequence: Count = 2048,
    option: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    json: Flag = False,
) -> None:
    """What a training method does for a model on a fleet.

    Parameters
    ----------
    name
        A method; see `isoflop training methods`.
    model
        Catalog id or alias, or a Hugging Face config.json.
    on
        Device or fleet.
    sequence
        Tokens of a sequence.
    option
        An option of the method, as name=value; may be repeated.
    json
        Print JSON.
    """
    from ..errors import InvalidInput
    from ..hardware import load_fleet
    from ..models import load_asked
    from ..training.method import Setting, find_training_method
    from .methods import parse_options, print_method

    method = find_training_method(name)
    settings = method.complete(parse_options(option))
    spec = load_asked(model)
    if not 1 <= sequence <= 1 << 24:
        raise InvalidInput(f"A sequence has between 1 and 16,777,216 tokens, not {sequence}.")
    device, count, cluster = load_fleet(on)
    setting = Setting(
        model=spec, device=device, count=count, cluster=cluster, sequence_tokens=sequence
    )
    report = method.run(setting, settings)
    print_method(name, method, report, {"model": spec.id, "device": device.id}, json)
