"""Minimising the Huber loss of log residuals: many problems at once, in NumPy alone.

`sum_of_powers` solves laws that are a sum of a floor and power terms by Newton's method with the
exact Hessian: the logarithm of such a law is a log-sum-exp of linear functions of the fitted
parameters, whose second derivative is a covariance. `generic` solves any law by Levenberg-Marquardt
with reweighting. Both take a matrix of weights, one row per problem, so that all resamples of a
bootstrap are one batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .law import Data, Law

Array = NDArray[Any]

DAMPING = 1e-3
ITERATIONS = 120
RUNG_ITERATIONS = 12
DIRECT_ITERATIONS = 25
LADDER = (100.0, 20.0, 5.0)
"""Multiples of the Huber threshold solved first, from the optimum's neighbourhood,"""
FAR_LADDER = (1000.0, 300.0, 100.0, 20.0, 5.0)
"""and from starts far away."""
TOLERANCE = 1e-12
RUNG_TOLERANCE = 1e-4
"""Relative gain at which a rung is left for the next."""


def huber(residual: Array, delta: float) -> Array:
    """Huber's loss: r^2 / 2 within delta, delta (|r| - delta / 2) beyond."""
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


def chinchilla_features(x: Data) -> tuple[Array, Array]:
    """Natural logarithms of parameters and tokens, shape (runs,)."""
    return np.log(x["params"]), np.log(x["tokens"])


def chinchilla_factors() -> tuple[Array, tuple[Array, Array], tuple[Array, Array]]:
    """The grid of Hoffmann et al. 2022: values of e, pairs (a, alpha) and pairs (b, beta)."""
    scale, power = np.meshgrid(np.arange(0, 26, 5.0), np.arange(0, 2.1, 0.5), indexing="ij")
    term = scale.ravel(), power.ravel()
    return np.arange(-1, 1.1, 0.5), term, term


def chinchilla_starts() -> Array:
    """Its 4,500 starts, as rows (e, a, alpha, b, beta)."""
    e, (a, alpha), (b, beta) = chinchilla_factors()
    i, j, k = (g.ravel() for g in np.meshgrid(*(np.arange(len(v)) for v in (e, a, b)),
                                              indexing="ij"))  # fmt: skip
    return np.stack([e[i], a[j], alpha[j], b[k], beta[k]], axis=1)


def chinchilla_point(x: Data, y: Array) -> Array:
    """A good, not final, (e, a, alpha, b, beta), from which other forms of N and D start."""
    n, d = chinchilla_features(x)
    solver = TwoPowers(n, d, np.log(y), 1e-2)
    return solver.optimum(solver.best_starts(12))[0]


