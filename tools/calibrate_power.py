"""Fit the power model to one H200 measured under partial and full load.

    python tools/calibrate_power.py --data ../shared/data [--measured benchmarks/data/FILE.jsonl]

The measured file is what `tools/measure_gpu.py` writes: whole decoding and prompt steps with and
without pauses between them, and single kernels, each with the mean watts of the board's energy
counter. Two other sources check the fit and give none of it: the watts column of published
kernels (back to back, almost all at the board's limit) and published serving runs of three
models on a 64 GB H100.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from attrs import evolve
from scipy.optimize import least_squares

from isoflop.cost.features import Batch
from isoflop.cost.power import (
    Load,
    PowerParameters,
    at_clock,
    drawn_watts,
    load_power,
    power_watts,
    step_load,
)
from isoflop.cost.step import StepModel
from isoflop.evidence.predict import serving_load
from isoflop.evidence.read import read_cases
from isoflop.hardware import Accelerator, load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan

ROOT = Path(__file__).resolve().parents[1]
TABLES = "operators/aiconfigurator/h200_sxm"
OUT = ROOT / "src/isoflop/data/calibrations/power-default.toml"
MEASURED = ROOT / "benchmarks/data/h200-2026-11-27.jsonl"
BOUNDS = ([0, 0.3, 0, 0, 0], [0.3, 3, 400, 800, 2])
START = [0.07, 1.5, 100.0, 100.0, 0.6]


def measured_loads(path: Path) -> list[tuple[Load, float, float]]:
    """Load, watts and share of the highest clock of every row that has watts and a clock.

    The clock is the mean of samples while steps ran; a few rows of long steps have none.
    """
    step = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(),
                     device=load_accelerator("h200"))  # fmt: skip
    found = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if not row.get("clock_hz"):
            continue
        if row["suite"] == "idle":
            load = Load(compute=0.0, memory=0.0)
        elif row["suite"] == "decode":
            batch = Batch(decode_sequences=row["batch"], decode_context=row["context"])
            load = _running(step, batch, row)
        elif row["suite"] == "prompt":
            batch = Batch(prefill_sequences=row["batch"], prefill_tokens=row["tokens"],
                          sampled_rows=np.asarray(float(row["batch"])))  # fmt: skip
            load = _running(step, batch, row)
        elif row["suite"] == "power":
            load = _kernel(step.device, row)
        else:
            continue
        found.append((load, row["watts"], row["clock_hz"]))
    highest = max(clock for _, _, clock in found)
    return [(load, watts, clock / highest) for load, watts, clock in found]


def _running(step: StepModel, batch: Batch, row: dict[str, Any]) -> Load:
    """Load while the step runs, thinned by the pauses between steps."""
    load = step_load(step, batch, row["seconds"])
    share = row["busy"]
    return Load(compute=load.compute * share, memory=load.memory * share,
                cache=load.cache * share)  # fmt: skip


def _kernel(device: Accelerator, row: dict[str, Any]) -> Load:
    peak_flop = device.rates.dense_flop_per_s["bf16"]
    per_s = row["seconds"] * device.memory.bandwidth_bytes_per_s
    if row["kernel"] == "gemm 8192":
        return Load(compute=2 * 8192**3 / row["seconds"] / peak_flop, memory=6 * 8192**2 / per_s)
    if row["kernel"] == "gemm 64x8192x8192":  # eight products a repetition
        return Load(compute=8 * 2 * 64 * 8192**2 / row["seconds"] / peak_flop,
                    memory=8 * 2 * 8192**2 / per_s)  # fmt: skip
    return Load(compute=0.0, memory=row["bytes"] / per_s)


def published_kernels(data: Path) -> tuple[Load, np.ndarray]:
    """Loads and watts of published kernels over 50 us (shorter ones are sampled too slowly)."""
    device = load_accelerator("h200")
    peak = device.rates.dense_flop_per_s["bf16"]
    g = pq.read_table(data / TABLES / "gemm/vllm/0.22.0/gemm_perf.parquet").to_pydict()
    a = pq.read_table(
        data / TABLES / "attention/vllm/0.22.0/generation_attention_perf.parquet"
    ).to_pydict()
    keep = np.asarray(g["gemm_dtype"]) == "bfloat16"
    m, n, k, t, w = (np.asarray(g[c])[keep].astype(float)
                     for c in ("m", "n", "k", "latency", "power"))  # fmt: skip
    bandwidth = device.memory.bandwidth_bytes_per_s
    t = t * 1e-3
    moved = 2 * (m * n + m * k + n * k)
    parts = [(2 * m * n * k / t / peak, moved / t / bandwidth, 0.0 * t, t, w)]
    keep = (np.asarray(a["kv_cache_dtype"]) == "bfloat16") & (np.asarray(a["window_size"]) == 0)
    names = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim",
             "latency", "power")  # fmt: skip
    b, isl, step, heads, kv, dim, t, w = (np.asarray(a[c])[keep].astype(float) for c in names)
    t = t * 1e-3
    tokens = b * (isl + step)
    memory = 4 * tokens * kv * dim / t / bandwidth
    parts.append((4 * tokens * heads * dim / t / peak, memory, memory, t, w))
    compute, memory, cache, seconds, watts = (np.concatenate(c) for c in zip(*parts, strict=True))
    long = seconds > 50e-6
    return Load(compute=compute[long], memory=memory[long], cache=cache[long]), watts[long]


def main() -> None:
    """Fit, report the errors on sources not fitted and write the calibration file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--measured", type=Path, default=MEASURED)
    arguments = parser.parse_args()
    rows = measured_loads(arguments.measured)
    watts = np.array([w for _, w, _ in rows])
    device = load_accelerator("h200")

    def with_values(x: np.ndarray) -> PowerParameters:
        return evolve(load_power(), awake=x[0], compute=x[1], joules_per_byte=x[2] * 1e-12,
                      joules_per_cache_byte=x[3] * 1e-12, clock_exponent=x[4])  # fmt: skip

    def residuals(x: np.ndarray) -> np.ndarray:
        p = with_values(x)
        # At the clock that was measured the limit is no part of the answer.
        drawn = [float(drawn_watts(device, at_clock(load, clock, p), p)) for load, _, clock in rows]
        return np.log(drawn) - np.log(watts)

    fit = least_squares(residuals, START, bounds=BOUNDS, loss="soft_l1", f_scale=0.05)
    values = [float(f"{v:.3g}") for v in fit.x]
    p = with_values(np.array(values))
    error = np.abs(np.expm1(residuals(np.array(values))))
    print(f"measured rows, fitted: mean {error.mean():.1%}, worst {error.max():.1%}")
    load, seen = published_kernels(arguments.data)
    kernels = np.abs(power_watts(device, load, p) / seen - 1)
    print(f"published kernels: median {np.median(kernels):.1%}, "
          f"one constant {np.median(np.abs(np.median(seen) / seen - 1)):.1%}")  # fmt: skip
    serving, flat = _serving(arguments.data, p)
    print(f"published serving: mean {serving.mean():.1%}, one constant {flat.mean():.1%}")
    awake, compute, byte, cache, exponent = values
    OUT.write_text(
        f"""device = "h200"
awake = {awake}
compute = {compute}
clock_exponent = {exponent}
joules_per_byte = {byte * 1e-12:.4g}
joules_per_cache_byte = {cache * 1e-12:.4g}
median_error = {np.median(np.concatenate([kernels, serving])):.3f}
rows = {len(rows)}
source = "own"
note = "Sources not fitted: published kernels, median {np.median(kernels):.1%} \
(one constant {np.median(np.abs(np.median(seen) / seen - 1)):.1%}); published serving of three \
models on another board, mean {serving.mean():.1%} (one constant {flat.mean():.1%})."

[sources.own]
title = "One NVIDIA H200 measured with tools/measure_gpu.py, PyTorch 2.11, energy counter"
locator = "benchmarks/data/{arguments.measured.name}, suites idle, decode, prompt, power"
date = "2026-11-27"
"""
    )


def _serving(data: Path, p: PowerParameters) -> tuple[np.ndarray, np.ndarray]:
    """Errors on published serving runs, and of the constant that is their own median."""
    cases = [c for c in read_cases(data / "serving/measurements.csv")
             if c.metric == "power_watts"]  # fmt: skip
    seen = np.array([c.measured for c in cases])
    ours = np.array([float(power_watts(*serving_load(c), p)) for c in cases])
    for case, watts in zip(cases, ours, strict=True):
        print(f"  {case.model}, {case.running or case.concurrency} running: {watts:.0f} W, "
              f"measured {case.measured:.0f} W")  # fmt: skip
    return np.abs(ours / seen - 1), np.abs(np.median(seen) / seen - 1)


if __name__ == "__main__":
    main()
