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
STEP_RESAMPLES = 4000
END_TOLERANCE = 0.25
"""Of a standard error: the ends of their 1,000 resamples are themselves known to a tenth of one."""
NEAR_LOWEST = 0.0025
"""Li et al. count a run as an optimum of its grid within this share of the lowest loss."""
STEP_SEQUENCE = 2048
"""Tokens per sequence of their runs."""


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
    """Li et al. 2025: best learning rate and batch of dense models, and their bootstrap.

    The authors' way: at each size and amount of data every run within 0.25% of the lowest loss is
    an optimum; lines through the logarithms of these; the constants are the means, and the
    intervals the percentiles, over resamples of the optima.
    """
    rows = read_table(folder / "sldbench_lr_bsz.csv.gz")
    n, d, lr, batch, y = (column(rows, k) for k in (
        "non_embedding_param_size", "data_size", "lr", "bsz", "lm_loss"))  # fmt: skip
    _, grid = np.unique(np.stack([n, d]), axis=1, return_inverse=True)
    lowest = np.full(grid.max() + 1, np.inf)
    np.minimum.at(lowest, grid, y)
    near = y < lowest[grid] * (1.0 + NEAR_LOWEST)
    ones, log_n, log_d = np.ones(near.sum()), np.log(n[near]), np.log(d[near])
    return [
        *_resampled("steplaw-2025-lr", ("a", "b"), np.column_stack([ones, log_n, log_d]),
                    np.log(lr[near])),
        *_resampled("steplaw-2025-batch", ("a",), np.column_stack([ones, log_d]),
                    np.log(batch[near] * STEP_SEQUENCE)),
    ]  # fmt: skip


def _resampled(fit: str, slopes: tuple[str, ...], design: Array, y: Array) -> list[Reproduced]:
    """A line through logarithms over resamples of its points, beside the published one.

    Parameters
    ----------
    design : array (points, 1 + slopes)
    y : array (points,)
    """
    entry = load_published(fit)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(y), size=len(y)) for _ in range(STEP_RESAMPLES)]
    found = np.array([np.linalg.lstsq(design[i], y[i], rcond=None)[0] for i in drawn])
    middle, ends = found.mean(axis=0), np.percentile(found, [2.5, 97.5], axis=0)
    out = []
    for k, name in enumerate(("c", *slopes)):
        published = [entry.constants[name], entry.low95[name], entry.high95[name]]
        shown = "log c" if name == "c" else name
        value, low, high = np.log(published) if name == "c" else published
        error = (high - low) / WIDTH95
        out += [
            Reproduced(fit=fit, quantity=quantity, published=float(theirs), ours=float(ours),
                       error=error, tolerance=END_TOLERANCE * error / abs(theirs))
            for quantity, theirs, ours in (
                (shown, value, middle[k]), (f"{shown}, its 2.5%", low, ends[0, k]),
                (f"{shown}, its 97.5%", high, ends[1, k]))
        ]  # fmt: skip
    return out