class TwoPowers:
    """log(exp(e) + exp(a - alpha n) + exp(b - beta d)) for all problems at once.

    Parameters are rows (e, a, alpha, b, beta); weights are (problems, runs).
    """

    def __init__(self, n: Array, d: Array, log_loss: Array, delta: float):
        self.n, self.d, self.y, self.delta = n, d, log_loss, delta
        # Products of the basis with its own functions: one matrix product gives all sums.
        self.n2 = np.stack([np.ones_like(n), n, n * n], axis=1)
        self.d2 = np.stack([np.ones_like(d), d, d * d], axis=1)
        self.nd = np.stack([np.ones_like(n), n, d, n * d], axis=1)

    def terms(self, z: Array, rows: Array | None = None) -> tuple[Array, Array, Array, Array]:
        """Shares of the three terms and the residual, each (problems, runs).

        `rows` says which problems these are where each has outputs of its own.
        """
        e = np.exp(z[:, 0, None])
        a = np.exp(z[:, 1, None] - z[:, 2, None] * self.n)
        b = np.exp(z[:, 3, None] - z[:, 4, None] * self.d)
        total = e + a + b
        y = self.y if self.y.ndim == 1 or rows is None else self.y[rows]
        return e / total, a / total, b / total, np.log(total) - y

    def objective(self, z: Array, weights: Array | float = 1.0, rows: Array | None = None) -> Array:
        """Sum of Huber losses, shape (problems,)."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            r = self.terms(z, rows)[3]
            value = (weights * huber(r, self.delta)).sum(axis=1)
        return np.where(np.isfinite(value), value, np.inf)

    def best_starts(self, count: int) -> Array:
        """The best of the 4,500 starts, each evaluated, shape (count, 5).

        Their grid is a product of thirty size terms, thirty data terms and five floors, so the
        exponentials are those of the factors and only sums and logarithms are one per start, in
        single precision: starts are ranked, not compared closely.
        """
        e, (a, alpha), (b, beta) = chinchilla_factors()
        size = np.exp(a[:, None] - alpha[:, None] * self.n).astype(np.float32)
        data = np.exp(b[:, None] - beta[:, None] * self.d).astype(np.float32)
        pairs = (size[:, None, :] + data[None, :, :]).reshape(-1, len(self.n))
        y = self.y.astype(np.float32)
        # Starts are far off: beyond the threshold Huber's loss is the distance, but for constants.
        # One array holds all of them: once it is freed, glibc keeps the smaller ones of a
        # bootstrap instead of mapping each anew, which took 40% of its time.
        total = np.exp(e).astype(np.float32)[:, None, None] + pairs
        np.log(total, out=total)
        total -= y
        values = np.abs(total, out=total).sum(axis=2)
        best = np.argsort(values, axis=None)[:count]
        i, j = np.divmod(best, pairs.shape[0])
        left, right = np.divmod(j, len(b))
        return np.stack([e[i], a[left], alpha[left], b[right], beta[right]], axis=1)

    def optimum(self, starts: Array) -> tuple[Array, float]:
        """The lowest optimum that starts far away lead to, and its objective.

        Starts that reach the same objective on a rung of the ladder go on as one.
        """
        delta, z = self.delta, starts
        try:
            for rung in FAR_LADDER:
                self.delta = delta * rung
                z, value, _ = self._newton(z, None, RUNG_ITERATIONS, tolerance=RUNG_TOLERANCE)
                z = z[np.unique(np.round(np.log(value), 5), return_index=True)[1]]
        finally:
            self.delta = delta
        z, value, _ = self._newton(z, None, ITERATIONS)
        i = int(np.argmin(value))
        return z[i], float(value[i])

    def derivatives(
        self, z: Array, weights: Array, rows: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Objective, gradient (problems, 5) and Hessian (problems, 5, 5)."""
        p0, p1, p2, r = self.terms(z, rows)
        inside = np.abs(r) <= self.delta
        q = weights * np.clip(r, -self.delta, self.delta)
        value = (weights * huber(r, self.delta)).sum(axis=1)
        # Second derivative of the loss on J J', less what the covariance takes off.
        c = weights * inside - q
        g1, g2 = (q * p1) @ self.n2, (q * p2) @ self.d2
        gradient = np.stack([(q * p0).sum(axis=1), g1[:, 0], -g1[:, 1], g2[:, 0], -g2[:, 1]], 1)
        c0 = c * p0
        c00 = (c0 * p0).sum(axis=1)
        c01, c02 = (c0 * p1) @ self.n2[:, :2], (c0 * p2) @ self.d2[:, :2]
        c11, c22 = (c * p1 * p1) @ self.n2, (c * p2 * p2) @ self.d2
        c12 = (c * p1 * p2) @ self.nd
        h = np.empty((len(z), 5, 5))
        h[:, 0, 0] = c00 + gradient[:, 0]
        h[:, 0, 1], h[:, 0, 2] = c01[:, 0], -c01[:, 1]
        h[:, 0, 3], h[:, 0, 4] = c02[:, 0], -c02[:, 1]
        h[:, 1, 1], h[:, 1, 2] = c11[:, 0] + g1[:, 0], -c11[:, 1] - g1[:, 1]
        h[:, 2, 2] = c11[:, 2] + g1[:, 2]
        h[:, 1, 3], h[:, 1, 4] = c12[:, 0], -c12[:, 2]
        h[:, 2, 3], h[:, 2, 4] = -c12[:, 1], c12[:, 3]
        h[:, 3, 3], h[:, 3, 4] = c22[:, 0] + g2[:, 0], -c22[:, 1] - g2[:, 1]
        h[:, 4, 4] = c22[:, 2] + g2[:, 2]
        low = np.tril_indices(5, -1)
        h[:, low[0], low[1]] = h[:, low[1], low[0]]
        return value, gradient, h

    def solve(
        self, starts: Array, weights: Array | None = None, ladder: tuple[float, ...] = LADDER
    ) -> tuple[Array, Array, Array]:
        """Parameters, objective and whether it converged, from each start.

        With most residuals beyond delta the loss is all corners, where Newton's steps are short.
        So the threshold comes down a ladder of multiples of delta, each rung from the last one's
        optimum.
        """
        w = None if weights is None else np.broadcast_to(weights, (len(starts), len(self.n)))
        if ladder is LADDER:
            # From the optimum's neighbourhood most problems need no ladder.
            z, value, done = self._newton(starts, w, DIRECT_ITERATIONS)
            left = np.nonzero(~done)[0]
            if len(left):
                part = None if w is None else w[left]
                z[left], value[left], done[left] = self._climb(starts[left], part, ladder, left)
            return z, value, done
        return self._climb(starts, w, ladder)

    def _climb(
        self,
        starts: Array,
        weights: Array | None,
        ladder: tuple[float, ...],
        rows: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        z = np.array(starts, float)
        delta = self.delta
        try:
            for rung in ladder:
                self.delta = delta * rung
                z = self._newton(z, weights, RUNG_ITERATIONS, rows)[0]
        finally:
            self.delta = delta
        return self._newton(z, weights, ITERATIONS, rows)

    def _newton(
        self, starts: Array, weights: Array | None, iterations: int, rows: Array | None = None,
        tolerance: float = TOLERANCE,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        z = np.array(starts, float)
        of = np.arange(len(z)) if rows is None else rows
        w = np.ones((1, len(self.n))) if weights is None else weights
        w = np.broadcast_to(w, (len(z), len(self.n)))
        damping = np.full(len(z), DAMPING)
        live = np.arange(len(z))
        value = self.objective(z, w, of)
        done = ~np.isfinite(value)
        for _ in range(iterations):
            live = np.nonzero(~done)[0]
            if not len(live):
                break
            current, gradient, hessian = self.derivatives(z[live], w[live], of[live])
            step = _newton_step(hessian, gradient, damping[live])
            trial = z[live] + step
            after = self.objective(trial, w[live], of[live])
            better = after < current
            z[live[better]] = trial[better]
            value[live] = np.where(better, after, current)
            damping[live] = np.clip(np.where(better, damping[live] * 0.2, damping[live] * 6.0),
                                    1e-12, 1e12)  # fmt: skip
            small = np.abs(step).max(axis=1) < 1e-9 * (1.0 + np.abs(z[live]).max(axis=1))
            gained = np.abs(current - after) <= tolerance * np.abs(current)
            done[live] |= small | (better & gained) | (damping[live] >= 1e12)
        return z, value, done


def _newton_step(hessian: Array, gradient: Array, damping: Array) -> Array:
    """-(H + damping diag(|H|))^-1 g with negative curvature turned positive."""
    scale = np.sqrt(np.maximum(np.abs(np.einsum("kii->ki", hessian)), 1e-30))
    scaled = hessian / (scale[:, :, None] * scale[:, None, :])
    values, vectors = np.linalg.eigh(scaled)
    values = np.maximum(np.abs(values), 1e-12) + damping[:, None]
    rotated = np.einsum("kij,ki->kj", vectors, gradient / scale)
    return -np.einsum("kij,kj->ki", vectors, rotated / values) / scale


def to_fitted(law: Law, theta: Array) -> Array:
    """Natural parameters to fitted ones: logarithms where the law says so."""
    logs = np.array([p.log for p in law.parameters])
    return np.where(logs, np.log(np.where(logs, theta, 1.0)), theta)


def to_natural(law: Law, z: Array) -> Array:
    """Fitted parameters back to natural ones."""
    logs = np.array([p.log for p in law.parameters])
    return np.where(logs, np.exp(np.where(logs, np.clip(z, -700, 700), 0.0)), z)


def generic(
    law: Law, x: Data, y: Array, starts: Array, *, delta: float, log_residual: bool,
    weights: Array | None = None, iterations: int = 300,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Levenberg-Marquardt with Huber reweighting, all starts (and their weights) as one batch.

    Parameters
    ----------
    starts : array (problems, p)
        Natural parameters.
    weights : array (problems, runs) or None

    Returns
    -------
    tuple of arrays
        Natural parameters (problems, p), objectives (problems,), converged (problems,).
    """
    low = to_fitted(law, np.array([p.low for p in law.parameters]))
    high = to_fitted(law, np.array([p.high for p in law.parameters]))
    logs = np.array([p.log for p in law.parameters])
    z = np.clip(to_fitted(law, starts), low, high)
    w = np.ones((1, len(y))) if weights is None else weights
    w = np.broadcast_to(w, (len(z), len(y)))
    target = np.log(y) if log_residual else y

    def residual(points: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            f = law.predict(to_natural(law, points), x)
            r = (np.log(f) if log_residual else f) - target
        return f, r

    def cost(r: Array, rows: Array) -> Array:
        with np.errstate(all="ignore"):
            total = (w[rows] * huber(r, delta)).sum(axis=1)
        return np.where(np.isfinite(total), total, np.inf)

    damping = np.full(len(z), 1e-2)
    done = np.zeros(len(z), bool)
    every = np.arange(len(z))
    value = cost(residual(z)[1], every)
    done |= ~np.isfinite(value)
    for _ in range(iterations):
        live = np.nonzero(~done)[0]
        if not len(live):
            break
        f, r = residual(z[live])
        theta = to_natural(law, z[live])
        with np.errstate(all="ignore"):
            jacobian = law.gradient(theta, x) * np.where(logs, theta, 1.0)[:, None, :]
            if log_residual:
                jacobian = jacobian / f[:, :, None]
        jacobian = np.where(np.isfinite(jacobian), jacobian, 0.0)
        # Reweighting: the quadratic that touches Huber's loss from above.
        u = w[live] * np.where(np.abs(r) <= delta, 1.0, delta / np.maximum(np.abs(r), 1e-300))
        weighted = jacobian * u[:, :, None]
        hessian = np.einsum("kni,knj->kij", weighted, jacobian)
        gradient = np.einsum("kni,kn->ki", weighted, r)
        step = _newton_step(hessian, gradient, damping[live])
        trial = np.clip(z[live] + step, low, high)
        after = cost(residual(trial)[1], live)
        before = value[live]
        better = after < before
        z[live[better]] = trial[better]
        value[live] = np.where(better, after, before)
        damping[live] = np.clip(np.where(better, damping[live] * 0.3, damping[live] * 5.0),
                                1e-14, 1e14)  # fmt: skip
        gained = before - after <= 1e-13 * np.abs(before)
        done[live] |= (better & gained) | (damping[live] >= 1e13)
    return to_natural(law, z), value, done
