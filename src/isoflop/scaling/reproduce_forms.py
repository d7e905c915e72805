"""Forms whose constants come from public runs: fitted again, and what they predict held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .laws.mixture import shares
from .published import load_published
from .reproduced import Reproduced, column, read_table
from .solve import generic

Array = NDArray[Any]


def parallel(folder: Path) -> list[Reproduced]:
    """Chen et al. 2025: parallel streams on code and on the Pile."""
    rows = read_table(folder / "sldbench_parallel.csv.gz")
    out = []
    for group in ("stack", "pile"):
        part = [r for r in rows if r["group"] == group]
        x = {"params": column(part, "num_params"), "streams": column(part, "parallel_size")}
        y = column(part, "loss")
        out += _again(f"parscale-2025-{group}-refit", x, y, "k", held=x["streams"] < 8)
    return out


def mixing(folder: Path) -> list[Reproduced]:
    """Ye et al. 2024: the mixing law of each of five domains at 410M parameters."""
    table = read_table(folder / "sldbench_domain_mixture.csv.gz")
    rows = [r for r in table if r["group"] == "410M"]
    x = {name: column(rows, f"proportion_domain_{i}") for i, name in enumerate(shares(5), 1)}
    train = np.array([r["split"] == "train" for r in rows])
    out = []
    for i in range(1, 6):
        y = column(rows, f"loss_domain_{i}")
        out += _again(f"ye-2024-domain-{i}-refit", x, y, "c", held=train)
    return out


def benchmark(folder: Path) -> list[Reproduced]:
    """MMLU of public base models by training compute."""
    rows = [r for r in read_table(folder / "obsscaling_base_llm_benchmark_eval.csv")
            if r["MMLU"] and r["FLOPs (1E21)"]]  # fmt: skip
    flop, y = column(rows, "FLOPs (1E21)") * 1e21, column(rows, "MMLU")
    entry = load_published("mmlu-2024-refit")
    theta, _, _ = generic(entry.form(), {"compute_flop": flop}, y, entry.theta()[None, :],
                          delta=0.05, log_residual=False)  # fmt: skip
    error = float(np.mean(np.abs(entry.form().predict(theta[0], {"compute_flop": flop}) - y)))
    constant = float(np.mean(np.abs(y - np.median(y))))
    return [
        Reproduced(fit=entry.id, quantity=name, published=entry.constants[name],
                   ours=float(theta[0][i]), note=f"{100 * error:.1f} points off on average, a "
                   f"constant {100 * constant:.1f}")
        for i, name in ((1, "k"), (2, "m"))
    ]  # fmt: skip


def _again(
    name: str, x: dict[str, Array], y: Array, constant: str, held: Array
) -> list[Reproduced]:
    """One catalog entry fitted again; its note says how a fit on `held` predicts the others."""
    entry = load_published(name)
    law, start = entry.form(), entry.theta()[None, :]
    theta, _, _ = generic(law, x, y, start, delta=1e3, log_residual=True)
    part, _, _ = generic(law, {k: v[held] for k, v in x.items()}, y[held], start, delta=1e3,
                         log_residual=True)  # fmt: skip
    rest = {k: v[~held] for k, v in x.items()}
    error = 100 * float(np.mean(np.abs(law.predict(part[0], rest) / y[~held] - 1.0)))
    usual = 100 * float(np.mean(np.abs(y[held].mean() / y[~held] - 1.0)))
    i = [p.name for p in law.parameters].index(constant)
    return [Reproduced(
        fit=name, quantity=constant, published=entry.constants[constant], ours=float(theta[0][i]),
        note=f"catalog constant fitted again; {int((~held).sum())} runs held out {error:.2f}% off "
        f"on average, their mean {usual:.1f}%",
    )]  # fmt: skip


def step_law(folder: Path) -> list[Reproduced]:
    """Li et al. 2025: the best learning rate of each grid, by size and tokens.

    At each size and amount of data a paraboloid through the runs within 1% of the lowest loss gives
    the optimum, or the lowest run where it has none inside.
    """
    rows = read_table(folder / "sldbench_lr_bsz.csv.gz")
    n, d, lr, batch, y = (column(rows, k) for k in (
        "non_embedding_param_size", "data_size", "lr", "bsz", "lm_loss"))  # fmt: skip
    points = []
    for size, tokens in sorted(set(zip(n.tolist(), d.tolist()))):
        here = (n == size) & (d == tokens)
        points.append((size, tokens, _best_rate(np.log(lr[here]), np.log(batch[here]), y[here])))
    table = np.log(np.array(points))
    design = np.column_stack([np.ones(len(table)), table[:, 0], table[:, 1]])
    found = np.linalg.lstsq(design, table[:, 2], rcond=None)[0]
    entry = load_published("steplaw-2025-lr")
    return [
        Reproduced(fit=entry.id, quantity=f"exponent {name}", published=entry.constants[name],
                   ours=float(value), tolerance=0.05,
                   error=(entry.high95[name] - entry.low95[name]) / 3.92,
                   note="runs of all shapes; within the published 95% interval")
        for name, value in zip(("a", "b"), found[1:])
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
