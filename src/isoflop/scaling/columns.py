"""Runs from a CSV: which column is what, and everything that can be wrong with it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from ..errors import FitError, InvalidInput
from .law import Law

Array = NDArray[Any]

SYNONYMS: dict[str, tuple[str, ...]] = {
    "params": ("params", "n", "n_params", "num_params", "parameters", "model_size", "modelsize",
               "non_embedding_params", "dense_parameter_count"),
    "tokens": ("tokens", "d", "n_tokens", "num_tokens", "training_tokens", "train_tokens"),
    "compute_flop": ("compute_flop", "c", "flop", "flops", "compute", "training_flop",
                     "train_flop", "training_compute"),
    "loss": ("loss", "l", "final_loss", "val_loss", "validation_loss", "test_loss", "eval_loss"),
    "unique_tokens": ("unique_tokens", "u", "unique"),
    "experts": ("experts", "e", "num_experts"),
    "lr": ("lr", "learning_rate"),
    "batch_tokens": ("batch_tokens", "bsz", "batch", "batch_size", "bs"),
    "streams": ("streams", "p", "parallel", "parallel_size"),
    "vocab": ("vocab", "vocab_size", "v"),
}  # fmt: skip
"""Names people give to columns, by the standard name."""

SIX = 6.0
"""FLOP per parameter and token of a training step, forward and backward, attention aside."""


@frozen(kw_only=True, eq=False)
class Runs:
    """Training runs, one per row that could be used.

    Attributes
    ----------
    columns : dict of str to array
        By standard name, each (runs,).
    lines : array of int
        Line in the file of each run.
    notes : tuple of str
        What was noticed: conventions, duplicates, columns derived.
    groups : array of int or None
        Cluster of each run.
    """

    columns: Mapping[str, Array]
    lines: Array
    notes: tuple[str, ...] = field(factory=tuple)
    groups: Array | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def data(self, law: Law) -> dict[str, Array]:
        """The inputs of a law."""
        return {name: self.columns[name] for name in law.inputs}

    def take(self, index: Array) -> Runs:
        """Some of the runs."""
        return Runs(
            columns={k: v[index] for k, v in self.columns.items()}, lines=self.lines[index],
            notes=self.notes, groups=None if self.groups is None else self.groups[index],
        )  # fmt: skip


def normal(name: str) -> str:
    """A column name without case, spaces and punctuation: `Training FLOP` is `training_flop`."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def read_runs(
    path: str | Path, law: Law, named: Mapping[str, str] | None = None, cluster: str = "",
    where: Mapping[str, str] | None = None,
) -> Runs:  # fmt: skip
    """Read the runs a law needs.

    Parameters
    ----------
    named : mapping
        Standard name -> the file's column, for columns that are not recognised.
    cluster : str
        Column that says which runs belong together (a model, a seed).
    where : mapping
        Column -> value: only lines that hold it.

    Raises
    ------
    InvalidInput, FitError
        If a column is missing, a value is no number (with its line), or the runs cannot identify
        the law.
    """
    header, rows = _rows(Path(path))
    for name, value in (where or {}).items():
        rows = _chosen(rows, _column(name, header, Path(path)), name, value, Path(path))
    named = {k: v for k, v in (named or {}).items() if v}
    wanted = [*law.inputs, law.output]
    notes: list[str] = []
    found: dict[str, Array] = {}
    for name in {*wanted, "params", "tokens", "compute_flop"}:
        place = _place(name, named.get(name), header, Path(path))
        if place is not None:
            found[name] = _numbers(rows, place, header[place], Path(path), name in law.signed)
    _derive(found, wanted, notes)
    missing = [n for n in wanted if n not in found]
    if missing:
        raise InvalidInput(
            f"'{path}' has no column for {', '.join(missing)}. Its columns are "
            f"{', '.join(header)}; name the right one, for example --n 'Model Size' --d tokens "
            "--loss loss."
        )
    groups = None
    if cluster:
        place = _column(cluster, header, Path(path))
        groups = np.unique([row[place] for _, row in rows], return_inverse=True)[1]
    lines = np.array([line for line, _ in rows])
    _conventions(found, notes)
    _duplicates(found, wanted, lines, notes)
    _tiny(found, notes)
    runs = Runs(columns=found, lines=lines, notes=tuple(notes), groups=groups)
    check_runs(runs, law)
    return runs


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        if path.suffix == ".gz":
            import gzip

            text = gzip.decompress(path.read_bytes()).decode("utf-8")
        else:
            text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(f"'{path}' is not a text file: runs are a CSV.") from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"'{path}' cannot be read: {reason}.") from None
    table = list(csv.reader(text.splitlines()))
    if len(table) < 2:
        raise InvalidInput(f"'{path}' needs a header line and one line per run.")
    rows = [(i, r) for i, r in enumerate(table[1:], start=2) if any(c.strip() for c in r)]
    return [h.strip() for h in table[0]], rows


def _place(name: str, given: str | None, header: Sequence[str], path: Path) -> int | None:
    names = [normal(h) for h in header]
    if given is not None:
        return _column(given, header, path)
    for candidate in SYNONYMS.get(name, (name,)):
        if candidate in names:
            return names.index(candidate)
    return None


def _column(name: str, header: Sequence[str], path: Path) -> int:
    names = [normal(h) for h in header]
    if normal(name) not in names:
        raise InvalidInput(f"'{path}' has no column '{name}'. Its columns are {', '.join(header)}.")
    return names.index(normal(name))


