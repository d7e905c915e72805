"""The optimum read off the runs themselves: envelope and isoFLOP parabolas.

References
----------
Hoffmann et al. 2022, arXiv 2203.15556, sections 3.1 (Approach 1) and 3.2 (Approach 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from .columns import Runs
from .compare import compute_of

Array = NDArray[Any]


@frozen(kw_only=True, eq=False)
class PowerLaw:
    """N* = coefficient C^exponent, through points (flop, params)."""

    coefficient: float
    exponent: float
    flop: Array
    best_params: Array

    def params(self, flop: float) -> float:
        """N* at a budget."""
        return self.coefficient * flop**self.exponent


def _through(flop: Array, params: Array) -> PowerLaw | None:
    if len(flop) < 3 or np.ptp(np.log(flop)) < 0.5:
        return None
    slope, offset = np.polyfit(np.log(flop), np.log(params), 1)
    return PowerLaw(coefficient=float(np.exp(offset)), exponent=float(slope), flop=flop,
                    best_params=params)  # fmt: skip


def envelope(runs: Runs, output: str = "loss", bins: int = 12) -> PowerLaw | None:
    """Approach 1: in each bin of compute the run with the lowest loss; None with too few bins."""
    flop, params, loss = compute_of(runs), runs.columns["params"], runs.columns[output]
    edges = np.linspace(np.log(flop.min()), np.log(flop.max()) + 1e-9, bins + 1)
    place = np.digitize(np.log(flop), edges) - 1
    best = [np.nonzero(place == b)[0][np.argmin(loss[place == b])]
            for b in range(bins) if np.sum(place == b) >= 3]  # fmt: skip
    if not best:
        return None
    index = np.array(best)
    return _through(flop[index], params[index])


def groups(runs: Runs, tolerance: float = 0.12) -> list[Array]:
    """Runs of about the same compute: indices of each isoFLOP set of at least four sizes."""
    flop = compute_of(runs)
    order = np.argsort(flop)
    cuts = np.nonzero(np.diff(np.log(flop[order])) > tolerance)[0] + 1
    found = []
    for part in np.split(order, cuts):
        sizes = np.unique(np.round(np.log(runs.columns["params"][part]), 3))
        if len(sizes) >= 4 and np.ptp(np.log(flop[part])) < 1.0:
            found.append(part)
    return found


def parabolas(runs: Runs, output: str = "loss") -> PowerLaw | None:
    """Approach 2: a parabola in log N per isoFLOP set, its lowest point; None without sets."""
    flop, params, loss = compute_of(runs), runs.columns["params"], runs.columns[output]
    points = []
    for part in groups(runs):
        log_n = np.log(params[part])
        a, b, _ = np.polyfit(log_n, loss[part], 2)
        best = -b / (2 * a) if a > 0 else np.nan
        if a > 0 and log_n.min() <= best <= log_n.max():
            points.append((float(np.exp(np.log(flop[part]).mean())), float(np.exp(best))))
    if not points:
        return None
    table = np.array(points)
    return _through(table[:, 0], table[:, 1])
