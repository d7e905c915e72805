"""Laws against each other: fit the cheap runs, predict the dear ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from .columns import SIX, Runs
from .fit import fit_law
from .law import Law

Array = NDArray[Any]

DECADE = 10.0


def compute_of(runs: Runs) -> Array:
    """Training FLOP of each run: its own column, else 6 N D."""
    if "compute_flop" in runs.columns:
        return runs.columns["compute_flop"]
    if {"params", "tokens"} <= runs.columns.keys():
        return SIX * runs.columns["params"] * runs.columns["tokens"]
    raise FitError("Holding out the dearest runs needs parameters and tokens, or FLOP, per run.")


def top_decade(flop: Array, fewest: int) -> tuple[Array, Array, float]:
    """Indices of the runs up to a tenth of the largest compute and above it, and that limit.

    Raises
    ------
    FitError
        If fewer than `fewest` runs lie below or fewer than two above.
    """
    limit = flop.max() / DECADE
    below, above = np.nonzero(flop <= limit)[0], np.nonzero(flop > limit)[0]
    if len(below) < fewest or len(above) < 2:
        raise FitError(
            f"{len(below)} runs lie below a tenth of the largest compute and {len(above)} above; "
            f"holding out needs {fewest} and 2. Add cheap runs."
        )
    return below, above, float(limit)


def extrapolate(
    runs: Runs, law: Law, *, delta: float | None = None, bootstrap: int = 400, seed: int = 0
) -> dict[str, Any]:
    """Fit below a tenth of the largest compute, predict what lies above.

    Returns runs fitted and predicted, mean and median absolute error in percent, the coverage of
    the 90% prediction interval (None without bootstrap), and the error of a constant (the mean of
    the fitted decade).

    Raises
    ------
    FitError
        If either part has too few runs.
    """
    flop = compute_of(runs)
    below, above, limit = top_decade(flop, len(law.parameters) + 4)
    fit = fit_law(runs.take(below), law, delta=delta, bootstrap=bootstrap, seed=seed)
    test = runs.take(above)
    x, y = test.data(law), test.columns[law.output]
    predicted = fit.predict(x)
    coverage = None
    if bootstrap:
        low, high = fit.prediction_interval(x, 0.90)
        coverage = float(np.mean((y >= low) & (y <= high)) * 100)
    error = np.abs(predicted / y - 1.0)
    near = runs.columns[law.output][below][flop[below] > limit / DECADE]
    constant = np.abs(near.mean() / y - 1.0)
    return {
        "law": law.name, "fitted": len(below), "predicted": len(above), "limit_flop": float(limit),
        "mean_abs_pct": float(error.mean() * 100), "median_abs_pct": float(np.median(error) * 100),
        "bias_pct": float((predicted / y - 1.0).mean() * 100),
        "coverage_90": coverage,
        "baseline_mean_abs_pct": float(constant.mean() * 100),
    }  # fmt: skip
