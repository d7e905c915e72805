"""Fitting a law to runs: the optimum over many starts, and what the runs leave open."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from ..errors import FitError, InvalidInput
from .columns import Runs, check_runs
from .law import Law
from .solve import (
    TwoPowers,
    chinchilla_features,
    generic,
    to_fitted,
    to_natural,
)  # fmt: skip

Array = NDArray[Any]

REFINED = 24
"""Starts that are refined after all were evaluated once."""
TOGETHER = 0.99
"""Correlation of two inputs' logarithms from which runs hardly tell their effects apart."""
FLAT_RATIO = 1e-6
"""Smallest over largest eigenvalue of the scaled Hessian below which a direction is called flat."""

Resampling = Literal["case", "cluster", "noise"]


@frozen(kw_only=True, eq=False)
class LawFit:
    """A fitted law.

    Attributes
    ----------
    law : Law
    theta : array (p,)
        Natural parameters.
    draws : array (resamples, p)
        Parameters of every resample that converged; empty without bootstrap.
    objective : float
        Sum of Huber losses of the log residuals (or of the residuals).
    noise : float
        Standard deviation of the residuals' logarithm.
    valid : dict of str to (low, high)
        Range of each input in the runs.
    flat : tuple of str
        Directions that the runs do not determine, in words.
    """

    law: Law
    theta: Array
    draws: Array
    objective: float
    noise: float
    runs: int
    delta: float
    log_residual: bool
    valid: dict[str, tuple[float, float]]
    notes: tuple[str, ...] = field(factory=tuple)
    flat: tuple[str, ...] = field(factory=tuple)
    resampling: str = ""
    seconds: float = 0.0
    failed: int = 0

    @property
    def params(self) -> dict[str, float]:
        """Constants by name."""
        return self.law.constants(self.theta)

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard deviation of each constant over the resamples."""
        if len(self.draws) < 2:
            return {}
        return self.law.constants(self.draws.std(axis=0, ddof=1))

    def interval(self, values: Array, level: float = 0.95) -> tuple[float, float]:
        """Interval of resampled values; see `central_interval`."""
        return central_interval(values, level)

    @property
    def ci95(self) -> dict[str, tuple[float, float]]:
        """95% interval of each constant, within where the law lets it lie."""
        if len(self.draws) < 40:
            return {}
        found = {}
        for i, p in enumerate(self.law.parameters):
            low, high = self.interval(self.draws[:, i])
            found[p.name] = max(low, p.low), min(high, p.high)
        return found

    def predict(self, x: dict[str, Array]) -> Array:
        """The law at its optimum."""
        return self.law.predict(self.theta, x)

    def prediction_interval(self, x: dict[str, Array], level: float = 0.95) -> tuple[Array, Array]:
        """Interval of a new run's output: the law's uncertainty and the runs' scatter."""
        if len(self.draws) < 40:
            raise FitError("A prediction interval needs a bootstrap of at least 40 resamples.")
        rng = np.random.default_rng(0)
        curves = self.law.predict(self.draws, x)
        noise = rng.standard_t(max(self.runs - len(self.theta), 3), curves.shape) * self.noise
        spread = curves * np.exp(noise) if self.log_residual else curves + noise
        tail = expanded_tail(self.runs, len(self.theta), level)
        low, high = np.percentile(spread, [100 * tail, 100 * (1 - tail)], axis=0)
        return low, high

    def as_dict(self, at_most: int = 0) -> dict[str, Any]:
        """Everything, for JSON and for `spend`.

        Parameters
        ----------
        at_most : int
            Resamples to keep, evenly chosen and to eight digits; 0: all as they are.
        """
        draws = self.draws.tolist()
        if 0 < at_most < len(draws):
            draws = self.draws[np.linspace(0, len(draws) - 1, at_most).astype(int)].tolist()
        if at_most:
            draws = [[float(f"{value:.8g}") for value in row] for row in draws]
        return {
            "law": self.law.name, "params": self.params, "se": self.standard_errors,
            "ci95": {k: list(v) for k, v in self.ci95.items()}, "objective": self.objective,
            "runs": self.runs, "seconds": self.seconds, "huber_delta": self.delta,
            "residual": "log" if self.log_residual else "linear", "noise": self.noise,
            "resamples": len(self.draws), "resampling": self.resampling, "failed": self.failed,
            "valid": {k: list(v) for k, v in self.valid.items()}, "notes": list(self.notes),
            "flat": list(self.flat), "draws": draws,
        }  # fmt: skip


