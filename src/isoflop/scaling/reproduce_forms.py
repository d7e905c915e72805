"""Forms whose constants come from public runs: fitted again, and what they predict held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .law import Law
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


SCORES = ("MMLU", "ARC-C", "HellaSwag", "Winograd", "TruthfulQA", "GSM8K", "XWinograd")
"""Benchmarks of the table whose mean is taken as an aggregate."""
MOST_TOKENS_T = 100.0
"""Trillions of training tokens above which a unit was mistaken: one row holds 627 for 0.627."""
DECADES = (22.5, 24.6, 0.25)
"""Limits of compute, as decades, below which a fit is made; the decade above is predicted."""


def benchmark(folder: Path) -> list[Reproduced]:
    """Public base models by training compute: MMLU, and how far a decade ahead can be seen.

    The note repeats the paper's study: every limit of compute in turn, aggregates against single
    tasks, beside a constant, the mean score of the decade below the limit.
    """
    rows = [r for r in read_table(folder / "obsscaling_base_llm_benchmark_eval.csv")
            if r["FLOPs (1E21)"] and r["MMLU"]]  # fmt: skip
    wrong = column(rows, "Pretraining Data Size (T)") > MOST_TOKENS_T
    flop = column(rows, "FLOPs (1E21)") * np.where(wrong, 1e18, 1e21)
    entry = load_published("mmlu-2024-refit")
    law, mmlu = entry.form(), column(rows, "MMLU")
    whole = np.array([all(r[k] for k in SCORES) for r in rows])
    full = [r for r in rows if all(r[k] for k in SCORES)]
    x = {"compute_flop": flop}
    theta, _, _ = generic(law, x, mmlu, entry.theta()[None, :], delta=law.delta,
                          log_residual=False)  # fmt: skip
    scores = np.stack([column(full, name) for name in SCORES])
    each = [decade_ahead(law, flop[whole], score)[0] for score in scores]
    total = decade_ahead(law, flop[whole], scores.mean(axis=0))
    ahead, usual = decade_ahead(law, flop, mmlu)
    note = (f"a decade ahead: MMLU {ahead:.1f} points off (a constant {usual:.1f}), {len(SCORES)} "
            f"benchmarks one by one {np.mean(each):.1f}, their mean {total[0]:.1f} (a constant "
            f"{total[1]:.1f})")  # fmt: skip
    return [
        Reproduced(fit=entry.id, quantity=name, published=entry.constants[name],
                   ours=float(theta[0][i]), note=note)
        for i, name in ((1, "k"), (2, "m"), (3, "ceiling"))
    ]  # fmt: skip


def decade_ahead(law: Law, flop: Array, score: Array) -> tuple[float, float]:
    """Mean error, in points, of predicting the decade above each limit, and of a constant."""
    ours, usual = [], []
    for limit in 10.0 ** np.arange(*DECADES):
        low, high = flop <= limit, (flop > limit) & (flop <= 10.0 * limit)
        if high.sum() < 3:
            continue
        x = {"compute_flop": flop[low]}
        theta, value, _ = generic(law, x, score[low], law.starts(x, score[low]), delta=law.delta,
                                  log_residual=False)  # fmt: skip
        predicted = law.predict(theta[int(np.argmin(value))], {"compute_flop": flop[high]})
        ours.append(np.abs(predicted - score[high]).mean())
        usual.append(np.abs(score[low & (flop > limit / 10.0)].mean() - score[high]).mean())
    return 100.0 * float(np.mean(ours)), 100.0 * float(np.mean(usual))


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
