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
    n = np.array([float(r["group"][:-1]) * 1e6 for r in table])
    x = {name: column(table, f"proportion_domain_{i}") for i, name in enumerate(shares(5), 1)}
    for i in range(1, 6):
        y = column(table, f"loss_domain_{i}")
        out += _again(f"ye-2024-domain-{i}-sized-refit", {"params": n, **x}, y, "c",
                      held=n < n.max())  # fmt: skip
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
