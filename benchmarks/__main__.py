"""Print every figure the project claims, measured now.

    python -m benchmarks [--data ../shared/data]

Kernel and end-to-end errors need the measured data beside the checkout; what needs it and lacks
it says so. Speeds are CPU seconds of this process, or whole-process times of the command line.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

DEFAULT = Path(os.environ.get("ISOFLOP_SHARED", Path(__file__).resolve().parents[2] / "shared"))
KERNELS = ("gemm.bf16", "gemm.fp8", "prefill", "decode", "mla_decode", "moe.bf16", "moe.fp8-block",
           "all_reduce_custom", "nccl.all_reduce")  # fmt: skip
TARGETS = {"gemm": (8, 15), "prefill": (8, 15), "decode": (10, 20), "moe": (12, 25),
           "all_reduce_custom": (15, 25), "nccl": (15, 25)}  # fmt: skip


def kernels() -> None:
    """Held-out median errors recorded by the calibration."""
    from isoflop.cost.kernels.calibration import load_kernels

    print("kernel models: median error on held-out shapes / on a device left out of its family")
    for family in ("hopper", "ampere", "ada"):
        quality = load_kernels(family)[0].quality
        for name in KERNELS:
            if name not in quality:
                continue
            q, target = quality[name], TARGETS.get(name.split(".")[0])
            left = f"{q.left_out_error:6.1%}" if q.left_out_error else "     -"
            goal = f"target {target[0]}% / {target[1]}%" if target else ""
            print(f"  {family:7s} {name:18s} {q.median_error:6.1%} / {left}  mean "
                  f"{q.mean_error:6.1%}  90% interval holds {q.coverage:4.0%}  {goal}")  # fmt: skip


METRICS = {
    "silicon_agg.csv": {"tpot_s": "TPOT", "ttft_s": "TTFT"},
    "measurements.csv": {"tpot_s": "TPOT", "output_tokens_per_s": "throughput"},
}


def end_to_end(data: Path) -> None:
    """Errors on rows never used for fitting, and the time to price all of them."""
    from isoflop.evidence.predict import predict_cases
    from isoflop.evidence.read import read_cases

    for name, metrics in METRICS.items():
        path = data / "data/serving" / name
        if not path.exists():
            print(f"end to end: {name} is not beside this checkout; skipped")
            continue
        start = time.process_time()
        items = predict_cases(read_cases(path))
        seconds = time.process_time() - start
        for metric, label in metrics.items():
            kept = [
                p for p in items
                if p.case.metric == metric and p.case.role == "check" and p.predicted
            ]  # fmt: skip
            measured = np.array([p.case.measured for p in kept])
            predicted, low, high = (
                np.array([getattr(p, k) for p in kept], float) for k in ("predicted", "low", "high")
            )
            error = np.abs(predicted / measured - 1)
            inside = np.mean((low <= measured) & (measured <= high))
            constant = np.abs(np.median(measured) / measured - 1)
            print(
                f"end to end {label}, {name}, {len(kept)} rows never fitted: median "
                f"{np.median(error):.1%}, mean {error.mean():.1%}, 90% interval holds "
                f"{inside:.0%}; one constant {constant.mean():.0%}"
            )
        print(f"end to end, {name}: all {len(items)} rows in {seconds:.1f} CPU s")


def speed() -> None:
    """Step costs per second through the array path, and its error against the full model."""
    from isoflop.cost.step import StepModel
    from isoflop.cost.table import StepTable
    from isoflop.hardware import load_accelerator
    from isoflop.models import load_model
    from isoflop.plans import Plan

    step = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(), device=load_accelerator("h100"))
    table = StepTable.build(step, max_sequences=512)
    rng = np.random.default_rng(0)
    n = rng.integers(1, 513, 1_000_000).astype(float)
    c = rng.uniform(1, step.model.max_context, 1_000_000)
    start = time.process_time()
    table.decode_s(n, c)
    seconds = time.process_time() - start
    print(f"array path: {1e6 / seconds:,.0f} step costs per CPU second; at most "
          f"{table.error(step):.2%} from the full model at random batches")  # fmt: skip


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    arguments = parser.parse_args()
    data = arguments.data.parent if arguments.data.name == "data" else arguments.data
    kernels()
    end_to_end(data)
    speed()
    from benchmarks import (
        cold,
        device,
        methods,
        published_training,
        scaling,
        serving,
        serving_accuracy,
        training,
        training_accuracy,
        unseen,
    )

    cold.main()
    device.main()
    unseen.main(data)
    serving.main()
    serving_accuracy.report(data)
    methods.main()
    scaling.main(data / "data/laws")
    training.main()
    training_accuracy.report(data / "data")
    published_training.report()
    print("number formats: python -m benchmarks.numerics")


if __name__ == "__main__":
    main()
