"""The routed laws of Clark et al. fitted again to their public curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .law import Array, Law
from .published import load_published
from .reproduced import Reproduced, column, read_table, standard_errors
from .solve import generic

Rows = list[dict[str, str]]

ROUTERS = {"sbase": ("S-Base", 0.72), "rlr": ("RL-R", 1.60), "hash": ("Hash", 0.98)}
"""Name in the table, and the mean error in percent of the published constants on its runs."""
SEED = "42"
"""The runs of other seeds are few and not part of the authors' fit."""
DIGIT = 0.0005
"""Half a unit of the last digit of table 3."""


def clark(folder: Path) -> list[Reproduced]:
    """Clark et al. 2022: the three routed laws, by the recipe of the authors' notebook.

    The last checkpoint of every run with one expert per token in every other block and seed 42,
    the dense runs as runs with one expert, and least squares of log loss.
    """
    runs = _last_checkpoints(read_table(folder / "deepmind_routing_curves.csv.gz"))
    dense = [r for r in runs if r["router_type"] == "Dense" and float(r["flop_increase"]) == 1]
    out = []
    for tag, (router, published) in ROUTERS.items():
        entry = load_published(f"clark-2022-{tag}")
        law = entry.form()
        routed = [r for r in runs if r["router_type"] == router]
        x, y = _columns(routed)
        error = float(np.mean(np.abs(law.predict(entry.theta(), x) / y - 1.0)) * 100)
        out.append(Reproduced(fit=entry.id, quantity="mean error, %", published=published,
                              ours=error, tolerance=0.05))  # fmt: skip
        theta, errors = _refit(law, entry.theta(), *_columns(dense + routed))
        out += [
            Reproduced(fit=entry.id, quantity=name, published=entry.constants[name],
                       ours=float(theta[k]), error=float(errors[k]), digit=DIGIT,
                       tolerance=float(errors[k]) / abs(entry.constants[name]),
                       note="standard errors are of our fit, and one of them is the tolerance")
            for k, name in enumerate(p.name for p in law.parameters)
        ]  # fmt: skip
    return out


def _last_checkpoints(rows: Rows) -> Rows:
    """The last row of every run that the fits use."""
    last: dict[str, dict[str, str]] = {}
    for r in rows:
        if r["seed"] == SEED and float(r["k"]) == 1 and float(r["routing_frequency"]) == 0.5:
            held = last.get(r["hyper_id"])
            if held is None or float(r["step"]) > float(held["step"]):
                last[r["hyper_id"]] = r
    return list(last.values())


def _columns(rows: Rows) -> tuple[dict[str, Array], Array]:
    x = {"params": column(rows, "dense_parameter_count"), "experts": column(rows, "num_experts")}
    return x, column(rows, "loss_validation")


def _refit(law: Law, start: Array, x: dict[str, Array], y: Array) -> tuple[Array, Array]:
    """Least squares of log loss from starts around the published constants, and standard errors."""
    rng = np.random.default_rng(0)
    starts = start * (1.0 + 0.2 * rng.standard_normal((8, len(start))))
    theta, value, _ = generic(law, x, y, starts, delta=1e3, log_residual=True, iterations=600)
    best = theta[int(np.argmin(value))]
    fitted = law.predict(best, x)
    return best, standard_errors(law.gradient(best, x) / fitted[:, None], np.log(fitted / y))
