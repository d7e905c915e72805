"""Power-law random features trained by SGD or gradient flow, solved for their loss.

The data have covariance eigenvalues j^(-2 alpha) and a target with coefficients j^(-beta); the
model sees them through d random features. Given one draw of the features, the expected loss of
one-pass SGD obeys a linear recursion in the eigenbasis of the features' covariance, which is
iterated exactly; gradient flow has a closed form.

References
----------
Paquette et al. 2024, 4+3 Phases of Compute-Optimal Neural Scaling Laws, arXiv 2405.15074.
Bordelon et al. 2024, A Dynamical Model of Neural Scaling Laws, arXiv 2402.01092.
"""

from __future__ import annotations

import math

import numpy as np
from attrs import frozen

from ...cost.features import Array
from ...errors import InvalidInput


@frozen(kw_only=True)
class Features:
    """One draw of the model.

    Attributes
    ----------
    eigenvalues : array (d,)
        Of the features' covariance.
    residual : array (d,)
        Squared distance from zero weights to the best ones along its eigenvectors: the loss at
        zero weights is floor + sum(eigenvalues x residual) / 2.
    floor : float
        Loss that no weights remove.
    """

    eigenvalues: Array
    residual: Array
    floor: float

    @classmethod
    def draw(cls, alpha: float, beta: float, width: int, hidden: int, seed: int = 0) -> Features:
        """Gaussian features of `hidden` (v) coordinates in `width` (d) dimensions.

        Raises
        ------
        InvalidInput
            If there are not more coordinates than features, or an exponent is not positive.
        """
        if not 0 < width < hidden:
            raise InvalidInput(
                f"{width} features of {hidden} coordinates: there must be more coordinates."
            )
        if not (alpha > 0 and beta > 0):
            raise InvalidInput("The exponents alpha and beta must be positive.")
        rng = np.random.default_rng(seed)
        j = np.arange(1, hidden + 1, dtype=float)
        scale = j**-alpha  # D^(1/2)
        target = j**-beta
        mix = rng.standard_normal((hidden, width)) / math.sqrt(width)
        a = scale[:, None] * mix  # D^(1/2) W
        u, s, _ = np.linalg.svd(a, full_matrices=False)
        # Loss = |D^(1/2) (W theta - b)|^2 / 2; along u_i the distance is s_i (theta_i - optimum_i).
        wanted = u.T @ (scale * target)
        floor = 0.5 * (float(np.sum((scale * target) ** 2)) - float(wanted @ wanted))
        return cls(eigenvalues=s**2, residual=wanted**2 / s**2, floor=max(floor, 0.0))


def sgd_losses(f: Features, steps: Array, batch: int = 1, rate: float | None = None) -> Array:
    """Expected loss of one-pass SGD after each of `steps` (increasing) steps from zero weights.

    For Gaussian data the second moments of the distance to the optimum obey

        E rho_j <- (1 - 2 g l_j + g^2 l_j^2 (B + 1) / B) rho_j + g^2 l_j / B (sum l rho + 2 floor)

    with step size g, eigenvalues l and batch B: exact for features that are Gaussian given the
    draw, which is what the paper's Volterra equation solves.
    """
    lam = f.eigenvalues
    g = 0.5 / float(lam.sum()) if rate is None else rate
    keep = 1.0 - 2.0 * g * lam + g * g * lam * lam * (batch + 1.0) / batch
    push = g * g * lam / batch
    rho = f.residual.copy()
    wanted = np.asarray(steps, int)
    out = np.empty(len(wanted))
    done = 0
    for i, until in enumerate(wanted):
        for _ in range(until - done):
            rho = keep * rho + push * (float(lam @ rho) + 2.0 * f.floor)
        done = int(until)
        out[i] = f.floor + 0.5 * float(lam @ rho)
    return out


def flow_losses(f: Features, times: Array) -> Array:
    """Loss of gradient flow on the population loss at each time."""
    decay = np.exp(-2.0 * np.outer(np.asarray(times, float), f.eigenvalues))
    return f.floor + 0.5 * decay @ (f.eigenvalues * f.residual)


@frozen(kw_only=True)
class Frontier:
    """Compute-optimal widths and losses of the model, and their fitted exponents.

    Attributes
    ----------
    flop, width, loss : array
    size_exponent, loss_exponent : float
        d* ~ f^xi and L* ~ f^-eta over the middle of the frontier.
    """

    flop: Array
    width: Array
    loss: Array
    size_exponent: float
    loss_exponent: float


