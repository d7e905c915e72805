"""Predicting dearer runs: several law forms, weighted by how well each would have done before.

One form fitted to all runs extrapolates with the error of its form: a floor fitted to cheap runs
is too high, a law without one too low, and an interval from the runs' scatter holds neither. So
each form is fitted on three spans of compute, up to all of it, and each of these members is tried
inside the runs: fitted below an origin, it predicts the decade above it. Weights are inverse to the
mean square of those errors, and the interval holds both the members' disagreement, which grows with
distance, and the error that the combination itself made inside the runs.

References
----------
Bates and Granger 1969, The Combination of Forecasts, Operational Research Quarterly 20(4): weights.
Tashman 2000, Out-of-sample tests of forecasting accuracy, Int. J. Forecasting 16(4): origins.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from ..errors import FitError, IsoflopError
from .columns import SIX, Runs
from .compare import DECADE, compute_of, extrapolate, top_decade
from .fit import fit_law, student_quantile
from .law import DELTA, find_law

Array = NDArray[Any]
Points = dict[str, Array]
"""`params` and `tokens`, each (points,)."""

FORMS = ("chinchilla", "outer-power", "kaplan-joint")
"""With a floor, with a floor under an outer exponent, and without one."""
SPANS = (np.inf, 100.0, 20.0)
"""Largest over smallest compute of the runs that a member is fitted on."""
RATIO = 3.0
"""How far the tokens per parameter of those runs may lie outside the predicted ones'."""
ORIGINS = (10**-0.5, 10**-1.0, 10**-1.5)
"""Trial origins as shares of the largest compute."""
FEWEST, FEWEST_TARGETS = 12, 3


@frozen(kw_only=True, eq=False)
class Member:
    """One form on one span: its weight, and its mean absolute error in the trials."""

    form: str
    span: float
    weight: float
    trial_error: float


@frozen(kw_only=True, eq=False)
class Forecast:
    """Predicted losses of runs.

    Attributes
    ----------
    at : dict of arrays (points,)
    value, low, high : array (points,)
        Loss and the ends of its interval.
    trial_error : float
        Root mean square of the combination's log error in the trials, weights taken from the other
        origins.
    trials : int
        Origins inside the runs at which it was tried.
    """

    at: Points
    value: Array
    low: Array
    high: Array
    level: float
    trial_error: float
    trials: int
    members: tuple[Member, ...]

    def rows(self) -> list[dict[str, float]]:
        """One record per point."""
        return [
            {"params": float(n), "tokens": float(d), "loss": float(v), "low": float(a),
             "high": float(b)}
            for n, d, v, a, b in zip(self.at["params"], self.at["tokens"], self.value, self.low,
                                     self.high)
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "level": self.level, "trial_error": self.trial_error, "trials": self.trials,
            "points": self.rows(),
            "members": [{"form": m.form, "span": None if np.isinf(m.span) else m.span,
                         "weight": m.weight, "trial_error": m.trial_error} for m in self.members],
        }  # fmt: skip


Key = tuple[str, float]


def forecast(runs: Runs, at: Points, *, level: float = 0.90, delta: float = DELTA) -> Forecast:
    """Losses at parameters and tokens, mostly dearer than the runs.

    Parameters
    ----------
    level : float
        Probability that the interval should hold a run's loss, in (0, 1).
    delta : float
        Huber threshold of the fits.

    Raises
    ------
    FitError
        If the runs span too little compute for a trial inside them.
    """
    flop = compute_of(runs)
    top = float(flop.max())
    trials, reach = [], 0.0
    for share in ORIGINS:
        below = np.nonzero(flop <= top * share)[0]
        above = np.nonzero((flop > top * share) & (flop <= top * share * DECADE))[0]
        if len(below) < FEWEST or len(above) < FEWEST_TARGETS:
            continue
        target = {k: runs.columns[k][above] for k in ("params", "tokens")}
        found = _members(runs.take(below), target, delta)
        if found:
            reach = max(reach, min(-np.log10(share), 1.0))
            trials.append((found, np.log(runs.columns["loss"][above])))
    if not trials:
        raise FitError(
            f"A forecast is tried inside the runs first: fitted on at least {FEWEST} of them, it "
            f"predicts at least {FEWEST_TARGETS} that are dearer. {len(runs)} runs over a factor "
            f"of {top / float(flop.min()):.3g} of compute do not allow that; add cheap runs."
        )
    now = _members(runs, at, delta)
    keys = [k for k in now if any(k in found for found, _ in trials)]
    if not keys:
        raise FitError("No law form could be fitted both to all runs and below a trial origin.")
    weights = _weights(keys, trials)
    value, spread = _combine({k: now[k] for k in keys}, weights)
    errors = []
    for i, (found, truth) in enumerate(trials):
        held = _weights(keys, trials[:i] + trials[i + 1 :] or trials)
        errors.append(truth - _combine({k: found[k] for k in keys if k in found}, held)[0])
    rms = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
    # Beyond the distance that the trials reach the error is taken to grow in proportion.
    decades = np.log10(SIX * at["params"] * at["tokens"] / top)
    tail = 0.5 + level / 2.0
    # As many independent errors as trials stand behind the root mean square.
    half = np.hypot(
        NormalDist().inv_cdf(tail) * spread,
        student_quantile(tail, len(trials)) * rms * np.maximum(decades / reach, 1.0),
    )
    return Forecast(
        at=at, value=np.exp(value), low=np.exp(value - half), high=np.exp(value + half),
        level=level, trial_error=rms, trials=len(trials),
        members=tuple(
            Member(form=k[0], span=k[1], weight=weights[k], trial_error=_error(k, trials))
            for k in sorted(keys, key=lambda k: -weights[k])
        ),
    )  # fmt: skip


