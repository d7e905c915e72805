"""Generated tables to try the scores on: no measured data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent.parent / "data" / "demo"

SPEEDS = {"method-a": (1.0, 0.25), "method-b": (1.25, 0.15), "method-c": (1.0, 0.9)}
"""Median time over a workload's own, and its spread in log time between workloads."""
WORKLOADS = 8
STUDIES = 3
LIMIT = 2.5
"""Times a workload's own time after which a run is stopped without its target."""

CURVES = {
    "small and fast": (1.80, 34.0, 0.155, 4.0e5), "large and slow": (1.65, 27.5, 0.146, 1.1e5),
}  # fmt: skip
"""Floor, scale and exponent of the loss by tokens, and tokens per second."""

MODELS, SAMPLES = 30, 500


def demo_times(seed: int = 7) -> str:
    """Times to target of three made-up methods on eight workloads, some never reached."""
    rng = np.random.default_rng(seed)
    lines = ["submission,workload,seconds"]
    own = rng.uniform(3e3, 4e4, WORKLOADS)
    for name, (median, spread) in SPEEDS.items():
        for j in range(WORKLOADS):
            fit = median * np.exp(spread * rng.standard_normal())
            for _ in range(STUDIES):
                ratio = fit * np.exp(0.08 * rng.standard_normal())
                text = f"{own[j] * ratio:.0f}" if ratio <= LIMIT else ""
                lines.append(f"{name},workload-{j + 1},{text}")
    return "\n".join(lines) + "\n"


def demo_curves() -> str:
    """Loss by tokens of two made-up models, the one that wins in the long run a quarter as fast."""
    lines = ["model,tokens,loss,tokens_per_s"]
    for name, (floor, scale, exponent, speed) in CURVES.items():
        for tokens in np.geomspace(1e8, 4e11, 24):
            loss = floor + scale * tokens**-exponent
            lines.append(f"{name},{tokens:.4e},{loss:.4f},{speed:.3g}")
    return "\n".join(lines) + "\n"


def demo_answers(seed: int = 7) -> str:
    """Answers of thirty made-up models by a logistic response to each sample's difficulty."""
    rng = np.random.default_rng(seed)
    skill, hard = rng.normal(0.0, 1.5, MODELS), rng.normal(0.0, 2.0, SAMPLES)
    right = rng.random((MODELS, SAMPLES)) < 1.0 / (1.0 + np.exp(hard - skill[:, None]))
    lines = ["model," + ",".join(f"s{i + 1}" for i in range(SAMPLES))]
    lines += [f"model-{i + 1}," + ",".join(str(int(v)) for v in row) for i, row in enumerate(right)]
    return "\n".join(lines) + "\n"


FILES: dict[str, Callable[[], str]] = {
    "times.csv": demo_times, "curves.csv": demo_curves, "answers.csv": demo_answers,
}  # fmt: skip


def demo_file(name: str) -> Path:
    """The shipped file of that name in `FILES`."""
    return FOLDER / name