def sgd_frontier(
    alpha: float, beta: float, *, widths: tuple[int, ...] = (32, 48, 72, 108, 162, 243, 364),
    ratio: int = 4, steps: int = 60_000, seeds: int = 2,
) -> Frontier:  # fmt: skip
    """Solve the model at several widths and take the lower envelope over d x steps."""
    grid = np.unique(np.geomspace(10, steps, 160).astype(int))
    curves = []
    for d in widths:
        runs = [sgd_losses(Features.draw(alpha, beta, d, ratio * d, seed), grid)
                for seed in range(seeds)]  # fmt: skip
        curves.append(np.mean(runs, axis=0))
    low, high = math.log(widths[1] * grid[0] * 4.0), math.log(widths[-2] * grid[-1] / 4.0)
    flop = np.exp(np.linspace(low, high, 80))
    table = np.full((len(widths), len(flop)), np.inf)
    for i, d in enumerate(widths):
        at = flop / d
        inside = (at >= grid[0]) & (at <= grid[-1])
        table[i, inside] = np.exp(np.interp(np.log(at[inside]), np.log(grid), np.log(curves[i])))
    best = np.argmin(table, axis=0)
    loss = table[best, np.arange(len(flop))]
    width = np.array(widths, float)[best]
    # Where an inner width wins: the ends only say that the grid stops.
    inner = (best > 0) & (best < len(widths) - 1) & np.isfinite(loss)
    if inner.sum() < 8:
        raise InvalidInput(
            "The frontier leaves the grid of widths and steps: solve more of either."
        )
    corner = _corners(np.log(flop[inner]), np.log(width[inner]))
    return Frontier(
        flop=flop[inner], width=width[inner], loss=loss[inner], size_exponent=corner,
        loss_exponent=-float(np.polyfit(np.log(flop[inner]), np.log(loss[inner]), 1)[0]),
    )  # fmt: skip


def _corners(log_flop: Array, log_width: Array) -> float:
    """Slope through the middles of the flats of a staircase."""
    levels = np.unique(log_width)
    middles = np.array([log_flop[log_width == v].mean() for v in levels])
    if len(levels) < 2:
        return 0.0
    return float(np.polyfit(middles, levels, 1)[0])


def phase(alpha: float, beta: float) -> tuple[str, float | None, float | None]:
    """Phase of the model, and the published exponents of size and loss.

    Returns
    -------
    str, float or None, float or None
        The phase; xi in d* ~ f^xi and eta in L* ~ f^-eta, None where the paper gives none here.
    """
    a, b = alpha, beta
    if a > 0.5:
        if b > a:
            return "III", 0.5, 1.0 - 1.0 / (4.0 * a)
        if b <= 0.5:
            return "Ia", 1.0 / (2.0 * a + 1.0), (2.0 * a + 2.0 * b - 1.0) / (2.0 * a + 1.0)
        return "II", (b / a) / (1.0 + b / a), (2.0 * a + 2.0 * b - 1.0) / (2.0 * (a + b))
    if a + b > 0.5 and b <= 0.5:
        return "Ib", 0.5, a + b - 0.5
    if b > 0.5:
        split = 1.0 - 1.0 / math.sqrt(2.0)
        if a > split:
            return "IVa", 0.5, a
        xi = (a - b) / (2.0 * a * b + a - 2.0 * b)
        eta = (1.0 - 2.0 * a) * (2.0 * a + 2.0 * b - 1.0) / (-2.0 * (2.0 * a * b + a - 2.0 * b))
        return "IVb", xi, eta
    return "none (the loss does not fall)", None, None


def dynamical_exponents(task: float, spectrum: float) -> dict[str, float]:
    """Exponents of Bordelon's model: spectrum k^-b, task power k^-a.

    Loss falls as t^-time until width stops it at N^-size; at fixed N x t it falls as C^-compute
    with N ~ C^width.
    """
    a, b = task, spectrum
    time, size = (a - 1.0) / b, min(a - 1.0, 2.0 * b)
    return {
        "time": time, "size": size, "compute": time * size / (time + size),
        "width": time / (time + size),
    }  # fmt: skip
