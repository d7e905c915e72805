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
        return cls.draw_any(alpha, beta, width, hidden, seed)

    @classmethod
    def draw_any(
        cls, alpha: float, beta: float, width: int, hidden: int, seed: int = 0
    ) -> Features:
        """As `draw`, for targets that may also grow with the coordinate (beta below 0)."""
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


def before_noise(alpha: float, beta: float) -> tuple[float, float]:
    """Exponents of size and loss in phase IV while SGD noise does not decide yet.

    There the published exponents balance the noise term with the floor d^(-2 alpha). At widths that
    can be drawn the population term (g r)^-p, p = 1 + beta/alpha - 1/(2 alpha), is still the larger
    one, with the step size g ~ d^(2 alpha - 1) that the trace allows; balancing it with the floor
    along f = d r gives these exponents. Derived here, not in the paper.
    """
    p = 1.0 + beta / alpha - 1.0 / (2.0 * alpha)
    size = p / (2.0 * alpha + p + p * (1.0 - 2.0 * alpha))
    return size, 2.0 * alpha * size


@frozen(kw_only=True)
class Dynamics:
    """Solved exponents of gradient flow on random features, as `dynamical_exponents` names them."""

    time: float
    size: float
    compute: float
    width: float


def solve_dynamics(
    task: float, spectrum: float, *, widths: tuple[int, ...] = (16, 23, 32, 45, 64, 91, 128, 181),
    hidden: int = 1200, seeds: int = 2,
) -> Dynamics:  # fmt: skip
    """Solve gradient flow at several widths and read the exponents off.

    Power beyond the coordinates that are drawn is in every floor and is added to it. Compute counts
    width x time; its frontier is the lower envelope over widths.

    Raises
    ------
    InvalidInput
        If the exponents are not those of a decaying spectrum (above 1) and task (above 1).
    """
    if not (1.0 < spectrum <= 4.0 and 1.0 < task <= 6.0):
        raise InvalidInput(
            f"The spectrum decays as k^-{spectrum:g} and the task as k^-{task:g}: both exponents "
            "lie above 1, up to 4 and 6."
        )
    alpha, beta = spectrum / 2.0, (task - spectrum) / 2.0
    beyond = 0.5 * hidden ** (1.0 - task) / (task - 1.0)
    times = np.geomspace(1.0, 1e5, 160)
    curves, floors = [], []
    for d in (*widths, hidden // 2):
        drawn = [Features.draw_any(alpha, beta, d, hidden, s) for s in range(seeds)]
        curves.append(np.mean([flow_losses(f, times) for f in drawn], axis=0) + beyond)
        floors.append(np.mean([f.floor for f in drawn]) + beyond)
    # While the widest is far above its floor it follows the infinite model.
    wide = curves[-1]
    middle = (times > 3.0) & (wide > 4.0 * floors[-1])
    flop = np.geomspace(widths[0] * 10.0, widths[-1] * 1e4, 120)
    table = np.array([
        np.exp(np.interp(np.log(flop / d), np.log(times), np.log(c)))
        for d, c in zip(widths, curves)
    ])  # fmt: skip
    best = np.argmin(table, axis=0)
    inner = (best > 0) & (best < len(widths) - 1)
    if middle.sum() < 4 or inner.sum() < 8:
        raise InvalidInput(
            "These exponents leave no range of times or widths that can be solved here; take a "
            "spectrum and a task that decay more slowly."
        )
    chosen = np.array(widths, float)[best[inner]]
    loss = table[best, np.arange(len(flop))][inner]

    def slope(x: Array, y: Array) -> float:
        return float(np.polyfit(np.log(x), np.log(y), 1)[0])

    return Dynamics(
        time=-slope(times[middle], wide[middle]),
        size=-slope(np.array(widths, float), np.array(floors[:-1])),
        compute=-slope(flop[inner], loss), width=_corners(np.log(flop[inner]), np.log(chosen)),
    )  # fmt: skip
