"""Coverage of the nominal 95% interval of the compute-optimal size, over generated sweeps.

    python -m benchmarks.coverage [sweeps]

Runs follow the published default law with noise; the question is N* at ten times the largest
budget. Designs: centred on the optimum, off it on either side, few runs, more noise, and errors
that runs of one seed share, resampled by case and by cluster.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from isoflop.scaling.columns import Runs
from isoflop.scaling.fit import fit_law
from isoflop.scaling.law import find_law
from isoflop.scaling.published import load_published

LAW = find_law("chinchilla")
TRUE = load_published("besiroglu-2024").theta()
BUDGETS = (6e18, 2e19, 6e19, 2e20, 6e20, 2e21)
CENTRED = (2.0, 4.0, 8.0, 14.0, 20.0, 30.0, 60.0, 120.0)
RESAMPLES = 400
DESIGNS: dict[str, dict] = {
    "centred, 48 runs": {},
    "over-trained only (30 to 500 tokens per parameter)":
        {"ratios": (30.0, 45.0, 68.0, 100.0, 150.0, 220.0, 330.0, 500.0)},
    "under-trained only (0.5 to 12)":
        {"ratios": (0.5, 0.8, 1.2, 2.0, 3.2, 5.0, 8.0, 12.0)},
    "20 runs": {"budgets": (2e19, 6e19, 2e20, 6e20), "ratios": (4.0, 10.0, 20.0, 40.0, 80.0)},
    "four times the noise": {"noise": 0.016},
    "errors shared within 12 seeds, by case": {"shared": 0.7},
    "errors shared within 12 seeds, by cluster": {"shared": 0.7, "resampling": "cluster"},
}  # fmt: skip


def sweep(
    seed: int, *, budgets: tuple[float, ...] = BUDGETS, ratios: tuple[float, ...] = CENTRED,
    noise: float = 0.004, shared: float = 0.0,
) -> Runs:  # fmt: skip
    """One sweep; `shared` is the share of noise variance that runs of one seed have in common."""
    rng = np.random.default_rng(seed)
    c = np.repeat(budgets, len(ratios))
    r = np.tile(ratios, len(budgets))
    n = np.sqrt(c / (6.0 * r))
    d = c / (6.0 * n)
    # Twelve seeds, each used for runs at several budgets and ratios.
    group = rng.permutation(np.arange(len(n)) % 12)
    common = rng.standard_normal(12)[group]
    error = np.sqrt(shared) * common + np.sqrt(1.0 - shared) * rng.standard_normal(len(n))
    loss = LAW.predict(TRUE, {"params": n, "tokens": d}) * np.exp(noise * error)
    return Runs(
        columns={"params": n, "tokens": d, "loss": loss}, lines=np.arange(len(n)) + 2,
        groups=group if shared else None,
    )  # fmt: skip


def coverage(sweeps: int, budget: float, resampling: str = "case", **design) -> tuple[float, float]:
    """Share of sweeps whose interval holds the truth, and its median width as a factor."""
    truth = LAW.optimum(TRUE, budget).inputs["params"]
    inside, widths = 0, []
    for seed in range(sweeps):
        fit = fit_law(sweep(seed, **design), LAW, bootstrap=RESAMPLES, seed=seed,
                      resampling=resampling)  # fmt: skip
        values = np.array([LAW.optimum(t, budget).inputs["params"] for t in fit.draws])
        low, high = fit.interval(values)
        inside += low <= truth <= high
        widths.append(high / low)
    return inside / sweeps, float(np.median(widths))


def main() -> None:
    """Print one line per design."""
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for name, design in DESIGNS.items():
        began = time.process_time()
        held, width = coverage(sweeps, 10.0 * max(design.get("budgets", BUDGETS)), **design)
        spent = time.process_time() - began
        print(f"coverage, {name}: {held:.1%} of {sweeps} sweeps (nominal 95%), ends a factor "
              f"{width:.2f} apart, {spent:.0f} CPU s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
