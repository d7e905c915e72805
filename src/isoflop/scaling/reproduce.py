"""Published fits derived again from public runs: one function per source.

The runs are read from a folder the user has (most state no licence, so none is shipped); a source
whose file is absent is reported as such.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInput, IsoflopError
from .columns import Runs
from .fit import fit_law
from .law import find_law
from .published import load_published
from .reproduce_forms import benchmark, mixing, parallel
from .reproduce_recipes import gadre, quartet, vocabulary
from .reproduce_routed import clark
from .reproduce_sweeps import porian, step_law
from .reproduced import Reproduced, column, read_table, standard_errors
from .solve import generic

Array = NDArray[Any]

ENV_VARIABLE = "ISOFLOP_SHARED"


def data_folder(given: str = "") -> Path:
    """The folder of public runs: given, from the environment, or beside the project.

    Raises
    ------
    InvalidInput
        If there is none.
    """
    places = [Path(given)] if given else []
    if os.environ.get(ENV_VARIABLE):
        places.append(Path(os.environ[ENV_VARIABLE]) / "data" / "laws")
    places.append(Path.cwd().parent / "shared" / "data" / "laws")
    for place in places:
        if place.is_dir():
            return place
    raise InvalidInput(
        "The public training runs are not here. Put them into a folder and name it with --data, "
        "or set ISOFLOP_SHARED; `isoflop laws show NAME` says where each source publishes them."
    )


def _runs(**columns: Array) -> Runs:
    n = len(next(iter(columns.values())))
    return Runs(columns=columns, lines=np.arange(2, n + 2))


def epoch(folder: Path) -> list[Reproduced]:
    """Besiroglu et al. 2024: the Chinchilla refit on 240 points read off the paper's figure."""
    rows = read_table(folder / "chinchilla_epoch_svg_extracted.csv")
    n, c, y = (column(rows, k) for k in ("Model Size", "Training FLOP", "loss"))
    keep = np.sort(np.argsort(y, kind="stable")[:-5])
    runs = _runs(params=n[keep], tokens=c[keep] / (6 * n[keep]), compute_flop=c[keep], loss=y[keep])
    fit = fit_law(runs, find_law("chinchilla"), counts=epoch_resamples(len(runs)))
    entry = load_published("besiroglu-2024")
    out = [
        Reproduced(fit="besiroglu-2024", quantity=k, published=v, ours=fit.params[k],
                   error=entry.standard_errors[k])
        for k, v in entry.constants.items()
    ]  # fmt: skip
    out += [
        Reproduced(fit="besiroglu-2024 standard errors", quantity=k, published=v,
                   ours=fit.standard_errors[k], tolerance=0.01)
        for k, v in entry.standard_errors.items()
    ]  # fmt: skip
    a, b = fit.params["alpha"], fit.params["beta"]
    out.append(Reproduced(fit="besiroglu-2024", quantity="Huber sum", published=1.018274e-3,
                          ours=fit.objective, tolerance=1e-4))  # fmt: skip
    out.append(Reproduced(fit="besiroglu-2024", quantity="exponent of N*", published=0.5126,
                          ours=b / (a + b), error=0.018))  # fmt: skip
    return out


def epoch_resamples(runs: int) -> Array:
    """The 4,000 resamples of the published standard errors, as counts: their notebook's seed, 42,
    and its generator, one draw of all runs after another."""
    rng = np.random.RandomState(42)
    drawn = [rng.choice(runs, runs, replace=True) for _ in range(4000)]
    return np.stack([np.bincount(d, minlength=runs) for d in drawn]).astype(float)


def cerebras(folder: Path) -> list[Reproduced]:
    """Dey et al. 2023: the law through the seven published losses, by least squares in nats."""
    rows = read_table(folder / "cerebras_gpt_table.csv")
    flop, y = column(rows, "flops_reported"), column(rows, "pile_test_xent_paper")
    entry = load_published("cerebras-2023")
    law = entry.form()
    x = {"compute_flop": flop}
    found = law.predict(entry.theta(), x)
    theta, _, _ = generic(law, x, y, entry.theta()[None, :], delta=1e3, log_residual=False)
    error = standard_errors(law.gradient(theta[0], x), law.predict(theta[0], x) - y)
    ours = float(np.mean(np.abs(found / y - 1.0)) * 100)
    names = [p.name for p in law.parameters]
    return [
        Reproduced(fit="cerebras-2023", quantity="mean error, %", published=0.60, ours=ours,
                   tolerance=0.02),
        *(Reproduced(fit="cerebras-2023", quantity=name, published=entry.constants[name],
                     ours=float(theta[0][k]), error=float(error[k]),
                     note="seven points, three constants; standard errors are of our fit")
          for k, name in enumerate(names)),
        _mup(rows, entry.theta()),
    ]  # fmt: skip


