"""`isoflop score`: training methods and models at equal cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

app = App(name="score", help="Score training methods and models at equal cost.")
Flag = Annotated[bool, Parameter(negative=())]


def _rows(file: str, columns: tuple[str, ...], demo: str) -> list[dict[str, str]]:
    """Rows of a CSV, or of the generated table `demo` where the file is called that."""
    import csv

    from ..errors import InvalidInput
    from ..scoring.demo import demo_file

    path = demo_file(demo) if file == "demo" else Path(file)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise InvalidInput(
                    f"'{file}' lacks the columns {', '.join(missing)}; it needs "
                    f"{', '.join(columns)}."
                )
            rows = [{k: v or "" for k, v in row.items() if k} for row in reader]
    except OSError as error:
        raise InvalidInput(f"'{file}' cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"'{file}' is not a text file.") from None
    if not rows:
        raise InvalidInput(f"'{file}' has a header but no rows.")
    return rows


@app.command
def algoperf(file: str, *, longest: float = 4.0, json: Flag = False) -> None:
    """Time-to-result scores of training algorithms (AlgoPerf): area under performance profiles.

    Parameters
    ----------
    file
        CSV with submission, workload, seconds, or demo. Empty seconds: the target was not reached.
        Repeated rows are studies, whose median counts.
    longest
        Ratio to the fastest at which the profiles end.
    json
        Print JSON.
    """
    from ..scoring.algoperf import performance_profiles, read_times
    from ._output import console, print_json, table

    found = performance_profiles(
        read_times(_rows(file, ("submission", "workload", "seconds"), "times.csv")), longest
    )
    order = sorted(range(len(found.names)), key=lambda i: -found.scores[i])
    records: list[dict[str, Any]] = [
        {"submission": found.names[i], "score": float(found.scores[i]),
         "fastest_share": float(found.profile(i, 1.0)[0]),
         "within_longest": float(found.profile(i, longest)[0])}
        for i in order
    ]  # fmt: skip
    if json:
        print_json({"longest": longest, "workloads": list(found.workloads), "scores": records})
        return
    rows = [[r["submission"], f"{r['score']:.3f}", f"{r['fastest_share']:.0%}",
             f"{r['within_longest']:.0%}"] for r in records]  # fmt: skip
    console().print(table(
        f"{len(found.workloads)} workloads", ["submission", "score", "fastest on",
                                              f"within {longest:g}x on"], rows,
    ))  # fmt: skip


@app.command
def languini(file: str, *, hours: str = "", json: Flag = False) -> None:
    """Models at equal accelerator hours (Languini), instead of equal tokens or parameters.

    Parameters
    ----------
    file
        CSV with model, tokens, loss, tokens_per_s (on the reference accelerator), a row per point;
        or demo.
    hours
        Compute classes, comma-separated; default 6,12,24,48,96.
    json
        Print JSON.
    """
    from ..errors import InvalidInput
    from ..scoring.equal_hours import CLASSES_HOURS, compare, read_curves
    from ._output import console, print_json, table

    try:
        classes = [float(h) for h in hours.split(",") if h.strip()] or list(CLASSES_HOURS)
    except ValueError:
        raise InvalidInput(f"'{hours}' is not a list of hours: write 6,12,24.") from None
    records = compare(
        read_curves(_rows(file, ("model", "tokens", "loss", "tokens_per_s"), "curves.csv")), classes
    )
    if json:
        print_json({"records": records})
        return
    rows = [[f"{r['hours']:g}", r["model"], "-" if r["loss"] is None else f"{r['loss']:.4f}",
             "best" if r["best"] else "",
             "-" if r["speedup"] is None else f"{r['speedup']:.2f}x"]
            for r in records]  # fmt: skip
    console().print(table("Loss at equal accelerator hours", ["hours", "model", "loss", "",
                          "the best is faster by"], rows))  # fmt: skip


@app.command(name="sort-search")
def sort_search(file: str, *, samples: int = 100, json: Flag = False) -> None:
    """A new model's score on a benchmark from a few samples (Sort & Search).

    The last row of the file is the new model; only its evaluated samples are looked at, and the
    rest, where known, says how far the prediction is off.

    Parameters
    ----------
    file
        CSV with a column model and one column per sample, 1 where the model is right; or demo.
    samples
        Samples the new model is evaluated on.
    json
        Print JSON.
    """
    import numpy as np

    from ..errors import InvalidInput
    from ..scoring.sort_search import predict, rank, sample_places
    from ._output import console, print_json

    rows = _rows(file, ("model",), "answers.csv")
    names = [k for k in rows[0] if k != "model"]
    try:
        table = np.array([[int(row[k]) for k in names] for row in rows])
    except ValueError:
        raise InvalidInput("Every answer is 0 or 1; a cell holds something else.") from None
    if len(table) < 3:
        raise InvalidInput(f"Two known models and a new one are needed, not {len(table)} rows.")
    ranked = rank(table[:-1])
    places = sample_places(len(names), samples)
    new = table[-1]
    believed, accuracy = predict(ranked, places, new[ranked.order[places]])
    record = {
        "model": rows[-1]["model"], "samples": len(places), "of": len(names),
        "predicted_accuracy": accuracy,
        "actual_accuracy": float(new.mean()),
        "wrong_answers": float(np.mean(believed != new)), "unexplained": ranked.error,
    }  # fmt: skip
    if json:
        print_json(record)
        return
    console().print(
        f"{record['model']}: accuracy {accuracy:.1%} from {record['samples']} of {len(names):,} "
        f"samples (all of them: "
        f"{record['actual_accuracy']:.1%}). {record['wrong_answers']:.1%} of single answers are "
        f"predicted wrong; thresholds cannot explain {ranked.error:.1%} of the known ones."
    )
