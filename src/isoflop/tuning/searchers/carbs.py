"""CARBS: Bayesian search around the front of loss and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np

from ...cost.features import Array
from ..searcher import Searcher, gaussian_process
from ..space import Space
from ..trial import Trial

WARM_UP = 6
"""Random points around the start before models are fitted."""
CANDIDATES = 600
SPREAD = 0.15
"""Standard deviation of candidates around points of the front, in units of the range."""
RESAMPLE_EVERY = 8
"""Every so many proposals a point of the front runs again, so that luck does not stay on it."""


@final
class Carbs(Searcher):
    """Candidates near Pareto-optimal runs, chosen by expected improvement at their own cost.

    Three Gaussian processes: loss and log cost over the settings, and the front's loss over log
    cost. A candidate's improvement is measured against the front at the cost it is predicted to
    have, so cheap and dear runs compete as equals, and the front moves outward as a whole. Local
    candidates make it work where the range is open.

    References
    ----------
    Fetterman et al. 2023, Tune As You Scale: Hyperparameter Optimization For Compute Efficient
    Training, arXiv 2306.08055.
    """

    title: ClassVar[str] = "Bayesian search around the front of loss and cost"
    reference: ClassVar[str] = "CARBS, arXiv 2306.08055"

    def propose(self, trials: Sequence[Trial], space: Space, rng: np.random.Generator) -> Array:
        good = [t for t in trials if not t.failed]
        if len(good) < WARM_UP:
            return np.clip(space.start + SPREAD * rng.standard_normal(len(space)), 0, 1)
        front = _front(good)
        if len(trials) % RESAMPLE_EVERY == RESAMPLE_EVERY - 1:
            return front[rng.integers(len(front))].point + 1e-4 * rng.standard_normal(len(space))
        points = np.array([t.point for t in good])
        loss = np.array([t.loss for t in good])
        cost = np.log([t.cost for t in good])
        value = gaussian_process(points, loss)
        price = gaussian_process(points, cost) if np.ptp(cost) > 1e-9 else None
        centres = np.array([front[i].point for i in rng.integers(len(front), size=CANDIDATES)])
        spread = SPREAD * rng.choice([0.3, 1.0, 2.0], (CANDIDATES, 1))
        candidates = np.clip(centres + spread * rng.standard_normal(centres.shape), 0, 1)
        mean, deviation = value.predict(candidates, return_std=True)
        at = price.predict(candidates) if price is not None else np.full(CANDIDATES, cost[0])
        target = _front_loss(front, at)
        gain = _expected_improvement(mean, deviation, target)
        # Stay within reach of what has been paid before: a factor of two past the dearest run.
        gain = gain * (at <= cost.max() + np.log(2.0))
        if len(trials) > len(good):
            failed = np.array([t.failed for t in trials], float)
            risk = gaussian_process(np.array([t.point for t in trials]), failed)
            gain = gain * np.clip(1.0 - risk.predict(candidates), 0.0, 1.0)
        return candidates[int(np.argmax(gain))]


def _front(good: Sequence[Trial]) -> list[Trial]:
    out: list[Trial] = []
    for t in sorted(good, key=lambda t: (t.cost, t.loss)):
        if not out or t.loss < out[-1].loss:
            out.append(t)
    return out


def _front_loss(front: Sequence[Trial], log_cost: Array) -> Array:
    """Best loss known at or below each cost; above the cheapest run, its own."""
    costs = np.log([t.cost for t in front])
    losses = np.array([t.loss for t in front])
    return losses[np.clip(np.searchsorted(costs, log_cost, side="right") - 1, 0, None)]


def _expected_improvement(mean: Array, deviation: Array, target: Array) -> Array:
    from scipy.stats import norm

    s = np.maximum(deviation, 1e-12)
    z = (target - mean) / s
    return s * (z * norm.cdf(z) + norm.pdf(z))


SEARCHER = Carbs()
