"""A generated objective to try a search on: a small training run with a known law."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .space import Config, Setting, Space

SPACE = Space(
    settings=(
        Setting(name="params", scale="log", low=1e6, high=1e9, start=1e7),
        Setting(name="tokens", scale="log", low=1e7, high=1e11, start=2e8),
        Setting(name="lr", scale="log", low=1e-5, high=1e-1, start=1e-3),
        Setting(name="warmup", scale="linear", low=0.0, high=0.5, start=0.05),
    )
)


LIMIT = 1e4
"""Cost, in petaFLOP, that a run may have where the demo has a constraint."""


def demo_best(cost: float) -> float:
    """The lowest loss that the demo's runs can have at a cost, noise aside."""
    n = np.geomspace(1e6, 1e9, 4000)
    d = np.clip(cost * 1e15 / (6.0 * n), 1e7, 1e11)
    return float(np.min(1.8 + 406.4 * n**-0.34 + 410.7 * d**-0.28))


def demo_objective(
    seed: int = 0, noise: float = 0.003, limit: float | None = None
) -> Callable[[Config], dict[str, float]]:
    """Loss of a made-up run: Chinchilla's form plus a penalty for a learning rate off its best.

    Cost is 6 N D in petaFLOP. The best learning rate falls with size, so it must be tuned along
    the front; warm-up barely matters. Runs with ten times the best rate diverge. With a limit,
    `over_limit` is the decades of cost above it, at most 0 where the run is allowed.
    """
    rng = np.random.default_rng(seed)

    def run(config: Config) -> dict[str, float]:
        n, d, lr = (float(config[k]) for k in ("params", "tokens", "lr"))
        best = 3e-3 * (n / 1e7) ** -0.3
        off = math.log(lr / best)
        loss = 1.8 + 406.4 * n**-0.34 + 410.7 * d**-0.28 + 0.08 * off**2
        loss += 0.1 * (float(config["warmup"]) - 0.05) ** 2
        cost = 6.0 * n * d / 1e15
        found = {"loss": loss + noise * float(rng.standard_normal()), "cost": cost}
        if off > math.log(10.0):
            found["loss"] = math.nan
        if limit is not None:
            found["over_limit"] = math.log10(cost / limit)
        return found

    return run
