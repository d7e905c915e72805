"""`isoflop formats list|show|compare|conformance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="formats", help="List, show and compare number formats.")

_JSON = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]
CODES_SHOWN = 256


def _row(fmt) -> dict:
    return {
        "name": fmt.name, "kind": type(fmt).__name__.removesuffix("Format").lower(),
        "bits": fmt.bits, "bits_per_value": fmt.bits_per_value, "max": fmt.max,
        "min_positive": fmt.min_positive, "eps": fmt.eps, "codes": fmt.code_count,
        "note": fmt.note,
    }  # fmt: skip


@app.command(name="list")
def list_formats(*, json: _JSON = False) -> None:
    """List the named formats and the patterns of whole families."""
    from ..numerics.formats import load, names
    from ..numerics.formats.named import PATTERNS
    from ._output import console, print_json, table

    rows = [_row(load(name)) for name in names()]
    if json:
        print_json({"formats": rows, "patterns": list(PATTERNS)})
        return
    cells = [
        [r["name"], r["kind"], f"{r['bits_per_value']:g}", f"{r['max']:.6g}",
         f"{r['min_positive']:.3g}", f"{r['eps']:.3g}"]
        for r in rows
    ]  # fmt: skip
    head = ["format", "kind", "bits/value", "max", "min positive", "eps"]
    out = console()
    out.print(table("Number formats", head, cells, left=2))
    out.print("Patterns: " + "; ".join(PATTERNS))


@app.command
def show(name: str, *, codes: Annotated[bool, Parameter(negative=())] = False,
         json: _JSON = False) -> None:  # fmt: skip
    """Show a format's derived values.

    Parameters
    ----------
    name
        A name or pattern, see `isoflop formats list`.
    codes
        Print every code and its value (up to 256 codes).
    """
    import numpy as np

    from ..errors import InvalidInput
    from ..numerics.formats import load
    from ._output import console, print_json, table

    fmt = load(name)
    record = _row(fmt)
    if codes and fmt.code_count > CODES_SHOWN:
        raise InvalidInput(f"'{fmt.name}' has {fmt.code_count} codes; {CODES_SHOWN} can be shown.")
    if codes:
        record["values"] = [float(v) for v in np.asarray(fmt.values)]
    if json:
        print_json(record)
        return
    values = record.pop("values", [])
    out = console()
    out.print(table(fmt.name, ["property", "value"], [[k, f"{v}"] for k, v in record.items()]))
    if values:
        cells = [[f"0x{i:02x}", f"{v:.10g}"] for i, v in enumerate(values)]
        out.print(table("Codes", ["code", "value"], cells))


@app.command
def compare(*formats: str, distribution: str = "normal", seed: int = 0,
            plot: Path | None = None, json: _JSON = False) -> None:  # fmt: skip
    """Compare the error of formats on a million random values of unit variance.

    Parameters
    ----------
    formats
        Two or more names, for example mxfp4 nvfp4 int4-g128 nf4.
    distribution
        normal, laplace, uniform or student (four degrees of freedom).
    plot
        Draw bits against error: .svg, .png or .html.
    """
    from ..numerics.comparison import compare_formats
    from ._output import check_chart, console, print_json, table, write_chart

    check_chart(plot)
    rows = compare_formats(formats, distribution, seed)
    title = f"Error on {distribution} values"
    if plot is not None:
        from ..plots.numerics import pareto_chart

        write_chart(pareto_chart(rows, title, "bits_per_value", "relative_rmse"), plot, quiet=json)
    if json:
        print_json(rows)
        return
    cells = [
        [r["format"], f"{r['bits_per_value']:.4f}", f"{r['relative_rmse']:.5f}",
         f"{r['sqnr_db']:.2f}", f"{r['db_per_bit']:.2f}", "yes" if r["undominated"] else ""]
        for r in rows
    ]  # fmt: skip
    head = ["format", "bits/value", "rel. RMSE", "SQNR dB", "dB/bit", "Pareto"]
    console().print(table(title, head, cells))


@app.command
def conformance(*, json: _JSON = False) -> None:
    """Count values that equal those of the libraries installed here, and of exact arithmetic."""
    from ..numerics.conformance import run
    from ._output import console, print_json, table

    rows = run()
    if json:
        print_json(rows)
        return
    cells = [
        [r["check"], r["against"], str(r["compared"]), str(r["different"]), r["note"]]
        for r in rows
    ]  # fmt: skip
    head = ["check", "against", "compared", "different", "note"]
    console().print(table("Conformance", head, cells, left=2))
    total, wrong = (sum(r[k] for r in rows) for k in ("compared", "different"))
    console().print(f"{total} values compared, {wrong} different.")


@app.command
def evolve(
    function: str = "exp2", *, operations: int = 6, budget: int = 10_000, seed: int = 0,
    json: _JSON = False,
) -> None:  # fmt: skip
    """Search a formula for an elementary function that beats polynomials of the same length.

    Parameters
    ----------
    function
        exp2, exp, log2, sqrt, rsqrt, sigmoid or tanh, on the interval range reduction leaves.
    operations
        Most additions, subtractions, products and divisions.
    budget
        Candidates tried (about 2,000 per CPU second).
    seed
        Seed of the search.
    """
    from ..numerics.arithmetic.evolve import FUNCTIONS, Target, minimax_polynomial
    from ..numerics.arithmetic.evolve import evolve as search
    from ._output import console, print_json, progress_bar

    with progress_bar("candidates", budget >= 3000) as progress:
        found = search(function, operations, budget=budget, seed=seed, progress=progress)
    base = minimax_polynomial(Target(name=function), operations)
    code = found.program.code(found.constants, function)
    _, low, high = FUNCTIONS[function]
    if json:
        print_json({
            "function": function, "interval": [low, high], "operations": found.operations,
            "error": found.error, "float32_error": found.float32_error, "code": code,
            "polynomial": {"operations": base.operations, "error": base.error},
            "evaluated": found.evaluated,
        })  # fmt: skip
        return
    out = console()
    out.print(code, highlight=False)
    out.print(
        f"Largest relative error on [{low:g}, {high:g}]: {found.error:.3g} in "
        f"{found.operations} operations ({found.float32_error:.3g} in float32). The best "
        f"polynomial of at most {operations} operations ({base.operations}): {base.error:.3g}, "
        f"{base.error / found.error:.3g} times as much."
    )


@app.command
def divergence(*, sequences: int = 32, steps: int = 48, seed: int = 0, json: _JSON = False) -> None:
    """How often greedy decoding parts when only the order of sums changes, by precision.

    Parameters
    ----------
    sequences
        Prompts that are decoded.
    steps
        Tokens after each.
    seed
        Seed of weights and prompts.
    """
    from ..errors import InvalidInput
    from ..numerics.decoding import SPLITS
    from ..numerics.decoding import divergence as measure
    from ._output import console, print_json, table

    if not (1 <= sequences <= 4096 and 1 <= steps <= 4096):
        raise InvalidInput("Between 1 and 4,096 sequences and steps can be decoded.")
    rows = measure(sequences=sequences, steps=steps, seed=seed)
    if json:
        print_json(rows)
        return
    cells = [
        [r["precision"], str(r["weight_bytes"]), f"{r['diverged']:.0%}",
         "-" if r["first_token"] is None else f"{r['first_token']:.0f}"]
        for r in rows
    ]  # fmt: skip
    head = ["computed in", "bytes/weight", "sequences that part", "at token, on average"]
    console().print(table(
        f"{sequences} sequences of {steps} tokens, sums in {', '.join(map(str, SPLITS))} pieces",
        head, cells,
    ))  # fmt: skip


@app.command
def train(
    *recipes: str, steps: int = 300, seeds: int = 2, rate: float = 3e-3, finish: float = 0.0,
    rounding: str = "toward_zero", json: _JSON = False,
) -> None:  # fmt: skip
    """Train a tiny transformer under formats and recipes: loss, spread, divergence, sharpness.

    Parameters
    ----------
    recipes
        fp32; a scalar format, to which the operands of every product are cut (e8m7, fp8-e4m3); a
        block format or quartet, a recipe of the linear layers. Default: some of each.
    steps
        Training steps, at least 20 (about 10 ms each).
    seeds
        Runs per recipe.
    rate
        Learning rate of Adam.
    finish
        Share of the steps, the last ones, in which a recipe's backward products are exact.
    rounding
        Of scalar formats; toward_zero masks bits.
    """
    from ..errors import InvalidInput
    from ..numerics.recipes import RECIPES_SHOWN
    from ..numerics.stability import bit_reduction
    from ._output import console, print_json, progress_bar, table

    if not 1 <= seeds <= 100:
        raise InvalidInput(f"{seeds} seeds; between 1 and 100 runs per recipe can be made.")
    names = recipes or RECIPES_SHOWN
    with progress_bar("recipes", True) as progress:
        rows = bit_reduction(
            [None if name == "fp32" else name for name in names], steps=steps, seeds=range(seeds),
            finish=finish, learning_rate=rate, rounding=rounding, progress=progress,
        )  # fmt: skip
    if json:
        print_json(rows)
        return
    cells = [
        [r["format"], f"{r['loss']:.4f}", f"{r['spread']:.4f}", f"{r['diverged']:.0%}",
         f"{r['evaluated']:.4f}", f"{r['sharpness_percent']:.4f}",
         "-" if r["noise_ratio"] is None else f"{r['noise_ratio']:.1f}"]
        for r in rows
    ]  # fmt: skip
    head = [
        "recipe",
        "loss",
        "spread",
        "diverged",
        "rounded after",
        "sharpness %",
        "gradient/noise",
    ]
    title = f"A one-block transformer after {steps} steps, {seeds} seeds (a uniform guess: 2.7726)"
    console().print(table(title, head, cells))
