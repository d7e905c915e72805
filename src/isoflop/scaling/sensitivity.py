"""What a fit's choices change: objective, outliers, and how an optimum is read off the runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import evolve

from ..errors import IsoflopError
from .approaches import envelope, parabolas
from .columns import SIX, Runs
from .compare import compute_of
from .fit import LawFit, fit_law

BEYOND = 10.0


def sensitivity(runs: Runs, fit: LawFit) -> list[dict[str, Any]]:
    """The allocation under other choices, each a row; empty for laws without N and D.

    Objectives (Huber thresholds, plain squares), the five highest losses left out, exact FLOP in
    place of 6 N D where a column gives them, and Approaches 1 and 2 beside 3 (Hoffmann et al.
    2022, section 3).
    """
    law = fit.law
    if set(law.inputs) != {"params", "tokens"}:
        return []
    budget = BEYOND * float(compute_of(runs).max())
    rows: list[dict[str, Any]] = []

    def add(choice: str, made: LawFit) -> None:
        a, b = (law.optimum(made.theta, f) for f in (budget, budget * 10))
        slope = np.log10(b.inputs["params"] / a.inputs["params"])
        rows.append({"choice": choice, "exponent_params": float(slope),
                     "params_at": a.inputs["params"], "loss_at": a.prediction})  # fmt: skip

    add(f"as fitted (delta {fit.delta:g})", fit)
    order = np.argsort(runs.columns[law.output], kind="stable")
    alternatives = {
        "delta 0.01": lambda: fit_law(runs, law, delta=1e-2),
        "squares": lambda: fit_law(runs, law, delta=1e3),
        "five highest losses left out": lambda: fit_law(
            runs.take(np.sort(order[:-5])), law, delta=fit.delta
        ),
    }
    ratio = compute_of(runs) / (SIX * runs.columns["params"] * runs.columns["tokens"])
    if np.ptp(ratio) > 0.03 or abs(np.median(ratio) - 1.0) > 0.03:
        exact = {**runs.columns, "tokens": compute_of(runs) / (SIX * runs.columns["params"])}
        alternatives["D from exact FLOP, C / (6 N)"] = lambda: fit_law(
            evolve(runs, columns=exact), law, delta=fit.delta
        )
    for choice, make in alternatives.items():
        try:
            add(choice, make())
        except IsoflopError:
            continue
    for name, method in (("approach 1, envelope", envelope), ("approach 2, isoFLOP parabolas",
                                                              parabolas)):  # fmt: skip
        found = method(runs, law.output)
        if found is not None:
            rows.append({"choice": name, "exponent_params": found.exponent,
                         "params_at": found.params(budget), "loss_at": None})  # fmt: skip
    return rows