def central_interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """Interval from the middle of resampled values: median and 68% half-widths, each side's own.

    Resamples that lost a corner of the design scatter far out, so percentiles of the tails cover
    too much: 97-100% where 95% was meant, in simulated sweeps of 20 to 120 runs. The middle of the
    distribution, scaled as a normal's, covers 94-98% there. Positive values are taken as
    logarithms.
    """
    from statistics import NormalDist

    v = values[np.isfinite(values)]
    positive = bool(np.all(v > 0))
    v = np.log(v) if positive else v
    low, middle, high = np.percentile(v, [15.865, 50.0, 84.135])
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    ends = np.array([middle - z * (middle - low), middle + z * (high - middle)])
    ends = np.exp(ends) if positive else ends
    return float(ends[0]), float(ends[1])


def expanded_tail(runs: int, parameters: int, level: float) -> float:
    """Tail probability of a percentile interval widened for small samples.

    Percentiles of a bootstrap are too narrow by sqrt((n - p) / n) and by the normal where
    Student's t belongs (Hesterberg 2015, What Teachers Should Know About the Bootstrap, 5.3).
    """
    from statistics import NormalDist

    freedom = max(runs - parameters, 2)
    t = student_quantile(0.5 + level / 2.0, freedom)
    return NormalDist().cdf(-float(np.sqrt(runs / freedom)) * t)


def student_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t by its expansion around the normal (Abramowitz and Stegun 26.7.5)."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf(p)
    v = float(freedom)
    terms = [
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    ]
    return z + sum(t / v ** (i + 1) for i, t in enumerate(terms))


def fit_law(
    runs: Runs, law: Law, *, delta: float | None = None, log_residual: bool | None = None,
    bootstrap: int = 0,
    resampling: Resampling = "case", seed: int = 0, counts: Array | None = None,
    progress: Callable[[float], None] | None = None,
) -> LawFit:  # fmt: skip
    """Fit a law, and refit it on resampled runs.

    Parameters
    ----------
    delta : float or None
        Huber threshold, in units of log loss (or of the loss without `log_residual`); the law's
        own if None: 1e-3 for losses (Hoffmann et al. 2022, section 3.3).
    log_residual : bool or None
        Compare logarithms, or the outputs themselves; as the law says if None.
    bootstrap : int
        Resamples.
    resampling : {"case", "cluster", "noise"}
        Draw runs, whole clusters of runs, or residuals on the fitted curve.
    counts : array (resamples, runs)
        How often each resample holds each run, in place of drawing them: for repeating the
        resamples of someone else.

    Raises
    ------
    FitError
        If the runs cannot identify the law, no start converges, or clusters are missing.
    """
    began = time.perf_counter()
    check_runs(runs, law)
    delta = law.delta if delta is None else delta
    log_residual = law.log_residual if log_residual is None else log_residual
    x, y = runs.data(law), np.asarray(runs.columns[law.output], float)
    solver = _Solver(law, x, y, delta, log_residual)
    theta, objective = solver.best()
    residual = solver.residual(theta)
    noise = float(np.sqrt(np.sum(residual**2) / max(len(y) - len(theta), 1)))
    draws, failed = np.zeros((0, len(theta))), 0
    if counts is not None:
        parts = [solver.refit(theta, counts[i : i + CHUNK]) for i in range(0, len(counts), CHUNK)]
        ok = np.concatenate([p[1] for p in parts])
        draws, failed = np.concatenate([p[0] for p in parts])[ok], int((~ok).sum())
        resampling = "case"
    elif bootstrap:
        draws, failed = _resample(solver, runs, theta, residual, bootstrap, resampling, seed,
                                  progress)  # fmt: skip
    notes = list(runs.notes)
    floor = next((i for i, p in enumerate(law.parameters) if p.name == "E"), None)
    if floor is not None and np.any(y <= theta[floor]):
        worst = int(np.argmin(y))
        notes.append(
            f"the run of line {int(runs.lines[worst])} has a loss of {y[worst]:.4g}, below the "
            f"fitted floor of {theta[floor]:.4g}: the law cannot describe it"
        )
    return LawFit(
        law=law, theta=theta, draws=draws, objective=objective, noise=noise, runs=len(y),
        delta=delta, log_residual=log_residual, notes=tuple(notes),
        valid={k: (float(v.min()), float(v.max())) for k, v in x.items()},
        flat=flat_directions(law, theta, x, y, log_residual), resampling=resampling
        if len(draws) else "", seconds=time.perf_counter() - began, failed=failed,
    )  # fmt: skip


