"""Public training runs of parameters, tokens and loss, as sets to extrapolate on.

The files lie beside the project (`../shared/data/laws`, with their sources and licences) and are
never copied into it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from isoflop.scaling.columns import Runs, read_runs
from isoflop.scaling.law import find_law
from isoflop.scaling.reproduced import read_table

RECIPES = {
    "as Kaplan, head counted": ("base", "long", "kaplan"),
    "short warm-up": ("base", "short", "kaplan"),
    "cosine to the end": ("base", "short", "chinchilla"),
    "tuned, constant rate": ("tuned", "short", "const"),
}
"""Training recipes of Porian et al. 2024: hyperparameters, warm-up, decay."""


def _plain(name: str, **named: str) -> Callable[[Path], Runs]:
    return lambda folder: read_runs(folder / name, find_law("chinchilla"), named)


def _porian(data: str, recipe: tuple[str, str, str]) -> Callable[[Path], Runs]:
    def read(folder: Path) -> Runs:
        rows = [
            r for r in read_table(folder / "porian_isoflop_points.csv.gz")
            if r["dataset"] == data and (r["hparams"], r["warmup"], r["decay"]) == recipe
            and r["param_count"] == "standard" and r["loss"] and r["N"] and r["D"]
        ]  # fmt: skip
        return _runs([(float(r["N"]), float(r["D"]), float(r["loss"])) for r in rows])

    return read


def _step_law(folder: Path) -> Runs:
    """The lowest loss over learning rate and batch at each size and amount of data."""
    best: dict[tuple[float, float], float] = {}
    for r in read_table(folder / "sldbench_lr_bsz.csv.gz"):
        key = float(r["non_embedding_param_size"]), float(r["data_size"])
        best[key] = min(best.get(key, np.inf), float(r["lm_loss"]))
    return _runs([(n, d, loss) for (n, d), loss in best.items()])


def _runs(rows: list[tuple[float, float, float]]) -> Runs:
    table = np.array(rows)
    return Runs(columns={"params": table[:, 0], "tokens": table[:, 1], "loss": table[:, 2]},
                lines=np.arange(2, len(table) + 2))  # fmt: skip


ACTIVE = {"params": "params_active_precise"}
SETS: dict[str, Callable[[Path], Runs]] = {
    "Epoch Chinchilla": _plain("chinchilla_epoch_svg_extracted.csv"),
    "kyo-takano": _plain("kyotakano_llm_df.csv"),
    "Farseer": _plain("sldbench_farseer.csv.gz"),
    "Step Law, best of each grid": _step_law,
    "Gemstones": _plain("gemstones_hot.csv", **ACTIVE),
    "Gemstones beyond 100B tokens": _plain("gemstones_hot_100b+.csv", **ACTIVE),
    "Gemstones cooled": _plain("gemstones_cool_end.csv", **ACTIVE),
    "Gemstones at another rate": _plain("gemstones_lr_ablation_hot.csv", **ACTIVE),
    "Gadre": _plain("gadre_models.csv", loss="loss:val_tok_mult/paloma_c4_en/00000001.tar"),
    **{f"Porian {data}, {name}": _porian(code, recipe)
       for data, code in (("RefinedWeb", "rw"), ("OpenWebText2", "owt2"))
       for name, recipe in RECIPES.items()},
}  # fmt: skip