def _members(runs: Runs, at: Points, delta: float) -> dict[Key, Array]:
    """Log losses at the points by every form and span that can be fitted."""
    flop = compute_of(runs)
    ratio = runs.columns["tokens"] / runs.columns["params"]
    wanted = at["tokens"] / at["params"]
    near = (ratio > wanted.min() / RATIO) & (ratio < wanted.max() * RATIO)
    out: dict[Key, Array] = {}
    for span in SPANS:
        chosen = np.nonzero(near & (flop > flop.max() / span))[0]
        if len(chosen) < FEWEST:
            continue
        part = runs.take(chosen)
        for form in FORMS:
            try:
                predicted = fit_law(part, find_law(form), delta=delta).predict(at)
            except IsoflopError:
                continue
            if np.all(np.isfinite(predicted)) and np.all(predicted > 0):
                out[form, span] = np.log(predicted)
    return out


def _mean_square(key: Key, trials: list[tuple[dict[Key, Array], Array]]) -> float:
    found = [np.mean((f[key] - truth) ** 2) for f, truth in trials if key in f]
    return float(np.mean(found)) if found else np.inf


def _error(key: Key, trials: list[tuple[dict[Key, Array], Array]]) -> float:
    return float(np.mean([np.mean(np.abs(f[key] - t)) for f, t in trials if key in f]))


def _weights(keys: list[Key], trials: list[tuple[dict[Key, Array], Array]]) -> dict[Key, float]:
    inverse = {k: 1.0 / max(_mean_square(k, trials), 1e-12) for k in keys}
    total = sum(inverse.values())
    return {k: (v / total if total else 1.0 / len(keys)) for k, v in inverse.items()}


def _combine(found: dict[Key, Array], weights: dict[Key, float]) -> tuple[Array, Array]:
    """Weighted mean of log losses and the members' spread around it."""
    w = np.array([weights[k] for k in found])
    w = w / w.sum() if w.sum() > 0 else np.full(len(w), 1.0 / len(w))
    table = np.stack(list(found.values()))
    mean = w @ table
    return mean, np.sqrt(w @ (table - mean) ** 2)


def hold_out(runs: Runs, *, delta: float = DELTA) -> dict[str, Any]:
    """`compare.extrapolate` with the combination: forecast the top decade from what lies below.

    Raises
    ------
    FitError
        If either part has too few runs.
    """
    below, above, limit = top_decade(compute_of(runs), FEWEST)
    at = {k: runs.columns[k][above] for k in ("params", "tokens")}
    y = runs.columns["loss"][above]
    found = forecast(runs.take(below), at, delta=delta)
    error = found.value / y - 1.0
    return {
        "law": "combined", "fitted": len(below), "predicted": len(above),
        "limit_flop": limit, "mean_abs_pct": float(np.abs(error).mean() * 100),
        "median_abs_pct": float(np.median(np.abs(error)) * 100),
        "bias_pct": float(error.mean() * 100),
        "coverage_90": float(np.mean((y >= found.low) & (y <= found.high)) * 100),
        "trials": found.trials,
    }  # fmt: skip


COMPARED = (*((name, 200) for name in FORMS), ("farseer", 0))
"""Forms and resamples of their intervals; nine constants are too many to resample in seconds."""


def compare_forms(runs: Runs, *, delta: float = DELTA) -> list[dict[str, Any]]:
    """Held-out errors of each form of N and D, of their combination and of a constant, best first.

    A form that cannot be fitted carries `error`, a sentence.

    Raises
    ------
    FitError
        If no form can be tried.
    """
    rows: list[dict[str, Any]] = []
    for name, resamples in COMPARED:
        try:
            rows.append(extrapolate(runs, find_law(name), delta=delta, bootstrap=resamples))
        except IsoflopError as error:
            rows.append({"law": name, "error": str(error)})
    try:
        rows.append(hold_out(runs, delta=delta))
    except IsoflopError as error:
        rows.append({"law": "combined", "error": str(error)})
    if all("error" in r for r in rows):
        raise FitError(rows[0]["error"])
    return sorted(rows, key=lambda r: r.get("mean_abs_pct", np.inf))
