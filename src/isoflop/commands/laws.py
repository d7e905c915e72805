"""`isoflop laws`: the catalog of published scaling laws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from ..scaling.published import PublishedLaw

app = App(name="laws", help="List, show and compare published scaling laws, and reproduce them.")
Flag = Annotated[bool, Parameter(negative=())]


@app.command(name="list")
def list_(*, json: Flag = False) -> None:
    """Every law form, and every published fit of it."""
    from ..scaling.law import find_law, law_names
    from ..scaling.published import load_published, published_names
    from ._output import console, print_json, table

    entries = [load_published(n) for n in published_names()]
    forms = [find_law(n) for n in law_names()]
    if json:
        print_json({
            "forms": [{"name": f.name, "predicts": f.output, "inputs": list(f.inputs),
                       "constants": [p.name for p in f.parameters], "reference": f.reference}
                      for f in forms],
            "published": [{"id": e.id, "name": e.name, "form": e.law, "trust": e.trust,
                           "source": e.citation()} for e in entries],
        })  # fmt: skip
        return
    out = console()
    rows = [[f.name, f.output, str(sum(e.law == f.name for e in entries)),
             f"{f.title} (from {', '.join(f.inputs)})"] for f in forms]  # fmt: skip
    out.print(table(f"{len(forms)} law forms", ["form", "predicts", "fits", "what it says"], rows,
                    left=4, wrap=True))  # fmt: skip
    rows = [[e.id, e.law, e.trust, e.citation()] for e in entries]
    out.print(table(f"{len(entries)} published fits", ["id", "form", "trust", "source"], rows,
                    left=4, wrap=True))  # fmt: skip


@app.command
def show(name: str, *, json: Flag = False) -> None:
    """One published fit, or a law form: constants with intervals, range, checks, optima.

    Parameters
    ----------
    name
        Id of a published fit, or name of a form.
    json
        Print JSON.
    """
    from ..scaling.law import find_law, law_names
    from ..scaling.published import load_published, published_names
    from ._output import console, print_json, table

    if name not in published_names() and name in law_names():
        _show_form(find_law(name), json)
        return
    entry = load_published(name)
    law = entry.form()
    checks = [{"inputs": dict(c.inputs), "name": c.name, "published": c.value,
               "evaluated": entry.evaluate(c)} for c in entry.checks]  # fmt: skip
    optima = _optima(entry)
    if json:
        print_json({"id": entry.id, "name": entry.name, "form": entry.law,
                    "convention": entry.convention, "constants": entry.constants,
                    "standard_errors": entry.standard_errors, "low95": entry.low95,
                    "high95": entry.high95, "valid": entry.ranges(), "trust": entry.trust,
                    "source": entry.citation(), "note": entry.note, "checks": checks,
                    "optima": optima})  # fmt: skip
        return
    out = console()
    out.print(f"[bold]{entry.name}[/] ({entry.id}): {law.title}")
    out.print(f"{entry.citation()}; {entry.convention}.")
    rows = [[p.name, f"{entry.constants[p.name]:.6g}",
             f"{entry.low95[p.name]:.4g} to {entry.high95[p.name]:.4g}"
             if p.name in entry.low95 else "-", p.meaning] for p in law.parameters]  # fmt: skip
    out.print(table("", ["constant", "value", "95% interval", "meaning"], rows, wrap=True))
    for key, (low, high) in entry.ranges().items():
        out.print(f"Fitted on {key} from {low:.3g} to {high:.3g}.")
    for c in checks:
        given = ", ".join(f"{k} {v:.4g}" for k, v in c["inputs"].items())
        out.print(f"Check: {given} gives {c['name']} {c['evaluated']:.5g} (published "
                  f"{c['published']:.5g}).")  # fmt: skip
    if optima:
        keys = list(optima[0])
        out.print(table("Optimum by budget", keys, [[f"{r[k]:.4g}" for k in keys]
                                                    for r in optima]))  # fmt: skip
    if entry.note:
        out.print(entry.note.strip())


def _show_form(law: Any, json: bool) -> None:
    from ._output import console, print_json, table

    if json:
        print_json({"form": law.name, "title": law.title, "reference": law.reference,
                    "inputs": list(law.inputs), "predicts": law.output,
                    "constants": {p.name: p.meaning for p in law.parameters}})  # fmt: skip
        return
    console().print(f"[bold]{law.name}[/]: {law.title} ({law.reference})")
    console().print(" ".join((type(law).__doc__ or "").split("References")[0].split()))
    rows = [[p.name, f"{p.low:g} to {p.high:g}", p.meaning] for p in law.parameters]
    console().print(table("", ["constant", "bounds", "meaning"], rows, wrap=True))


def _optima(entry: PublishedLaw) -> list[dict[str, float]]:
    from ..errors import InvalidInput

    rows = []
    for budget in (1e20, 1e22, 1e24, 1e26):
        try:
            best = entry.form().optimum(entry.theta(), budget)
        except InvalidInput:
            return []
        rows.append({"FLOP": budget, **best.inputs, entry.form().output: best.prediction})
    return rows


@app.command
def compare(budget: str = "1e24", *, json: Flag = False) -> None:
    """What every published law with an optimum says of one budget.

    Parameters
    ----------
    budget
        Training FLOP.
    json
        Print JSON.
    """
    from ..errors import InvalidInput
    from ..scaling.decide import load_law, parse_budget, spend
    from ..scaling.published import published_names
    from ..units import show_count
    from ._output import console, print_json, table

    flop = parse_budget(budget).flop
    rows = []
    for name in published_names():
        believed = load_law(name)
        try:
            found = spend(believed, flop)
        except InvalidInput:
            continue
        inputs = found.best.inputs
        rows.append({
            "law": name, "params": inputs["params"], "tokens": inputs["tokens"],
            "tokens_per_param": inputs["tokens"] / inputs["params"],
            "loss": found.best.prediction if believed.law.output == "loss" else None,
            "outside": _outside(found, flop),
        })  # fmt: skip
    rows.sort(key=lambda r: r["tokens_per_param"])
    if json:
        print_json({"budget_flop": flop, "laws": rows})
        return
    shown = [
        [r["law"], show_count(r["params"]), show_count(r["tokens"]), f"{r['tokens_per_param']:.1f}",
         "-" if r["loss"] is None else f"{r['loss']:.4f}", r["outside"]]
        for r in rows
    ]  # fmt: skip
    out = console()
    out.print(table(f"{flop:.3g} FLOP under every published law", ["law", "params", "tokens",
              "per param", "loss", "extrapolates"], shown, wrap=True))  # fmt: skip
    out.print("Losses are on each law's own data and tokenizer: compare sizes, not losses.")


def _outside(found: Any, flop: float) -> str:
    low, high = found.believed.valid.get("compute_flop", (0.0, float("inf")))
    del low
    if flop > high:
        return f"{flop / high:.3g} x its compute"
    return found.outside[0].split(" is ")[-1] if found.outside else "no"


@app.command
def reproduce(*, data: str = "", json: Flag = False) -> None:
    """Derive published constants again from public runs, and say what agrees.

    Parameters
    ----------
    data
        Folder of public runs; default: ISOFLOP_SHARED, or beside the project.
    json
        Print JSON.
    """
    from ..scaling.reproduce import data_folder
    from ..scaling.reproduce import reproduce as run
    from ._output import console, print_json, table

    found, absent, seconds = run(data_folder(data))
    papers = _tally([r for r in found if not r.refit])
    own = _tally([r for r in found if r.refit])
    if json:
        print_json({"fits": papers["fits"], "agree": papers["agree"], "strict": papers["strict"],
                    "refits": own["fits"], "refits_agree": own["agree"], "seconds": seconds,
                    "absent": absent, "rows": [r.row() for r in found]})  # fmt: skip
        return
    rows = [[r.fit, r.quantity, f"{r.published:.5g}", f"{r.ours:.5g}",
             "-" if r.error is None else f"{r.error:.2g}", "yes" if r.ok else "NO"]
            for r in found]  # fmt: skip
    out = console()
    out.print(table("", ["fit", "quantity", "published", "ours", "s.e.", "agrees"], rows,
                    left=2))  # fmt: skip
    out.print(
        f"{papers['agree']} of {papers['fits']} published fits agree: {papers['strict']} within 1% "
        "or 0.2 standard errors, the others within the digits or the tolerance of their rows. "
        f"{own['agree']} of {own['fits']} fits of this catalog to public runs come out the same "
        f"again. {seconds:.1f} s."
    )
    for fit, note in dict.fromkeys((r.fit, r.note) for r in found if r.note):
        out.print(f"{fit}: {note}.")
    for text in absent:
        out.print(f"Not run: {text}.")


def _tally(found: list[Any]) -> dict[str, int]:
    """Fits, those whose every row agrees, and those that agree strictly."""
    fits = {r.fit for r in found}
    return {
        "fits": len(fits),
        "agree": sum(all(r.ok for r in found if r.fit == f) for f in fits),
        "strict": sum(all(r.strict for r in found if r.fit == f) for f in fits),
    }


@app.command
def phases(
    *, alpha: float = 1.0, beta: float = 0.8, solve: bool = True, json: Flag = False
) -> None:
    """Compute-optimal exponents of SGD on power-law features: published by phase, and solved here.

    Parameters
    ----------
    alpha
        Decay of the data: eigenvalues j^(-2 alpha).
    beta
        Decay of the target: coefficients j^(-beta).
    solve
        Also solve the model at seven widths (about two CPU seconds).
    json
        Print JSON.
    """
    from ..errors import InvalidInput
    from ..scaling.models.random_features import before_noise, phase, sgd_frontier
    from ._output import console, print_json

    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 < value <= 10:
            raise InvalidInput(f"The exponent {name} is {value}; it lies between 0 and 10.")
    name, size, loss = phase(alpha, beta)
    record: dict[str, Any] = {"phase": name, "size_exponent": size, "loss_exponent": loss}
    if solve and size is not None:
        found = sgd_frontier(alpha, beta)
        record["solved"] = {"size_exponent": found.size_exponent,
                            "loss_exponent": found.loss_exponent}  # fmt: skip
    if name.startswith("IV"):
        early = before_noise(alpha, beta)
        record["before_noise"] = {"size_exponent": early[0], "loss_exponent": early[1]}
    if json:
        print_json(record)
        return
    out = console()
    if size is None or loss is None:
        out.print(f"Phase {name}: these exponents have no compute-optimal scaling.")
        return
    out.print(f"Phase {name}: size grows as compute^{size:.3f}, loss falls as compute^-{loss:.3f}.")
    if "solved" in record:
        s = record["solved"]
        out.print(f"Solved at finite widths: {s['size_exponent']:.3f} and "
                  f"-{s['loss_exponent']:.3f}; the exponents hold in the limit.")  # fmt: skip
    if "before_noise" in record:
        early = record["before_noise"]
        out.print("In phase IV the noise of SGD decides only at widths far beyond these; until "
                  f"then the exponents are {early['size_exponent']:.3f} and "
                  f"-{early['loss_exponent']:.3f}.")  # fmt: skip
    out.print("Source: Paquette et al. 2024, 4+3 Phases, arXiv 2405.15074.")


@app.command
def dynamics(
    *, task: float = 1.5, spectrum: float = 1.25, solve: bool = True, json: Flag = False
) -> None:
    """Exponents in time, width and compute of gradient flow on random features.

    Parameters
    ----------
    task
        Decay of the target's power over eigenfunctions, k^-task; above 1.
    spectrum
        Decay of the data's eigenvalues, k^-spectrum; above 1.
    solve
        Also solve the model at eight widths (a few CPU seconds).
    json
        Print JSON.
    """
    from ..scaling.models.random_features import dynamical_exponents, solve_dynamics
    from ._output import console, print_json, table

    found = solve_dynamics(task, spectrum) if solve else None
    published = dynamical_exponents(task, spectrum)
    solved = None if found is None else {k: getattr(found, k) for k in published}
    if json:
        print_json({"task": task, "spectrum": spectrum, "published": published, "solved": solved})
        return
    words = {
        "time": "loss against time, wide models: t^-",
        "size": "loss against width, trained long: N^-",
        "compute": "loss against compute, best width: C^-",
        "width": "best width against compute: C^",
    }
    rows = [[f"{words[k]}...", f"{v:.3f}", "-" if solved is None else f"{solved[k]:.3f}"]
            for k, v in published.items()]  # fmt: skip
    console().print(table("", ["exponent", "published", "solved"], rows))
    if solved is not None:
        console().print("Solved at widths from 16 to 181; the exponents hold in the limit.")
    console().print("Source: Bordelon et al. 2024, A Dynamical Model of Neural Scaling Laws, "
                    "arXiv 2402.01092.")  # fmt: skip


@app.command
def shapes(*fits: str, budget: str = "", json: Flag = False) -> None:
    """When to change a model's shape in training: patch size, width, context length.

    Parameters
    ----------
    fits
        A saved fit for each shape, of its error in compute: `isoflop fit runs.csv --law
        vision-shape --where patch=16 --out patch16.json`. Files are named after their shapes.
    budget
        Training FLOP over all shapes together, such as 1e19; default: the largest run's.
    json
        Print JSON.
    """
    import attrs

    from ..scaling.decide import load_law, parse_budget
    from ..scaling.shapes import schedule_shapes
    from ._output import console, print_json, table

    known = [load_law(f) for f in fits]
    largest = max((k.valid.get("compute_flop", (0, 0))[1] for k in known), default=0.0)
    found = schedule_shapes(known, parse_budget(budget).flop if budget else largest)
    if json:
        print_json(attrs.asdict(found))
        return
    rows = [[s.shape, f"{s.error_from:.4g}", f"{s.error_to:.4g}", f"{s.flop:.3g}",
             f"{s.flop / found.budget_flop:.0%}"] for s in found.segments]  # fmt: skip
    out = console()
    out.print(table(f"Shapes over {found.budget_flop:.3g} FLOP",
                    ["shape", "error from", "to", "FLOP", "of the budget"], rows))  # fmt: skip
    ends = found.saving95
    spread = "" if ends is None else f" (95% interval {ends[0]:.0%} to {ends[1]:.0%})"
    out.print(
        f"Error {found.error:.4g} with the budget; {found.single} alone reaches "
        f"{found.single_error:.4g}, for which the schedule needs {found.matching_flop:.3g} FLOP: "
        f"{found.saving:.0%} less{spread}. This assumes that a model keeps its error when it is "
        "reshaped."
    )
    out.print("Source: Anagnostidis et al. 2023, Navigating Scaling Laws, arXiv 2311.03233.")
