"""`isoflop methods`: serving ideas from papers, priced for a model and a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

app = App(name="methods", help="Serving ideas from papers, priced for a model and a device.")


@app.command(name="list")
def list_(*, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Every method, its paper and its options."""
    from ..serving.method import find_method, method_names

    list_methods([(n, find_method(n)) for n in method_names()], json)


def list_methods(found: list[tuple[str, Any]], json: bool) -> None:
    """Print names, papers and options."""
    from ._output import console, print_json, table

    if json:
        print_json([{"name": n, "title": m.title, "reference": m.reference,
                     "options": {k: {"default": v[0], "meaning": v[1]}
                                 for k, v in m.options.items()}} for n, m in found])  # fmt: skip
        return
    out = console()
    out.print(table("", ["method", "paper", ""], [[n, m.reference, m.title] for n, m in found],
                    left=3, wrap=True))  # fmt: skip
    for n, m in found:
        out.print(f"{n}: " + ", ".join(f"{k}={v[0]:g} ({v[1]})" for k, v in m.options.items()))


@app.command
def run(
    name: str,
    model: str,
    *,
    on: str,
    plan: str = "",
    weights: str = "",
    kv: str = "bf16",
    engine: str = "default",
    option: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    plot: Path | None = None,
) -> None:
    """What a method does for a model on a device.

    Parameters
    ----------
    name
        A method; see `isoflop methods list`.
    model
        Catalog id or alias, or a Hugging Face config.json.
    on
        Device or fleet.
    plan
        Parallel plan; default: tensor parallel over the fleet.
    weights
        Number format of the weights; default: as published where that is below 16 bits, else bf16.
    kv
        Number format of the cache.
    engine
        Engine whose overheads apply.
    option
        An option of the method, as name=value; may be repeated.
    out
        File of the values over time behind the table, .csv or .json, for methods that simulate
        in time.
    json
        Print JSON.
    plot
        Draw these values over time: .svg, .png or .html.
    """
    from ..cost.engines import named_engine
    from ..cost.step import StepModel
    from ..errors import InvalidInput
    from ..hardware import load_fleet
    from ..models import load_asked
    from ..plans import Formats, Plan, parse_plan
    from ..serving.method import find_method

    method = find_method(name)
    given = parse_options(option)
    device, count, cluster = load_fleet(on)
    spec = load_asked(model)
    formats = Formats.for_model(spec, weights, kv=kv)
    chosen = parse_plan(plan, formats) if plan else Plan(tensor=count, formats=formats)
    # Fit is not asked for: hybrid methods are for models that do not.
    chosen.check(spec)
    step = StepModel(model=spec, plan=chosen, device=device, cluster=cluster,
                     engine=named_engine(engine))  # fmt: skip
    report = method.run(step, method.complete(given))
    if (out is not None or plot is not None) and not report.series:
        raise InvalidInput(
            f"The method {name} has no values over time to write or draw; methods that simulate in "
            "time do, such as row-power."
        )
    print_method(name, method, report, {"model": spec.id, "device": device.id}, json)
    if out is not None:
        from ._output import write_records

        write_records(out, report.series)
        if not json:
            print(f"{len(report.series):,} records written to {out}.")
    if plot is not None:
        from ..plots.serving import power
        from ._output import write_chart

        write_chart(power(report.series), plot, quiet=json)


def parse_options(option: list[str] | None) -> dict[str, float]:
    """`name=number` texts as a dictionary."""
    from ..errors import InvalidInput

    given: dict[str, float] = {}
    for text in option or []:
        key, sign, value = text.partition("=")
        try:
            given[key.strip()] = float(value)
        except ValueError:
            raise InvalidInput(f"'{text}' is not an option: write name=number.") from None
        if not sign:
            raise InvalidInput(f"'{text}' is not an option: write name=number.")
    return given


def print_method(name: str, method: Any, report: Any, about: dict[str, str], json: bool) -> None:
    """A method's table and conclusion, or its JSON."""
    from ._output import console, print_json, table

    if json:
        print_json({"method": name, "reference": method.reference, **about,
                    "rows": report.rows(), "conclusion": report.conclusion})  # fmt: skip
        return
    rows = [[_cell(c, r[c]) for c in report.columns] for r in report.records]
    heads = [_head(c) for c in report.columns]
    console().print(table(report.title, heads, rows))
    console().print(f"{report.conclusion} ({method.reference})")


def _head(column: str) -> str:
    rate = column.removesuffix("_per_s")
    name = f"{rate}/s" if rate != column else column.removesuffix("_s")
    return name.replace("_", " ")


def _cell(column: str, value: Any) -> str:
    from ..units import show_bytes, show_count, show_number, show_s

    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if "loss" in column:
        return f"{value:.4f}"
    if column.endswith("_s") and not column.endswith("_per_s"):
        return show_s(value)
    if column.endswith("_bytes"):
        return show_bytes(value)
    if isinstance(value, int):
        return f"{value:,}"
    # Large numbers with a letter, never in powers of ten.
    if abs(value) >= 1e6:
        return show_count(value)
    return show_number(value)
