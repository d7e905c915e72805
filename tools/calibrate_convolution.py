"""Fit the convolution kernels to one measured GPU and check them on another.

    python tools/calibrate_convolution.py

Reads what tools/measure_gpu.py wrote (benchmarks/data). Every second shape of the H200 is fitted;
the others, and every shape of the H100, only check. The surface corrections (alpha-FLOPs) are
fitted on the series of equal FLOP.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from isoflop.cost.kernels.calibration import load_gemm
from isoflop.cost.kernels.convolution import ConvolutionParameters, convolution_time_s
from isoflop.cost.kernels.shape import DeviceShape
from isoflop.hardware import load_accelerator

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "src/isoflop/data/calibrations/convolution-hopper.toml"
FITTED, OTHER = ("h200", "h200-2026-11-27"), ("h100-sxm", "h100-2026-11-27")
START = {
    "compute": 0.8, "step": 150.0, "fixed": 4e-6, "split": 5000.0, "memory": 0.8, "tile": 3000.0,
    "store": 15.0, "slice_fixed": 3e-6, "vector": 0.2, "vector_fixed": 3e-6, "vector_memory": 0.8,
}  # fmt: skip
LOW = {**dict.fromkeys(START, 0.0), "compute": 0.3, "memory": 0.2, "store": 1.0, "vector": 0.02,
       "vector_memory": 0.2}  # fmt: skip
HIGH = {
    "compute": 1.0, "step": 2000.0, "fixed": 2e-5, "split": 1e5, "memory": 2.0, "tile": 2e4,
    "store": 500.0, "slice_fixed": 1e-5, "vector": 1.0, "vector_fixed": 1e-5, "vector_memory": 2.0,
}  # fmt: skip
KERNELS = (1, 3, 5)


def rows(name: str) -> list[dict[str, Any]]:
    """The convolutions of a measured file."""
    lines = (ROOT / f"benchmarks/data/{name}.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["suite"] == "conv"]


def predicted(device_id: str, found: list[dict[str, Any]], p: ConvolutionParameters) -> np.ndarray:
    """Seconds of each measured convolution."""
    device = load_accelerator(device_id)
    shape, rates = DeviceShape.of(device), device.rates
    product = load_gemm(device.family).gemm["bf16"]
    return np.array([
        convolution_time_s(
            p, product, shape, r["kind"], r["images"] * r["side"] ** 2, r["channels"], r["kernel"],
            rate_flop_per_s=rates.dense_flop_per_s["bf16"],
            vector_flop_per_s=rates.vector_flop_per_s,
        ) for r in found
    ])  # fmt: skip


def fit(found: list[dict[str, Any]]) -> ConvolutionParameters:
    """Parameters of least robust squares of log time, the best of eight starts."""
    names, scale = list(START), np.array(list(START.values()))
    low = np.array([LOW[n] for n in names]) / scale
    high = np.array([HIGH[n] for n in names]) / scale
    seconds = np.array([r["seconds"] for r in found])

    def make(z: np.ndarray) -> ConvolutionParameters:
        return ConvolutionParameters(
            **{n: float(f"{v:.4g}") if rounded else float(v)
               for n, v in zip(names, z * scale, strict=True)}
        )  # fmt: skip

    rounded = False
    best = None
    for seed in range(8):
        start = np.exp(np.random.default_rng(seed).normal(0.0, 0.4, len(names)))
        out = least_squares(
            lambda z: np.log(predicted(FITTED[0], found, make(z)) / seconds),
            np.clip(start, low + 1e-3, high - 1e-3), bounds=(low, high), loss="soft_l1",
            f_scale=0.1, diff_step=1e-3,
        )  # fmt: skip
        if best is None or out.cost < best.cost:
            best = out
    assert best is not None
    rounded = True
    return make(best.x)


def corrections(found: list[dict[str, Any]]) -> list[tuple[int, float, float, float, float]]:
    """Kernel width, surface, beta, gamma and median error of the alpha of each series."""
    out = []
    for kernel in KERNELS:
        series = [r for r in found if r["kind"] == "dense" and r["kernel"] == kernel
                  and r["images"] == 1 and r["side"] * r["channels"] >= 14000]  # fmt: skip
        surface = np.array([r["side"] ** 2 for r in series], float)
        flop = np.array([r["side"] ** 2 * r["channels"] ** 2 for r in series], float)
        cost = np.array([r["seconds"] for r in series]) / flop
        cost = cost / cost[0]
        first = surface[0]

        def off(x: np.ndarray, surface: Any = surface, first: Any = first, cost: Any = cost) -> Any:
            mixed = first + x[0] * (surface - first)
            return x[1] * np.log(mixed / surface) - np.log(cost)

        best = least_squares(off, [0.02, 0.5], bounds=([1e-6, 0.0], [1.0, 3.0]))
        beta, gamma = (float(f"{v:.3g}") for v in best.x)
        error = float(np.median(np.abs(np.expm1(off(np.array([beta, gamma]))))))
        out.append((kernel, float(first), beta, gamma, error))
    return out


def errors(device: str, found: list[dict[str, Any]], p: ConvolutionParameters) -> dict[str, float]:
    """Median absolute error by kind."""
    off = np.abs(predicted(device, found, p) / [r["seconds"] for r in found] - 1)
    kinds = np.array([r["kind"] for r in found])
    return {k: float(np.median(off[kinds == k])) for k in ("dense", "depthwise", "partial")}


def main() -> None:
    """Fit, print the errors and write the calibration file."""
    found, other = rows(FITTED[1]), rows(OTHER[1])
    p = fit(found[::2])
    held, elsewhere = errors(FITTED[0], found[1::2], p), errors(OTHER[0], other, p)
    print(f"fitted {errors(FITTED[0], found[::2], p)}\nheld out {held}\nH100 {elsewhere}")
    table = "\n".join(f"{n} = {getattr(p, n):.4g}" for n in START)
    parts = "\n".join(
        f"[[corrections]]\nkernel = {k}\nsurface = {s}\nbeta = {b}\ngamma = {g}\n"
        f"median_error = {e:.3f}\n" for k, s, b, g, e in corrections(found)
    )  # fmt: skip

    def inline(values: dict[str, float]) -> str:
        return "{ " + ", ".join(f"{k} = {v:.3f}" for k, v in values.items()) + " }"

    OUT.write_text(
        f"""rows = {len(found[::2])}
median_error = {inline(held)}
other_device_error = {inline(elsewhere)}
source = "own"

[parameters]
{table}

{parts}
[sources.own]
title = "One NVIDIA H200 and one H100 SXM measured with tools/measure_gpu.py, PyTorch 2.11, cuDNN"
locator = "benchmarks/data/{FITTED[1]}.jsonl (fitted, every second shape), {OTHER[1]}.jsonl (check)"
date = "2026-11-27"
"""
    )


if __name__ == "__main__":
    main()