def _chosen(
    rows: list[tuple[int, list[str]]], place: int, name: str, value: str, path: Path
) -> list[tuple[int, list[str]]]:
    """The lines whose cell is the value; text, not numbers, is compared."""
    cells = [row[place].strip() if place < len(row) else "" for _, row in rows]
    kept = [row for row, cell in zip(rows, cells) if cell == value]
    if not kept:
        seen = ", ".join(sorted(set(cells))[:8])
        raise InvalidInput(f"No line of '{path}' has {name} = {value}. Its values are {seen}.")
    return kept


def _numbers(
    rows: list[tuple[int, list[str]]], place: int, what: str, path: Path, signed: bool
) -> Array:
    out = np.empty(len(rows))
    for i, (line, row) in enumerate(rows):
        text = row[place].strip() if place < len(row) else ""
        try:
            out[i] = float(text)
        except ValueError:
            raise InvalidInput(
                f"Line {line} of '{path}' has '{text}' as {what}, which is not a number. "
                "Remove the run or correct it."
            ) from None
        if not np.isfinite(out[i]) or (out[i] <= 0 and not signed):
            kind = "finite" if signed else "positive"
            raise InvalidInput(
                f"Line {line} of '{path}' has {what} = {text}; it must be a {kind} number. "
                "Remove the run or correct it."
            )
    return out


def _derive(found: dict[str, Array], wanted: Sequence[str], notes: list[str]) -> None:
    """The third of N, D and C from the other two."""
    have = found.keys()
    if "tokens" in wanted and "tokens" not in have and {"params", "compute_flop"} <= have:
        found["tokens"] = found["compute_flop"] / (SIX * found["params"])
        notes.append("tokens were derived as C / (6 N)")
    if "params" in wanted and "params" not in have and {"tokens", "compute_flop"} <= have:
        found["params"] = found["compute_flop"] / (SIX * found["tokens"])
        notes.append("parameters were derived as C / (6 D)")
    if "compute_flop" in wanted and "compute_flop" not in have and {"params", "tokens"} <= have:
        found["compute_flop"] = SIX * found["params"] * found["tokens"]
        notes.append("compute was derived as 6 N D")


def _conventions(found: Mapping[str, Array], notes: list[str]) -> None:
    """C / (N D) says how FLOP and parameters were counted."""
    if not {"params", "tokens", "compute_flop"} <= found.keys() or any(
        "derived" in n for n in notes
    ):
        return
    ratio = found["compute_flop"] / (found["params"] * found["tokens"])
    low, middle, high = np.percentile(ratio, [2, 50, 98])
    if high / low > 1.25:
        notes.append(
            f"C / (N D) runs from {low:.3g} to {high:.3g}: the runs mix conventions (parameters "
            "with and without embeddings, FLOP exact and as 6 N D), or the small ones count "
            "embeddings differently"
        )
    elif abs(middle / SIX - 1.0) > 0.03:
        notes.append(
            f"C / (N D) is {middle:.3g}, not 6: FLOP count attention or recomputation, or "
            "parameters leave out embeddings; fits on 6 N D and on C will differ"
        )


TINY_FLOP = 2.2e15
"""Below this the loss of reduced-scale models leaves the line of larger ones (Deshpande et al.
2023, Honey, I Shrunk the Language, arXiv 2305.17266)."""


def _tiny(found: Mapping[str, Array], notes: list[str]) -> None:
    if "compute_flop" in found:
        flop = found["compute_flop"]
    elif {"params", "tokens"} <= found.keys():
        flop = SIX * found["params"] * found["tokens"]
    else:
        return
    count = int((flop < TINY_FLOP).sum())
    if count:
        notes.append(
            f"{count} runs took less than {TINY_FLOP:.1e} FLOP, where reduced-scale models leave "
            "the line of larger ones; compare a fit without them"
        )


def _duplicates(
    found: Mapping[str, Array], wanted: Sequence[str], lines: Array, notes: list[str]
) -> None:
    table = np.stack([found[n] for n in wanted], axis=1)
    _, first, count = np.unique(table, axis=0, return_index=True, return_counts=True)
    twice = first[count > 1]
    if len(twice):
        shown = ", ".join(str(int(lines[i])) for i in sorted(twice)[:5])
        notes.append(
            f"{int((count - 1).sum())} runs repeat an earlier one exactly (lines {shown}): they "
            "count twice and make intervals too narrow"
        )


def check_runs(runs: Runs, law: Law) -> None:
    """Raise `FitError` where the runs cannot identify the law."""
    p = len(law.parameters)
    if len(runs) < p + 2:
        raise FitError(
            f"The law '{law.name}' has {p} constants and there are {len(runs)} runs. At least "
            f"{p + 2} are needed for a fit with any error estimate: add {p + 2 - len(runs)} more."
        )
    for name in law.inputs:
        values = runs.columns[name]
        if np.ptp(values) < 1e-9 * np.abs(values).max():
            raise FitError(
                f"Every run has the same {name} ({values[0]:g}), so nothing can be said about its "
                f"effect. Add runs with other values of {name}"
                + (", far apart." if name in law.signed else ", at least a factor of 4 apart.")
            )
    loss = runs.columns[law.output]
    if np.ptp(loss) < 1e-9 * np.abs(loss).max():
        raise FitError(f"Every run has the same {law.output}; there is nothing to fit.")
