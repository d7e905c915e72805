"""Exponents of what is best at each budget, read off sweeps, with their bootstrap."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import MissingExtra
from .law import Array
from .published import WIDTH95, load_published
from .reproduced import Reproduced, column, read_table

KEYS = ("dataset", "hparams", "warmup", "decay", "param_count", "val", "file")
"""Columns that name an experiment of Porian et al."""
NOISE = {"rw": 0.002, "owt2": 0.01}
"""Seed noise of a loss, in nats, by data set: the authors' configuration."""
PER_INTERVAL = 25
"""Points of the interpolation between two sizes."""
FLOOR = 0.33
"""Least standard deviation of an optimum, in steps between sizes."""
RESAMPLES = 1000
STEP_RESAMPLES = 200


def porian(folder: Path) -> list[Reproduced]:
    """Porian et al. 2024: exponent of N* and its 95% interval, from the isoFLOP points.

    The authors' way: seed noise is added to every loss of a budget, an Akima spline through
    log loss over log N gives the optimum, and a line through the optima, weighted by their
    scatter, gives the exponent of each resample.
    """
    points = read_table(folder / "porian_isoflop_points.csv.gz")
    out = []
    for target in read_table(folder / "porian_published_fits.csv"):
        part = [p for p in points if all(p[k] == target[k] for k in KEYS) and p["N"] and p["loss"]]
        if not part:
            continue
        middle, low, high = _exponent(part, NOISE[target["dataset"]])
        name = " ".join(
            ["porian-2024", *(target[k] for k in KEYS[:5] if target[k] not in ("base", "standard"))]
        )
        ends = float(target["a_lo95"]), float(target["a_hi95"])
        error = (ends[1] - ends[0]) / WIDTH95
        out += [
            Reproduced(fit=name, quantity=quantity, published=published, ours=ours, error=error)
            for quantity, published, ours in (
                ("exponent of N*", float(target["a"]), middle), ("its 2.5%", ends[0], low),
                ("its 97.5%", ends[1], high))
        ]  # fmt: skip
    return out


def _exponent(part: list[dict[str, str]], noise: float) -> tuple[float, float, float]:
    """Exponent through the median optima, and the ends of its 95% interval."""
    flop, n, loss = (column(part, k) for k in ("flops", "N", "loss"))
    rng = np.random.default_rng(0)
    where, scatter, optima = [], [], []
    for budget in np.unique(flop):
        here = np.nonzero(flop == budget)[0]
        here = here[np.argsort(n[here])]
        if len(here) < 3:
            continue
        found, spread = _optima(n[here], loss[here], noise, rng)
        if len(found) < RESAMPLES // 2:
            continue
        where.append(np.log(budget))
        scatter.append(spread)
        optima.append(found[np.arange(RESAMPLES) % len(found)])
    x, s, y = np.array(where), np.array(scatter), np.array(optima)
    design = np.column_stack([np.ones_like(x), x]) / s[:, None]
    slopes = np.linalg.lstsq(design, y / s[:, None], rcond=None)[0][1]
    middle = np.linalg.lstsq(design, np.median(y, axis=1) / s, rcond=None)[0][1]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return float(middle), float(low), float(high)


def _optima(n: Array, loss: Array, noise: float, rng: np.random.Generator) -> tuple[Array, float]:
    """log N of the lowest loss in each resample that has it inside, and their scatter."""
    try:
        from scipy.interpolate import Akima1DInterpolator
    except ImportError:
        raise MissingExtra("Deriving these intervals again", "fit") from None
    grid = np.geomspace(n[0], n[-1], (len(n) - 1) * PER_INTERVAL)
    drawn = loss[:, None] + noise * rng.standard_normal((len(n), RESAMPLES))
    at = Akima1DInterpolator(np.log(n), np.log(drawn))(np.log(grid)).argmin(axis=0)
    inside = (at > 0) & (at < len(grid) - 1)
    found = np.log(grid[at[inside]])
    if not len(found):
        return found, np.inf
    least = FLOOR * PER_INTERVAL * np.log(grid[1] / grid[0])
    return found, max(float(found.std()), least) * RESAMPLES / max(len(found), 1)


def step_law(folder: Path) -> list[Reproduced]:
    """Li et al. 2025: the best learning rate of each grid, by size and tokens.

    At each size and amount of data a paraboloid through the runs within 1% of the lowest loss gives
    the optimum, or the lowest run where it has none inside.
    """
    rows = read_table(folder / "sldbench_lr_bsz.csv.gz")
    n, d, lr, batch, y = (column(rows, k) for k in (
        "non_embedding_param_size", "data_size", "lr", "bsz", "lm_loss"))  # fmt: skip
    grids = sorted(set(zip(n.tolist(), d.tolist())))
    members = [np.nonzero((n == size) & (d == tokens))[0] for size, tokens in grids]
    design = np.column_stack([np.ones(len(grids)), np.log(np.array(grids))])
    log_lr, log_batch = np.log(lr), np.log(batch)

    def fit(chosen: list[Array]) -> Array:
        best = [_best_rate(log_lr[i], log_batch[i], y[i]) for i in chosen]
        return np.linalg.lstsq(design, np.log(best), rcond=None)[0]

    found = fit(members)
    rng = np.random.default_rng(0)
    again = [fit([rng.choice(i, len(i)) for i in members]) for _ in range(STEP_RESAMPLES)]
    ends = np.percentile(again, [2.5, 97.5], axis=0)
    entry = load_published("steplaw-2025-lr")
    return [
        Reproduced(fit=entry.id, quantity=f"exponent {name}", published=entry.constants[name],
                   ours=float(found[i]), tolerance=0.05,
                   error=(entry.high95[name] - entry.low95[name]) / WIDTH95,
                   note="runs of all shapes; 95% over resampled runs of each grid "
                   f"{ends[0, i]:.3f} to {ends[1, i]:.3f}, published {entry.low95[name]:g} to "
                   f"{entry.high95[name]:g}")
        for i, name in ((1, "a"), (2, "b"))
    ]  # fmt: skip


def _best_rate(log_lr: Array, log_batch: Array, loss: Array) -> float:
    """Learning rate at the minimum of a paraboloid near the lowest loss."""
    near = loss < loss.min() * 1.01
    lowest = float(np.exp(log_lr[np.argmin(loss)]))
    if near.sum() < 10:
        return lowest
    u, v = log_lr[near], log_batch[near]
    design = np.column_stack([np.ones(len(u)), u, v, u * u, v * v, u * v])
    c = np.linalg.lstsq(design, loss[near], rcond=None)[0]
    hessian = np.array([[2 * c[3], c[5]], [c[5], 2 * c[4]]])
    if np.any(np.linalg.eigvalsh(hessian) <= 0):
        return lowest
    best = -np.linalg.solve(hessian, c[1:3])
    inside = u.min() <= best[0] <= u.max() and v.min() <= best[1] <= v.max()
    return float(np.exp(best[0])) if inside else lowest
