"""Which runs to do next: those that narrow the interval of the optimal size the most.

Linearised around the fit: information is J'J / noise^2, and a run with gradient g takes the
variance v'Cv of log N* to v'Cv - (v'Cg)^2 / (noise^2 + g'Cg), where v is the derivative of log N*
by the constants.

References
----------
Atkinson, Donev and Tobias 2007, Optimum Experimental Designs, with SAS, chapter 10 (c-optimality).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decide import Believed
from .fit import central_interval, simulate_fits

Array = NDArray[Any]

SWEEPS = 300
"""Sets of runs simulated to check what a series promises."""
MOST = 64
"""Runs after which the search for a halved interval is given up."""
LOW_RATIO, HIGH_RATIO = 0.5, 2000.0
"""Tokens per parameter of runs that are proposed."""


class Design:
    """Runs done so far, and what further ones would add.

    Parameters
    ----------
    x : dict of array (runs,)
        Parameters and tokens of the runs done.
    noise : float
        Standard deviation of a run's log loss.
    target_flop : float
        Budget whose optimal size is asked for.
    cost_flop : float
        Most that one further run may cost; runs down to a hundredth of it are considered.
    """

    def __init__(
        self, believed: Believed, x: dict[str, Array], noise: float, target_flop: float,
        cost_flop: float,
    ):  # fmt: skip
        self.noise = noise
        law, theta = believed.law, believed.theta

        def gradient(at: dict[str, Array]) -> Array:
            return law.gradient(theta, at) / law.predict(theta, at)[:, None]

        j = gradient(x)
        scale = np.maximum(np.linalg.norm(j, axis=0), 1e-300)
        self.covariance = np.linalg.pinv((j / scale).T @ (j / scale)) * noise**2
        self.direction = _sensitivity(believed, target_flop) / scale
        size, flop = np.meshgrid(
            np.geomspace(min(x["params"].min(), 1e7), x["params"].max() * 4, 60),
            np.geomspace(cost_flop / 100.0, cost_flop, 9), indexing="ij",
        )  # fmt: skip
        tokens = flop / (6.0 * size)
        ok = (tokens / size > LOW_RATIO) & (tokens / size < HIGH_RATIO)
        self.flop = flop[ok]
        self.at = {"params": size[ok], "tokens": tokens[ok]}
        self.gradients = gradient(self.at) / scale
        self.first = self.variance

    @property
    def variance(self) -> float:
        """Of log N* at the target."""
        return float(self.direction @ self.covariance @ self.direction)

    def left(self) -> Array:
        """Width of the interval left after each candidate, as a share of the first one."""
        g, c, v = self.gradients, self.covariance, self.direction
        gain = (g @ c @ v) ** 2 / (self.noise**2 + np.einsum("ij,jk,ik->i", g, c, g))
        return np.sqrt(np.maximum((self.variance - gain) / self.first, 0.0))

    def add(self, i: int) -> None:
        """Count candidate `i` as done."""
        g = self.gradients[i]
        cg = self.covariance @ g
        self.covariance = self.covariance - np.outer(cg, cg) / (self.noise**2 + g @ cg)

    def row(self, i: int, left: float) -> dict[str, float]:
        """Candidate `i` as a record."""
        return {"params": float(self.at["params"][i]), "tokens": float(self.at["tokens"][i]),
                "flop": float(self.flop[i]), "interval_left": left}  # fmt: skip


def _sensitivity(believed: Believed, target_flop: float) -> Array:
    law, theta = believed.law, believed.theta
    v = np.zeros(len(theta))
    for i in range(len(theta)):
        h = 1e-5 * max(abs(theta[i]), 1e-12)
        up, down = theta.copy(), theta.copy()
        up[i], down[i] = theta[i] + h, theta[i] - h
        v[i] = np.log(law.optimum(up, target_flop).inputs["params"]
                      / law.optimum(down, target_flop).inputs["params"]) / (2 * h)  # fmt: skip
    return v


def next_runs(
    believed: Believed, x: dict[str, Array], noise: float, target_flop: float, cost_flop: float,
    count: int = 5,
) -> list[dict[str, float]]:  # fmt: skip
    """The best single further run at each cost, the most useful first."""
    design = Design(believed, x, noise, target_flop, cost_flop)
    left = design.left()
    rows = []
    for flop in np.unique(design.flop):
        here = np.nonzero(design.flop == flop)[0]
        i = int(here[np.argmin(left[here])])
        rows.append(design.row(i, float(left[i])))
    rows.sort(key=lambda r: r["interval_left"])
    return rows[:count]


def runs_to_halve(
    believed: Believed, x: dict[str, Array], noise: float, target_flop: float, cost_flop: float
) -> list[dict[str, float]]:
    """Runs, one after another, until the interval of log N* is half as wide.

    Each is the one that narrows it most per run; empty if `MOST` of them do not suffice.
    """
    design = Design(believed, x, noise, target_flop, cost_flop)
    rows: list[dict[str, float]] = []
    while len(rows) < MOST:
        left = design.left()
        i = int(np.argmin(left))
        design.add(i)
        rows.append(design.row(i, float(left[i])))
        if left[i] <= 0.5:
            return rows
    return []


def simulated_left(
    believed: Believed, x: dict[str, Array], noise: float, target_flop: float,
    series: list[dict[str, float]], sweeps: int = SWEEPS,
) -> float:  # fmt: skip
    """Width of the 95% interval of log N* with a series done, over the width without it.

    No linearisation: the law is fitted to simulated sets of the old runs, and of old and new.
    """
    more = {k: np.concatenate([x[k], [r[k] for r in series]]) for k in ("params", "tokens")}
    widths = []
    for seed, runs in enumerate((x, more)):
        fits = simulate_fits(believed.law, runs, believed.theta, noise, sweeps, seed)
        sizes = [believed.law.optimum(t, target_flop).inputs["params"] for t in fits]
        low, high = central_interval(np.array(sizes))
        widths.append(float(np.log(high / low)))
    return widths[1] / widths[0]
