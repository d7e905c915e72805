"""Generated runs to try `fit` on: the published default law with noise, no measured data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .law import find_law
from .published import load_published

BUDGETS = (6e18, 2e19, 6e19, 2e20, 6e20, 2e21)
RATIOS = (2.0, 4.0, 8.0, 14.0, 20.0, 30.0, 60.0, 120.0)
NOISE = 0.004
"""Standard deviation of log loss, of the order of seed-to-seed scatter."""

FILE = Path(__file__).parent.parent / "data" / "demo" / "runs.csv"


def demo_runs(seed: int = 20241) -> str:
    """A CSV of isoFLOP runs drawn from the published default law."""
    law, entry = find_law("chinchilla"), load_published("besiroglu-2024")
    rng = np.random.default_rng(seed)
    lines = ["params,tokens,compute_flop,loss"]
    for budget in BUDGETS:
        for ratio in RATIOS:
            n = np.sqrt(budget / (6.0 * ratio))
            d = budget / (6.0 * n)
            x = {"params": np.array([n]), "tokens": np.array([d])}
            loss = law.predict(entry.theta(), x)[0] * np.exp(NOISE * rng.standard_normal())
            lines.append(f"{n:.6e},{d:.6e},{budget:.6e},{loss:.5f}")
    return "\n".join(lines) + "\n"


def demo_file() -> Path:
    """The shipped file of `demo_runs()`."""
    return FILE
