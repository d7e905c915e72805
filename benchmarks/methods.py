"""Serving methods against what their papers measured.

python -m benchmarks.methods
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.serving.method import find_method

DATA = Path(__file__).parent / "data"


def published(name: str) -> list[dict[str, str]]:
    """Rows of a file of published measurements; lines that start with # say where from."""
    lines = (DATA / name).read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def token_weave(model: str) -> dict[int, dict[str, Any]]:
    """TokenWeave's steps of a model on its own machine, by tokens."""
    device, count, cluster = load_fleet("8xh100-sxm")
    step = StepModel(model=load_model(model), plan=Plan(tensor=count), device=device,
                     cluster=cluster, engine=load_engine("vllm"))  # fmt: skip
    method = find_method("token-weave")
    return {r["tokens"]: r for r in method.run(step, method.complete({})).rows()}


def weaving() -> None:
    """Predicted against measured steps and gains, beside one constant gain."""
    rows = published("tokenweave.csv")
    steps = {m: token_weave(m) for m in {r["model"] for r in rows}}
    found: dict[str, list[float]] = {"plain": [], "no_network": [], "woven": [], "gain": []}
    gains = []
    for r in rows:
        mine = steps[r["model"]][int(r["tokens"])]
        for name in ("plain", "no_network", "woven"):
            found[name].append(mine[f"{name}_s"] / (float(r[f"{name}_ms"]) * 1e-3) - 1.0)
        # Where splitting loses the engine does not split.
        gains.append(max(1.0, float(r["plain_ms"]) / float(r["woven_ms"])))
        found["gain"].append(mine["gain"] / gains[-1] - 1.0)
    text = ", ".join(f"{k} median {np.median(np.abs(v)):.1%} mean {np.mean(v):+.1%}"
                     for k, v in found.items())  # fmt: skip
    constant = np.abs(np.median(gains) / np.array(gains) - 1.0)
    print(f"TokenWeave, {len(rows)} measured prompt steps: {text}; one constant gain "
          f"{np.median(constant):.1%}; largest gain measured {max(gains):.2f}, predicted "
          f"{max(m['gain'] for s in steps.values() for m in s.values()):.2f}")  # fmt: skip


def main() -> None:
    """Print every comparison."""
    weaving()


if __name__ == "__main__":
    main()
