"""Fit the power model to measured board power of GEMM and decode attention on the H200.

    python tools/calibrate_power.py --data ../shared/data

Kernels under 50 us are left out: board power is sampled far more slowly, so theirs is diluted.
One shape in five is held out by hash and only reported on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import least_squares

TABLES = "operators/aiconfigurator/h200_sxm"
OUT = Path(__file__).resolve().parents[1] / "src/isoflop/data/calibrations/power-default.toml"
IDLE_WATTS, BOARD_WATTS = 76.0, 700.0
PEAK_FLOP_PER_S, PEAK_BYTES_PER_S = 989.4e12, 4.8e12


def rows(data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute share, bandwidth share and watts of every kernel longer than 50 us."""
    g = pq.read_table(data / TABLES / "gemm/vllm/0.22.0/gemm_perf.parquet").to_pydict()
    a = pq.read_table(
        data / TABLES / "attention/vllm/0.22.0/generation_attention_perf.parquet"
    ).to_pydict()
    col = {k: np.asarray(v) for k, v in g.items() if k in ("m", "n", "k", "latency", "power")}
    keep = np.asarray(g["gemm_dtype"]) == "bfloat16"
    m, n, k, t = (col[c][keep].astype(float) for c in ("m", "n", "k", "latency"))
    t = t * 1e-3
    compute = [2 * m * n * k / t / PEAK_FLOP_PER_S]
    memory = [2 * (m * n + m * k + n * k) / t / PEAK_BYTES_PER_S]
    watts, times = [col["power"][keep]], [t]
    keep = (np.asarray(a["kv_cache_dtype"]) == "bfloat16") & (np.asarray(a["window_size"]) == 0)
    names = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim",
             "latency", "power")  # fmt: skip
    b, isl, step, heads, kv, dim, t, p = (np.asarray(a[c])[keep].astype(float) for c in names)
    t = t * 1e-3
    tokens = b * (isl + step)
    compute.append(4 * tokens * heads * dim / t / PEAK_FLOP_PER_S)
    memory.append(4 * tokens * kv * dim / t / PEAK_BYTES_PER_S)
    long = np.concatenate([*times, t]) > 50e-6
    return (
        np.concatenate(compute)[long], np.concatenate(memory)[long],
        np.concatenate([*watts, p])[long],
    )  # fmt: skip


def main() -> None:
    """Fit, report the held-out error and write the calibration file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    compute, memory, watts = rows(parser.parse_args().data)
    held = np.arange(len(watts)) % 5 == 0
    span = BOARD_WATTS - IDLE_WATTS

    def model(p: np.ndarray, sel: np.ndarray) -> np.ndarray:
        busy = p[0] + p[1] * compute[sel] + p[2] * memory[sel]
        return IDLE_WATTS + span * np.minimum(1.0, busy)

    fit = least_squares(
        lambda p: model(p, ~held) - watts[~held], [0.3, 0.8, 0.3], loss="soft_l1", f_scale=30
    )
    error = np.abs(model(fit.x, held) / watts[held] - 1)
    constant = np.abs(np.median(watts[~held]) / watts[held] - 1)
    print(f"held out: median {np.median(error):.1%}, constant {np.median(constant):.1%}")
    floor, a, b = (float(f"{v:.4g}") for v in fit.x)
    OUT.write_text(
        f"""floor = {floor}
compute = {a}
memory = {b}
median_error = {np.median(error):.3f}
rows = {int((~held).sum())}
source = "watts"
note = "Board power of kernels over 50 us; a constant fits the same held-out rows to \
{np.median(constant):.1%}."

[sources.watts]
title = "ai-dynamo/aiconfigurator measured kernels, H200 SXM, vLLM 0.22.0, power column"
locator = "commit 095f58a5, gemm_perf and generation_attention_perf"
date = "2026"
"""
    )


if __name__ == "__main__":
    main()