class _Solver:
    """One law on one set of runs, by the fastest method that fits it."""

    def __init__(self, law: Law, x: dict[str, Array], y: Array, delta: float, log: bool):
        self.law, self.x, self.y, self.delta, self.log = law, x, y, delta, log
        self.fast: TwoPowers | None = None
        if law.name == "chinchilla" and log:
            n, d = chinchilla_features(x)
            self.fast = TwoPowers(n, d, np.log(y), delta)

    def best(self) -> tuple[Array, float]:
        """Natural parameters and objective of the best optimum found."""
        if self.fast is not None:
            z, value = self.fast.optimum(self.fast.best_starts(REFINED))
            return to_natural(self.law, z), value
        starts = self.law.starts(self.x, self.y)
        theta, value, _ = generic(self.law, self.x, self.y, starts, delta=self.delta,
                                  log_residual=self.log)  # fmt: skip
        i = int(np.argmin(value))
        if not np.isfinite(value[i]):
            raise FitError(
                f"No start of the law '{self.law.name}' leads to finite predictions on these "
                "runs. Check the units of the inputs (parameters and tokens as plain counts)."
            )
        return theta[i], float(value[i])

    def refit(self, theta: Array, weights: Array, y: Array | None = None) -> tuple[Array, Array]:
        """Parameters from `theta` under each row of weights; which rows converged.

        `y`, of shape (problems, runs), replaces the outputs (noise bootstrap).
        """
        k = len(weights)
        starts = np.broadcast_to(theta, (k, len(theta)))
        if self.fast is not None:
            solver = self.fast
            if y is not None:
                solver = TwoPowers(self.fast.n, self.fast.d, np.log(y), self.delta)
            z, value, done = solver.solve(to_fitted(self.law, starts), weights)
            return to_natural(self.law, z), done & np.isfinite(value)
        if y is None:
            out, value, done = generic(self.law, self.x, self.y, starts, delta=self.delta,
                                       log_residual=self.log, weights=weights)  # fmt: skip
            return out, done & np.isfinite(value)
        rows = [generic(self.law, self.x, v, starts[:1], delta=self.delta,
                        log_residual=self.log) for v in y]  # fmt: skip
        return (np.concatenate([r[0] for r in rows]),
                np.concatenate([r[2] & np.isfinite(r[1]) for r in rows]))  # fmt: skip

    def residual(self, theta: Array) -> Array:
        """Log (or plain) residuals of the fit, shape (runs,)."""
        f = self.law.predict(theta, self.x)
        return np.log(self.y / f) if self.log else self.y - f


def simulate_fits(
    law: Law, x: dict[str, Array], theta: Array, noise: float, count: int, seed: int = 0
) -> Array:
    """Constants fitted to sets of runs drawn from the law itself: these inputs, fresh noise.

    Parameters
    ----------
    theta : array (p,)
        The truth that every set is drawn from.
    noise : float
        Standard deviation of a run's residual, as `LawFit.noise`.

    Returns
    -------
    array (sets that converged, p)
    """
    truth = law.predict(theta, x)
    scatter = noise * np.random.default_rng(seed).standard_normal((count, len(truth)))
    y = truth * np.exp(scatter) if law.log_residual else truth + scatter
    solver = _Solver(law, x, truth, law.delta, law.log_residual)
    draws, ok = solver.refit(theta, np.ones_like(y), y)
    return draws[ok]


