"""`isoflop validate [FILE]`: predictions against published measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..evidence.summary import Summary


def validate(
    file: Path | None = None,
    *,
    on: str = "",
    metric: str = "",
    role: str = "",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Predict every row of a measurement file and report the error by source.

    Parameters
    ----------
    file
        CSV (serving, silicon or training schema, or a kernel table) or an operator table in
        Parquet; default: the published figures of the project's own catalog.
    on
        Device of a kernel table whose path does not name it.
    metric
        Only rows of one metric, such as tpot_s.
    role
        Only rows with role fit or check.
    json
        Print JSON: {"summary": [...], "rows": [...]}.
    """
    import sys

    from ..errors import InvalidInput
    from ..evidence.kernel_tables import predict_kernel_table
    from ..evidence.operator_rows import predict_operator_table
    from ..evidence.predict import predict_cases
    from ..evidence.published import published_cases
    from ..evidence.read import read_cases
    from ..evidence.summary import summarise

    if role not in ("", "fit", "check"):
        raise InvalidInput(f"The role is '{role}'; it must be fit or check.")
    if file is not None and file.suffix == ".parquet":
        items = [p for p in predict_operator_table(file) if role in ("", p.case.role)]
        _show(summarise(items), json)
        return
    if file is not None and (found := predict_kernel_table(file, on)) is not None:
        _show(summarise([p for p in found if role in ("", p.case.role)]), json)
        return
    if on:
        raise InvalidInput("--on names the device of a kernel table; other rows name their own.")
    cases = read_cases(file) if file else published_cases()
    cases = [c for c in cases if metric in ("", c.metric) and role in ("", c.role)]
    if not cases:
        raise InvalidInput("No row has that metric and role; leave the filters out to see all.")
    if sys.stderr.isatty():
        from rich.progress import Progress

        with Progress(transient=True) as bar:
            task = bar.add_task("predicting", total=sum(not c.reason for c in cases))
            predictions = predict_cases(cases, lambda n: bar.advance(task, n))
    else:
        predictions = predict_cases(cases)
    _show(summarise(predictions), json)


def _show(summary: Summary, json: bool) -> None:
    from ._output import console, print_json, table

    if json:
        print_json({"summary": summary.rows(), "rows": summary.predictions()})
        return
    body = [
        [r["source"][:38], r["metric"], r["role"], str(r["rows"]), str(r["supported"]),
         *(f"{r[k]:.1f}" if r[k] is not None else "-" for k in
           ("median_abs_pct", "mean_abs_pct", "p90_abs_pct", "bias_pct", "coverage_90",
            "baseline_mean_abs_pct"))]
        for r in summary.rows()
    ]  # fmt: skip
    columns = ["source", "metric", "role", "rows", "priced", "med", "mean", "p90", "bias", "in 90",
               "base"]  # fmt: skip
    console().print(table("Predicted against measured (errors in %)", columns, body, left=3))
    console().print(
        "Baseline: the best single constant of each source and metric (its own median), the "
        "mean error a table without any model would have."
    )
    for reason, count in summary.reasons():
        console().print(f"{count:6d} rows not priced: {reason}")
