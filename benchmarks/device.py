"""Predictions against one H200 and one H100 measured for this project (benchmarks/data).

    python -m benchmarks.device

Whole steps are PyTorch graphs of a Llama-3.1-8B stack with random weights: no engine, no fused
element-wise kernels, clocks free to throttle. No parameter of the step model was fitted on them;
power was fitted on the H200 alone, convolutions on every second shape of the H200.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.cost.features import Batch
from isoflop.cost.kernels.gemm import gemm_time_s
from isoflop.cost.power import power_watts, settled, step_load
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan

DATA = Path(__file__).resolve().parent / "data"
HIGHEST_HZ = 1.98e9
"""Clock of both cards under light load."""
DEVICES = {"h200": "h200-2026-11-27", "h100-sxm": "h100-2026-11-27"}


def rows(name: str, suite: str) -> list[dict[str, Any]]:
    """Rows of one suite of a measured file."""
    lines = (DATA / f"{name}.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["suite"] == suite]


def batch_of(row: dict[str, Any]) -> Batch:
    """The batch of a decoding or prompt row."""
    n = float(row["batch"])
    if row["suite"] == "decode":
        return Batch(decode_sequences=n, decode_context=float(row["context"]))
    return Batch(prefill_sequences=n, prefill_tokens=float(row["tokens"]),
                 sampled_rows=np.asarray(n))  # fmt: skip


def show(device: str, what: str, predicted: Iterable[float], measured: Iterable[float]) -> None:
    """One line: errors and the error of the best constant."""
    p, m = np.array(list(predicted)), np.array(list(measured))
    off, flat = p / m - 1, np.abs(np.median(m) / m - 1)
    print(f"measured {device:13s} {what:25s} {len(m):3d} rows: "
          f"median {np.median(np.abs(off)):5.1%}, mean {np.abs(off).mean():5.1%}, "
          f"bias {np.median(off):+5.1%}; one constant {flat.mean():.0%}")  # fmt: skip


def runs(device: str, what: str, step: StepModel, found: list[dict[str, Any]]) -> None:
    """Steps over and over: at the clock where power settles, and as if each were a short run."""
    seconds = [r["seconds"] for r in found]
    held = [settled(step, batch_of(r), busy=r["busy"]) for r in found]
    show(device, f"{what} steps", [float(s.step_s(batch_of(r))) for s, r in zip(held, found)],
         seconds)  # fmt: skip
    show(device, f"{what} steps, full clock", [float(step.step_s(batch_of(r))) for r in found],
         seconds)  # fmt: skip
    timed = [(s.clock or 1.0, r["clock_hz"] / HIGHEST_HZ)
             for s, r in zip(held, found) if r["clock_hz"]]  # fmt: skip
    show(device, f"{what} steps, clock", *zip(*timed))


def shared(device: str, name: str, step: StepModel) -> None:
    """Steps per second of two instances on one device, from the one's measured time.

    The rule of `serving.sharing`: a step among two takes max(alone, 2 (alone - idle)), idle being
    the pause between steps and the kernels' fixed times.
    """
    found = rows(name, "shared")
    alone = {r["gap_s"]: 1.0 / r["steps_per_s"] for r in found if r["instances"] == 1}
    free = (1.0 - step.engine.captured) * step.launch_s
    two = [r for r in found if r["instances"] == 2]
    rates = [2.0 / max(alone[g], 2.0 * (alone[g] - g - free)) for g in (r["gap_s"] for r in two)]
    show(device, "two instances, steps/s", rates, [r["steps_per_s"] for r in two])


def main() -> None:
    """Print a line per device and kind of measurement."""
    for device, name in DEVICES.items():
        step = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(),
                         device=load_accelerator(device))  # fmt: skip
        timer = step.timer
        rate = step.device.rates.dense_flop_per_s["bf16"] * timer.headroom
        found = rows(name, "gemm")
        m, n, k = (np.array([float(r[c]) for r in found]) for c in "mnk")
        times = gemm_time_s(timer.calibration.gemm["bf16"], timer.shape, m, n, k,
                            rate_flop_per_s=rate)  # fmt: skip
        show(device, "bf16 products", times, [r["seconds"] for r in found])
        for suite in ("decode", "prompt"):
            runs(device, suite, step, [r for r in rows(name, suite) if not r["gap_s"]])
        runs(device, "paused", step, [r for s in ("decode", "prompt") for r in rows(name, s)
                                      if r["gap_s"]])  # fmt: skip
        found = rows(name, "decode") + rows(name, "prompt")
        watts = [float(power_watts(step.device, step_load(step, batch_of(r),
                                                          r["seconds"] / r["busy"])))
                 for r in found]  # fmt: skip
        show(device, "watts, with pauses", watts, [r["watts"] for r in found])
        shared(device, name, step)


if __name__ == "__main__":
    main()
