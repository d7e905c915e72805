"""A generated objective to try a search on: a small training run with a known law."""

from __future__ import annotations

import math

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


def demo_objective(seed: int = 0, noise: float = 0.003) -> object:
    """Loss of a made-up run: Chinchilla's form plus a penalty for a learning rate off its best.

    Cost is 6 N D in petaFLOP. The best learning rate falls with size, so it must be tuned along
    the front; warm-up barely matters. Runs with ten times the best rate diverge.
    """
    rng = np.random.default_rng(seed)

    def run(config: Config) -> dict[str, float]:
        n, d, lr = (float(config[k]) for k in ("params", "tokens", "lr"))
        best = 3e-3 * (n / 1e7) ** -0.3
        off = math.log(lr / best)
        loss = 1.8 + 406.4 * n**-0.34 + 410.7 * d**-0.28 + 0.08 * off**2
        loss += 0.1 * (float(config["warmup"]) - 0.05) ** 2
        if off > math.log(10.0):
            return {"loss": math.nan, "cost": 6.0 * n * d / 1e15}
        return {"loss": loss + noise * float(rng.standard_normal()), "cost": 6.0 * n * d / 1e15}

    return run