def _mup(rows: list[dict[str, str]], theta: Array) -> Reproduced:
    """The same models under muP lie below the law by a share that the paper states."""
    law = find_law("power-compute")
    part = [r for r in rows if r["pile_test_xent_muP_paper"]]
    line = law.predict(theta, {"compute_flop": column(part, "flops_reported")})
    below = 1.0 - column(part, "pile_test_xent_muP_paper") / line
    return Reproduced(fit="cerebras-2023 muP", quantity="mean below the law, %", published=0.43,
                      ours=float(below.mean() * 100), tolerance=0.02)  # fmt: skip


def progress(folder: Path) -> list[Reproduced]:
    """Ho et al. 2024: doubling time of effective compute from the published bootstrap."""
    rows = read_table(folder / "algoprogress_pooled_doubling_time_bootstrap.csv")
    months = column(rows, "compute_doubling_time_years") * 12
    low, middle, high = np.percentile(months, [2.5, 50, 97.5])
    from .laws.progress import Progress

    point = Progress.doubling_years(load_published("ho-2024").constants) * 12
    return [
        Reproduced(fit="ho-2024", quantity="doubling, months", published=8.57, ours=float(middle)),
        Reproduced(fit="ho-2024", quantity="its 2.5%", published=4.55, ours=float(low)),
        Reproduced(fit="ho-2024", quantity="its 97.5%", published=14.46, ours=float(high)),
        Reproduced(fit="ho-2024", quantity="doubling from constants", published=8.68,
                   ours=point, tolerance=0.001),
    ]  # fmt: skip


def farseer(folder: Path) -> list[Reproduced]:
    """The Farseer grid under three forms."""
    rows = read_table(folder / "sldbench_farseer.csv.gz")
    runs = _runs(params=column(rows, "N"), tokens=column(rows, "D"), loss=column(rows, "loss"))
    x, y = {k: runs.columns[k] for k in ("params", "tokens")}, runs.columns["loss"]
    out = []
    for name, published in (("farseer-2025-refit", 0.14), ("skaling-2026-refit", 0.20)):
        entry = load_published(name)
        law = entry.form()
        theta, _, _ = generic(law, x, y, entry.theta()[None, :], delta=1e3, log_residual=True)
        error = float(np.mean(np.abs(law.predict(theta[0], x) / y - 1.0)) * 100)
        out.append(Reproduced(fit=name, quantity="mean error, %", published=published, ours=error,
                              tolerance=0.05))  # fmt: skip
    fit = fit_law(runs, find_law("chinchilla"), delta=1e3)
    error = float(np.mean(np.abs(fit.predict(x) / y - 1.0)) * 100)
    out.append(Reproduced(fit="chinchilla on the Farseer grid", quantity="mean error, %",
                          published=0.71, ours=error, tolerance=0.05))  # fmt: skip
    return out


def repeated(folder: Path) -> list[Reproduced]:
    """Muennighoff et al. 2023: the published law on the public runs."""
    rows = read_table(folder / "sldbench_data_constrained.csv.gz")
    x = {"params": column(rows, "params"), "tokens": column(rows, "tokens"),
         "unique_tokens": column(rows, "unique_tokens")}  # fmt: skip
    y = column(rows, "loss")
    entry = load_published("muennighoff-2023")
    error = float(np.mean(np.abs(entry.form().predict(entry.theta(), x) / y - 1.0)) * 100)
    return [Reproduced(fit="muennighoff-2023", quantity="mean error, %", published=8.2, ours=error,
                       tolerance=0.02, note="runs with diverged loss included")]  # fmt: skip


SOURCES: dict[str, Callable[[Path], list[Reproduced]]] = {
    "epoch": epoch, "porian": porian, "clark": clark, "cerebras": cerebras, "progress": progress,
    "farseer": farseer, "repeated": repeated, "parallel": parallel, "mixing": mixing,
    "benchmark": benchmark, "step law": step_law, "gadre": gadre, "quartet": quartet,
    "vocabulary": vocabulary,
}  # fmt: skip


def reproduce(folder: Path) -> tuple[list[Reproduced], list[str], float]:
    """Every source: what agrees, what could not be run, and the seconds it took."""
    began = time.perf_counter()
    found: list[Reproduced] = []
    absent: list[str] = []
    for name, function in SOURCES.items():
        try:
            found += function(folder)
        except (OSError, KeyError, IsoflopError) as error:
            absent.append(f"{name}: {error}")
    return found, absent, time.perf_counter() - began
