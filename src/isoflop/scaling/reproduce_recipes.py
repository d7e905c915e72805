"""Fits whose authors publish their recipe: the same runs, the same objective, their constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .choices.vocabulary import best_by_loss, budget_of
from .law import Array, Law
from .published import load_published
from .reproduced import Reproduced, column, read_table
from .solve import generic, huber

TABLE = Path(__file__).parent.parent / "data" / "law_runs" / "quartet-2025.csv"
"""Losses that the authors' notebook holds, by format of the two passes."""
QUARTET_DELTA = 1e-4
"""Their Huber threshold on log loss."""

SMALL = (10_569_312, 78_914_048, 153_677_376, 411_616_256)
"""Sizes that Gadre et al. fit, at 20 tokens per parameter; the smallest also at 320."""
GADRE = {
    "c4_original": ("c4", (1.51, 141.0, 190.0, 0.121)),
    "rpj": ("redpajama", (1.84, 212.0, 367.0, 0.136)),
    "rw_original": ("refinedweb", (1.73, 157.0, 246.0, 0.127)),
}
C4_EVAL = "loss:c4_val/shard-{0000000..0000010}.tar"


def gadre(folder: Path) -> list[Reproduced]:
    """Gadre et al. 2024: five runs of each data set, least squares of the loss."""
    rows = read_table(folder / "gadre_models.csv")
    out = []
    for data, (name, printed) in GADRE.items():
        part = [r for r in rows if r["train_set"] == data and int(r["N"]) in SMALL and (
            float(r["multiplier"]) == 1.0
            or (float(r["multiplier"]) == 16.0 and int(r["N"]) == SMALL[0])
        )]  # fmt: skip
        n, ratio = column(part, "N"), 20.0 * column(part, "multiplier")
        x = {"compute_flop": 6.0 * n * n * ratio, "tokens_per_param": ratio}
        entry = load_published(f"gadre-2024-{name}")
        law = entry.form()
        start = law.vector(dict(zip(("E", "a", "b", "h"), printed)))
        theta, _, _ = generic(law, x, column(part, C4_EVAL), start[None, :], delta=1e3,
                              log_residual=False, iterations=2000)  # fmt: skip
        out += [
            Reproduced(fit=entry.id, quantity=k, published=p, ours=law.constants(theta[0])[k],
                       note="five public runs")
            for k, p in zip(("E", "a", "b", "h"), printed)
        ]  # fmt: skip
        if data == "rpj":
            out += _gadre_errors(rows, law, theta[0], entry.id)
    return out


def _gadre_errors(
    rows: list[dict[str, str]], law: Law, theta: Array, name: str
) -> list[Reproduced]:
    """How far the two large models lie from the law: their notebook's figures, in percent."""
    out = []
    for model, multiplier, published in (("open_lm_1b", 32.0, 0.7103), ("open_lm_7b", 1.0, 0.7320)):
        row = next(r for r in rows if r["name"].startswith(f"rpj-{model}")
                   and float(r["multiplier"]) == multiplier)  # fmt: skip
        n, ratio = float(row["N"]), 20.0 * multiplier
        at = {
            "compute_flop": np.array([6.0 * n * n * ratio]),
            "tokens_per_param": np.array([ratio]),
        }
        off = 100.0 * abs(law.predict(theta, at)[0] / float(row[C4_EVAL]) - 1.0)
        out.append(Reproduced(fit=name, quantity=f"error of {n / 1e9:.1f}B at {ratio:g}, %",
                              published=published, ours=float(off)))  # fmt: skip
    return out


def quartet(folder: Path) -> list[Reproduced]:
    """Castro et al. 2025: base constants on bf16 runs, then one efficiency for each pass."""
    del folder  # the runs are a small published table, shipped with the project
    rows = read_table(TABLE)
    entry = load_published("quartet-2025")
    law, theta = entry.form(), entry.theta()

    def part(forward: str, backward: str) -> tuple[dict[str, Array], Array]:
        chosen = [r for r in rows if (r["forward"], r["backward"]) == (forward, backward)]
        ones = np.ones(len(chosen))
        return {"params": column(chosen, "params"), "tokens": column(chosen, "tokens"),
                "eff_params": ones, "eff_tokens": ones}, column(chosen, "loss")  # fmt: skip

    x, y = part("bf16", "bf16")
    fitted, value, _ = generic(law, x, y, np.stack([theta, *_around(theta)]), delta=QUARTET_DELTA,
                               log_residual=True, iterations=1500)  # fmt: skip
    best = int(np.argmin(value))
    found = law.constants(fitted[best])
    out = [Reproduced(fit=entry.id, quantity=k, published=v, ours=found[k])
           for k, v in entry.constants.items()]  # fmt: skip
    out.append(Reproduced(fit=entry.id, quantity="Huber sum", published=2.1292178e-06,
                          ours=float(value[best])))  # fmt: skip
    for name, passes, published in (("eff_params", ("mxfp4", "bf16"), 0.64516309),
                                    ("eff_tokens", ("bf16", "mxfp4"), 0.89346852)):  # fmt: skip
        x, y = part(*passes)
        out.append(Reproduced(fit=entry.id, quantity=f"efficiency {name}", published=published,
                              ours=_efficiency(law, theta, x, y, name)))  # fmt: skip
    return out


def _around(theta: Array) -> list[Array]:
    """Other starts in the valley."""
    rng = np.random.default_rng(0)
    return [theta * np.exp(0.1 * rng.standard_normal(len(theta))) for _ in range(8)]


def _efficiency(law: Law, theta: Array, x: dict[str, Array], y: Array, name: str) -> float:
    """The efficiency of lowest Huber loss, by rounds of a finer grid."""
    low, high, grid, i = 0.2, 1.2, np.zeros(0), 0
    for _ in range(6):
        grid = np.linspace(low, high, 41)
        value = [
            huber(np.log(law.predict(theta, {**x, name: np.full(len(y), g)}) / y),
                  QUARTET_DELTA).sum()
            for g in grid
        ]  # fmt: skip
        i = int(np.argmin(value))
        low, high = grid[max(i - 1, 0)], grid[min(i + 1, 40)]
    return float(grid[i])


TAO_WIDTHS = (512, 768, 768, 1024, 1536, 2048)
"""Of the six models, smallest first."""


def vocabulary(folder: Path) -> list[Reproduced]:
    """Tao et al. 2024: the law on the public runs, and the vocabularies its optimum gives."""
    rows = read_table(folder / "sldbench_vocab.csv.gz")
    n, vocab, y = (column(rows, k) for k in (
        "non_vocab_parameters", "vocab_size", "unigram_normalized_loss"))  # fmt: skip
    sizes = np.unique(n)
    width = np.array(TAO_WIDTHS)[np.searchsorted(sizes, n)]
    x = {"params": n, "vocab": vocab, "vocab_params": vocab * width,
         "characters": column(rows, "num_characters")}  # fmt: skip
    entry = load_published("tao-2024")
    error = float(np.mean(np.abs(entry.form().predict(entry.theta(), x) - y)))
    usual = float(np.mean(np.abs(y - np.median(y))))
    ours = best_by_loss(70e9, budget_of(70e9), 8192.0) / 8192.0
    return [
        Reproduced(fit=entry.id, quantity="vocabulary at 70B", published=216e3, ours=ours,
                   tolerance=0.02, note=f"{error:.3f} off on average on {len(y):,} public runs, a "
                   f"constant {usual:.3f}"),
    ]  # fmt: skip
