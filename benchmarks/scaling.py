"""Fitting scaling laws: seconds against a plain quasi-Newton loop, and errors of extrapolation.

python -m benchmarks.scaling [FOLDER OF PUBLIC RUNS]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from isoflop.errors import IsoflopError
from isoflop.scaling.columns import Runs, read_runs
from isoflop.scaling.compare import extrapolate
from isoflop.scaling.demo import demo_file
from isoflop.scaling.fit import chinchilla_starts, fit_law
from isoflop.scaling.law import find_law
from isoflop.scaling.published import load_published
from isoflop.scaling.reproduce import epoch_resamples
from isoflop.scaling.solve import huber

LAW = find_law("chinchilla")
STARTS = 100
"""Starts of the peer: the loop over all 4,500 would take minutes; its time is scaled."""


def epoch_runs(folder: Path) -> Runs:
    """The 240 points of the Chinchilla replication; the generated demo runs without them."""
    path = folder / "chinchilla_epoch_svg_extracted.csv"
    if not path.exists():
        return read_runs(demo_file(), LAW)
    runs = read_runs(path, LAW)
    return runs.take(np.sort(np.argsort(runs.columns["loss"], kind="stable")[:-5]))


def speed(folder: Path) -> None:
    """Point optimum and bootstrap against scipy's L-BFGS, start by start, with its gradient."""
    runs = epoch_runs(folder)
    n, d = np.log(runs.columns["params"]), np.log(runs.columns["tokens"])
    y = np.log(runs.columns["loss"])

    def objective(z):
        e, a, b = np.exp(z[0]), np.exp(z[1] - z[2] * n), np.exp(z[3] - z[4] * d)
        total = e + a + b
        r = np.log(total) - y
        q = np.clip(r, -1e-3, 1e-3) / total
        g = [(q * e).sum(), (q * a).sum(), -(q * a * n).sum(), (q * b).sum(), -(q * b * d).sum()]
        return huber(r, 1e-3).sum(), np.array(g)

    start = time.process_time()
    fit = fit_law(runs, LAW)
    ours = time.process_time() - start
    rng = np.random.default_rng(0)
    start = time.process_time()
    best = np.inf
    for z in rng.permutation(chinchilla_starts())[:STARTS]:
        with np.errstate(all="ignore"):
            best = min(best, minimize(objective, z, jac=True, method="L-BFGS-B").fun)
    peer = (time.process_time() - start) * len(chinchilla_starts()) / STARTS
    print(f"fit: {len(runs)} runs, 4,500 starts in {ours:.2f} CPU s; scipy L-BFGS start by start "
          f"{peer:.0f} CPU s ({peer / ours:,.0f} times); objective {fit.objective:.9e}, best of "
          f"{STARTS} of its starts {best:.9e}")  # fmt: skip
    start = time.process_time()
    fit_law(runs, LAW, bootstrap=4000)
    seconds = time.process_time() - start
    boot = fit_law(runs, LAW, counts=epoch_resamples(len(runs)))
    published = load_published("besiroglu-2024").standard_errors
    errors = ", ".join(f"{k} {v:.4g} ({v / published[k] - 1:+.2%})"
                       for k, v in boot.standard_errors.items())  # fmt: skip
    print(f"fit: 4,000 resamples in {seconds:.2f} CPU s; standard errors on the published "
          f"resamples {errors} of the published ones")  # fmt: skip


def sets(folder: Path) -> dict[str, tuple[Path, dict[str, str], dict[str, str]]]:
    """Public runs: file, columns, and rows to keep."""
    return {
        "Epoch Chinchilla": (folder / "chinchilla_epoch_svg_extracted.csv", {}, {}),
        "Farseer": (folder / "sldbench_farseer.csv.gz", {}, {}),
        "Gemstones": (folder / "gemstones_hot.csv", {"params": "params_active_precise"}, {}),
        "Gemstones cooled": (folder / "gemstones_cool_end.csv",
                             {"params": "params_active_precise"}, {}),
        "kyo-takano": (folder / "kyotakano_llm_df.csv", {}, {}),
        "Gadre": (folder / "gadre_models.csv",
                  {"loss": "loss:val_tok_mult/paloma_c4_en/00000001.tar"}, {}),
    }  # fmt: skip


def held_out(folder: Path) -> None:
    """Fit on the cheapest runs, predict the top tenfold of compute."""
    forms = [LAW, find_law("outer-power")]
    for name, (path, named, _) in sets(folder).items():
        if not path.exists():
            print(f"held out, {name}: {path.name} is not beside this checkout; skipped")
            continue
        for law in forms:
            try:
                runs = read_runs(path, law, named)
                found = extrapolate(runs, law, bootstrap=200)
            except IsoflopError as error:
                print(f"held out, {name}, {law.name}: {error}")
                continue
            print(f"held out, {name}, {law.name}: {found['predicted']} runs of the top decade "
                  f"within {found['mean_abs_pct']:.2f}% on average (a constant "
                  f"{found['baseline_mean_abs_pct']:.2f}%), 90% interval holds "
                  f"{found['coverage_90']:.0f}%")  # fmt: skip


def main(folder: Path | None = None) -> None:
    """Run everything."""
    place = folder or Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/laws")
    speed(place)
    held_out(place)


if __name__ == "__main__":
    main()
