"""CONFIG: the lowest optimistic loss among points that may be allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np

from ...cost.features import Array
from ..searcher import Searcher, gaussian_process
from ..space import Space
from ..trial import Trial

WARM_UP = 5
CANDIDATES = 2000
OPTIMISM = 2.0
"""Standard deviations below the mean of the optimistic bounds."""


@final
class Config(Searcher):
    """Minimise the lower confidence bound of the loss where those of all constraints are at most 0.

    Optimism in the constraints as well keeps the search away from no point that might be allowed,
    which is what makes it converge to the constrained optimum. Where no candidate may be allowed
    it proposes the least violated one. Runs that failed gave no loss to be optimistic about:
    candidates that a process over success and failure puts on their side are left out.

    References
    ----------
    Xu et al. 2022, Constrained Efficient Global Optimization of Expensive Black-box
    Functions, arXiv 2211.00162.
    """

    title: ClassVar[str] = "optimistic loss among points that may keep the constraints"
    reference: ClassVar[str] = "CONFIG, arXiv 2211.00162"
    constrained: ClassVar[bool] = True

    def propose(self, trials: Sequence[Trial], space: Space, rng: np.random.Generator) -> Array:
        good = [t for t in trials if not t.failed]
        if len(good) < WARM_UP:
            return space.start if not trials else rng.random(len(space))
        points = np.array([t.point for t in good])
        best = min(good, key=lambda t: (not t.allowed, t.loss)).point
        near = np.clip(best + 0.08 * rng.standard_normal((CANDIDATES // 2, len(space))), 0, 1)
        candidates = np.concatenate([rng.random((CANDIDATES // 2, len(space))), near])
        loss = _lower(points, np.array([t.loss for t in good]), candidates)
        violated = np.zeros(len(candidates))
        for name in {k for t in good for k in t.constraints}:
            values = np.array([t.constraints.get(name, 0.0) for t in good])
            violated = np.maximum(violated, _lower(points, values, candidates))
        if len(trials) > len(good):
            sides = np.array([1.0 if t.failed else -1.0 for t in trials])
            risk = gaussian_process(np.array([t.point for t in trials]), sides).predict(candidates)
            if (risk <= 0).any():
                loss = np.where(risk <= 0, loss, np.inf)
                violated = np.where(risk <= 0, violated, np.inf)
        allowed = violated <= 0
        if not allowed.any():
            return candidates[int(np.argmin(violated))]
        return candidates[int(np.argmin(np.where(allowed, loss, np.inf)))]


def _lower(points: Array, values: Array, candidates: Array) -> Array:
    mean, deviation = gaussian_process(points, values).predict(candidates, return_std=True)
    return mean - OPTIMISM * deviation


SEARCHER = Config()
