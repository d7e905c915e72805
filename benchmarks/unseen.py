"""Kernels of devices that no parameter was fitted on: H20 and H800, MI210, and another A100.

    python -m benchmarks.unseen [--data ../shared]

Reads the tables of alibaba/InferSim (8-bit products, attention) and of LLMCompass (16-bit
products) beside the checkout. Hopper's parameters stand for the H20 and H800; the MI210's family
was never measured and borrows Hopper's at its own datasheet rates. Two rules for parts whose
matrix rate is cut (`DeviceShape.reached`, `flash.MATRIX_ROWS`) were settled while looking at the
H20's rows; no number was fitted on them.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.device import show
from isoflop.cost.kernels.attention import decode_time_s, prefill_time_s
from isoflop.cost.kernels.calibration import load_kernels
from isoflop.cost.kernels.gemm import gemm_time_s
from isoflop.cost.kernels.shape import DeviceShape
from isoflop.hardware import load_accelerator

INFERSIM = "operators/infersim/bench_data"
LLMCOMPASS = "operators/llmcompass/real_hardware"


DECODE = ("dtype", "kv_dtype", "batch_size", "kv_len", "latency_us", "mfu")


def _table(path: Path) -> list[dict[str, str]]:
    """Rows of a table; one file of the source has no header."""
    lines = path.read_text().splitlines()
    bare = lines[0].startswith("bf16")
    return list(csv.DictReader(lines, fieldnames=DECODE if bare else None))


def products(data: Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Device, what, predicted and measured seconds of matrix products."""
    for device_id in ("h20", "h800"):
        rows = _table(data / INFERSIM / f"gemm/{device_id}/data.csv")
        m, n, k, t = (np.array([float(r[c]) for r in rows]) for c in ("m", "n", "k", "latency_us"))
        device = load_accelerator(device_id)
        # The stated utilisation is of the 8-bit rate: block-scaled products, as in DeepGEMM.
        seconds = gemm_time_s(
            load_kernels(device.family)[0].gemm["fp8"], DeviceShape.of(device), m, n, k,
            rate_flop_per_s=device.rates.dense_flop_per_s["fp8"], weight_bytes_per_value=1.0,
            activation_bytes_per_value=1.0, streamed=False,
        )  # fmt: skip
        yield device_id, "fp8 products", seconds, t * 1e-6
    for device_id, name in (("a100-80gb-sxm", "A100"), ("mi210", "MI210")):
        lines = (data / LLMCOMPASS / f"matmul_{name}.csv").read_text().split("\n")
        rows = [line.replace("ms", "").split(",") for line in lines if line.strip()]
        m, k, n, t = np.array([[float(v) for v in row[:4]] for row in rows]).T
        device = load_accelerator(device_id)
        seconds = gemm_time_s(
            load_kernels(device.family)[0].gemm["bf16"], DeviceShape.of(device), m, n, k,
            rate_flop_per_s=device.rates.dense_flop_per_s["fp16"], streamed=False,
        )  # fmt: skip
        yield device_id, "fp16 products", seconds, t * 1e-3


def attention(data: Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Device, what, predicted and measured seconds of attention, file names giving heads."""
    for device_id in ("h20", "h800"):
        device = load_accelerator(device_id)
        calibration, shape = load_kernels(device.family)[0], DeviceShape.of(device)
        for phase in ("prefill", "decode"):
            ours, theirs = [], []
            for path in sorted((data / INFERSIM / f"mha/{phase}/{device_id}").glob("*.csv")):
                heads, kv, dim = (int(v) for v in path.stem.split("-"))
                for r in _table(path):
                    if r["dtype"] != "bf16" or r.get("kv_dtype", "bf16") != "bf16":
                        continue
                    if phase == "prefill":
                        seconds = prefill_time_s(
                            calibration.prefill, shape, batch=1, queries=float(r["seq_len"]),
                            prior=0.0, heads=heads, kv_heads=kv, head_dim=dim,
                        )  # fmt: skip
                    else:
                        seconds = decode_time_s(
                            calibration.decode, shape, batch=float(r["batch_size"]),
                            context=float(r["kv_len"]), heads=heads, kv_heads=kv, head_dim=dim,
                            streamed=False,
                        )  # fmt: skip
                    ours.append(float(seconds))
                    theirs.append(float(r["latency_us"]) * 1e-6)
            if ours:
                yield device_id, f"{phase} attention", np.array(ours), np.array(theirs)


def main(data: Path | None = None) -> None:
    """Print a line per device and kernel."""
    if data is None:
        parser = argparse.ArgumentParser(description=__doc__)
        default = Path(__file__).resolve().parents[2] / "shared"
        parser.add_argument("--data", type=Path, default=default)
        data = parser.parse_args().data
    data = data if data.name == "data" else data / "data"
    if not (data / INFERSIM).exists():
        print("unseen devices: their tables are not beside this checkout; skipped")
        return
    for source in (products, attention):
        for device, what, ours, theirs in source(data):
            show(device, f"unseen {what}", ours, theirs)


if __name__ == "__main__":
    main()
