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


EMBEDDING = 47491.0
"""Embedding parameters over the cube root of the others, at a vocabulary of 32,000 and a context of
2,048 (Pearce and Song 2024, Reconciling Kaplan and Chinchilla Scaling Laws, arXiv 2406.12907)."""


def sensitivity(runs: Runs, fit: LawFit) -> list[dict[str, Any]]:
    """The allocation under other choices, each a row; empty for laws without N and D.

    Objectives (Huber thresholds, plain squares), the five highest losses left out, exact FLOP in
    place of 6 N D where a column gives them, sizes without embeddings (taking the given ones as
    totals), and Approaches 1 and 2 beside 3 (Hoffmann et al.
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
    rows += _without_embeddings(runs, fit, budget)
    for name, method in (("approach 1, envelope", envelope), ("approach 2, isoFLOP parabolas",
                                                              parabolas)):  # fmt: skip
        found = method(runs, law.output)
        if found is not None:
            rows.append({"choice": name, "exponent_params": found.exponent,
                         "params_at": found.params(budget), "loss_at": None})  # fmt: skip
    return rows


def without_embeddings(params: Any) -> Any:
    """Parameters less embeddings, from totals: the root of u^3 + 47491 u = N, cubed."""
    n = np.asarray(params, float)
    u = np.cbrt(n)
    for _ in range(60):
        u = u - (u**3 + EMBEDDING * u - n) / (3.0 * u * u + EMBEDDING)
    return u**3


def _without_embeddings(runs: Runs, fit: LawFit, budget: float) -> list[dict[str, Any]]:
    """The allocation counted without embeddings, in size and in 6 N D; N* as a total again."""
    fewer = {**runs.columns, "params": without_embeddings(runs.columns["params"])}
    try:
        made = fit_law(evolve(runs, columns=fewer), fit.law, delta=fit.delta)
        best = [fit.law.optimum(made.theta, f) for f in (budget, budget * 10)]
    except IsoflopError:
        return []
    size = [b.inputs["params"] for b in best]
    return [{
        "choice": "N and 6 N D without embeddings (estimated)",
        "exponent_params": float(np.log10(size[1] / size[0])),
        "params_at": float(size[0] + EMBEDDING * np.cbrt(size[0])),
        "loss_at": best[0].prediction,
    }]  # fmt: skip