CHUNK = 500
"""Resamples solved together: the working arrays stay in cache."""


def _resample(
    solver: _Solver, runs: Runs, theta: Array, residual: Array, count: int, how: Resampling,
    seed: int, progress: Callable[[float], None] | None,
) -> tuple[Array, int]:  # fmt: skip
    rng = np.random.default_rng(seed)
    n = len(runs)
    if how == "cluster" and runs.groups is None:
        raise FitError("A cluster bootstrap needs a column of clusters: name it with --cluster.")
    found, good = [], []
    for begin in range(0, count, CHUNK):
        k = min(CHUNK, count - begin)
        y = None
        if how == "case":
            weights = rng.multinomial(n, np.full(n, 1.0 / n), k).astype(float)
        elif how == "cluster":
            assert runs.groups is not None
            members = int(runs.groups.max()) + 1
            drawn = rng.multinomial(members, np.full(members, 1.0 / members), k)
            weights = drawn[:, runs.groups].astype(float)
        elif how == "noise":
            weights = np.ones((k, n))
            # Residuals of a fit with p constants are too small by sqrt((n - p) / n).
            grown = residual * np.sqrt(n / max(n - len(theta), 1))
            noise = grown[rng.integers(0, n, (k, n))]
            curve = solver.law.predict(theta, solver.x)
            y = curve * np.exp(noise) if solver.log else curve + noise
        else:
            raise InvalidInput(f"'{how}' is no way to resample: use case, cluster or noise.")
        out, ok = solver.refit(theta, weights, y)
        found.append(out)
        good.append(ok)
        if progress is not None:
            progress((begin + k) / count)
    draws, ok = np.concatenate(found), np.concatenate(good)
    return draws[ok], int((~ok).sum())


def flat_directions(
    law: Law, theta: Array, x: dict[str, Array], y: Array, log_residual: bool
) -> tuple[str, ...]:
    """Combinations of constants that the runs leave open, with what would determine them."""
    f = law.predict(theta, x)
    logs = np.array([p.log for p in law.parameters])
    jacobian = law.gradient(theta, x) * np.where(logs, theta, 1.0)
    if log_residual:
        jacobian = jacobian / f[:, None]
    size = np.linalg.norm(jacobian, axis=0)
    out = []
    for i, s in enumerate(size):
        if s < 1e-12 * max(size.max(), 1e-300):
            name = law.parameters[i].name
            out.append(f"{name} does not change any prediction on these runs")
    if out:
        return tuple(out)
    values, vectors = np.linalg.eigh((jacobian / size).T @ (jacobian / size))
    for value, vector in zip(values, vectors.T):
        if value / values[-1] < FLAT_RATIO:
            names = [law.parameters[i].name for i in np.argsort(-np.abs(vector))
                     if abs(vector[i]) > 0.3]  # fmt: skip
            out.append(
                f"{' and '.join(names)} move together: the runs fix a combination of them and not "
                f"each one; {_remedy(x)} would"
            )
    return tuple(out)


def _remedy(x: dict[str, Array]) -> str:
    """What runs would tell constants apart: other ratios where two inputs go together."""
    with np.errstate(all="ignore"):
        logs = {k: np.log(v) for k, v in x.items() if np.all(v > 0) and np.ptp(np.log(v)) > 1e-9}
    for i, first in enumerate(names := list(logs)):
        for second in names[i + 1 :]:
            if abs(np.corrcoef(logs[first], logs[second])[0, 1]) > TOGETHER:
                return (
                    f"{first} and {second} go together in these runs, and others at three times "
                    "and a third of their ratio"
                )
    return "runs over a wider range of each input (a factor of 10 more)"
