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
from isoflop.scaling.compare import compute_of, extrapolate
from isoflop.scaling.decide import load_law
from isoflop.scaling.demo import demo_file
from isoflop.scaling.design import runs_to_halve, simulated_left
from isoflop.scaling.ensemble import FORMS, hold_out
from isoflop.scaling.fit import fit_law
from isoflop.scaling.law import find_law
from isoflop.scaling.published import load_published
from isoflop.scaling.reproduce import epoch_resamples, reproduce
from isoflop.scaling.solve import chinchilla_starts, huber

from .public_runs import SETS

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


def design() -> None:
    """Runs proposed to halve the interval of N*, against fits to simulated runs with them."""
    runs, believed = read_runs(demo_file(), LAW), load_law("besiroglu-2024")
    given = (believed, runs.data(LAW), fit_law(runs, LAW).noise, 1e24)
    series = runs_to_halve(*given, float(compute_of(runs).max()))
    left = simulated_left(*given, series)
    promised = series[-1]["interval_left"]
    print(f"design: {len(series)} further runs are to leave {promised:.0%} of the interval of N* "
          f"at 1e24 FLOP; fitted to 300 simulated sweeps {left:.0%}")  # fmt: skip


def again(folder: Path) -> None:
    """Published fits derived again."""
    start = time.process_time()
    found, absent, _ = reproduce(folder)
    papers = {r.fit for r in found if not r.refit}
    strict = sum(all(r.strict for r in found if r.fit == f) for f in papers)
    agree = sum(all(r.ok for r in found if r.fit == f) for f in papers)
    print(
        f"laws reproduce: {agree} of {len(papers)} published fits agree, {strict} within 1% or 0.2 "
        f"standard errors, {len(absent)} sources absent, {time.process_time() - start:.0f} CPU s"
    )


def floor(runs: Runs) -> float:
    """Least mean error, in percent, of any form fitted with the top decade in sight."""
    flop = compute_of(runs)
    top = np.nonzero(flop > flop.max() / 10)[0]
    truth = runs.columns["loss"][top]
    at = {k: runs.columns[k][top] for k in ("params", "tokens")}
    found = []
    for part in (runs, runs.take(top)):
        for form in FORMS:
            try:
                predicted = fit_law(part, find_law(form)).predict(at)
            except IsoflopError:
                continue
            found.append(float(np.mean(np.abs(predicted / truth - 1.0))) * 100)
    return min(found)


def held_out(folder: Path) -> None:
    """Fit on the cheapest runs, predict the top tenfold of compute."""
    halved, held, tried = 0, 0, 0
    for name, read in SETS.items():
        try:
            runs = read(folder)
            ours, usual = hold_out(runs), extrapolate(runs, LAW, bootstrap=200)
        except (IsoflopError, OSError) as error:
            print(f"held out, {name}: {error}")
            continue
        ratio = ours["mean_abs_pct"] / usual["mean_abs_pct"]
        tried += 1
        halved += ratio <= 0.5
        held += ours["coverage_90"] >= 90
        print(f"held out, {name}: {ours['predicted']} runs of the top decade within "
              f"{ours['mean_abs_pct']:.2f}%, {ratio:.2f} of Chinchilla's "
              f"{usual['mean_abs_pct']:.2f}% (a constant {usual['baseline_mean_abs_pct']:.1f}%, "
              f"best form that sees them {floor(runs):.2f}%); 90% interval holds "
              f"{ours['coverage_90']:.0f}% (Chinchilla's {usual['coverage_90']:.0f}%)",
              flush=True)  # fmt: skip
    print(f"held out: at most half of Chinchilla's error on {halved} of {tried} sets, 90% "
          f"interval holds at least 90% on {held}")  # fmt: skip


def main(folder: Path | None = None) -> None:
    """Run everything."""
    place = folder or Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/laws")
    speed(place)
    design()
    if place.is_dir():
        again(place)
    held_out(place)


if __name__ == "__main__":
    main()
