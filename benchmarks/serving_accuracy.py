"""Serving runs that were measured: one of vLLM request by request, and Mind the Memory Gap's.

    python -m benchmarks.serving_accuracy [--data ../shared]

The run: 300 requests of vLLM 0.19 on an RTX 4090 (casys-kaist/LLMServingSim @ 5daddb21), simulated
from its engine settings, then after `isoflop measure` on every other request. Mind the Memory Gap
(FerranAgulloLopez/vLLMBatchingMemoryGap @ a9186347): time per token, throughput and cache of three
models by batch on a 64 GB H100 under vLLM 0.5; host times of that engine were fitted on the
time per token of OPT-1.3B alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.evidence.case import Prediction
from isoflop.evidence.predict import predict_cases
from isoflop.evidence.read import read_cases
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.serving.measure import calibrate, read_latencies
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.traffic import read_trace

RUN = "data/requests/RTX4090/Llama-3.1-8B/vllm/requests.jsonl"
ROWS = "data/serving/measurements.csv"
GAP = "FerranAgulloLopez/vLLMBatchingMemoryGap"
EPSILON = 0.1
"""The advisor's least share of linear scaling, as in the paper."""
PROMISES = {"strict": 2.0, "relaxed": 4.0}
"""Time per token promised, over that of a batch of 32."""
KNEE = 0.9
"""The knee is the smallest batch with this share of the largest throughput."""

Curve = dict[int, tuple[float, float]]
"""By batch: what was measured and what is predicted."""


def real_run(path: Path) -> tuple[float, float, float, float]:
    """Mean error of end-to-end latency: before and after calibration, and of constants."""
    step = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(),
                     device=load_accelerator("rtx-4090"), engine=load_engine("vllm"))  # fmt: skip
    # The run's meta.json.
    server = Server(step=step, max_sequences=256, max_tokens=2048, max_context=32768)
    trace, measured = read_trace(path), read_latencies(path)
    predicted = simulate(server, trace).collected.e2e_s
    found = calibrate(server, trace, measured, path.name)
    constant = float(np.mean(np.abs(np.median(measured) / measured - 1.0)))
    return (float(np.mean(np.abs(predicted / measured - 1.0))), constant, found.after,
            found.baseline)  # fmt: skip


def memory_gap(path: Path) -> list[Prediction]:
    """Every priced row of Mind the Memory Gap's repository."""
    return [p for p in predict_cases([c for c in read_cases(path) if c.source == GAP])
            if p.predicted]  # fmt: skip


def by_batch(rows: list[Prediction], path: Path) -> dict[str, dict[str, Curve]]:
    """Curves of the runs on conversations, by model and metric."""
    lines = path.read_text(encoding="utf-8").splitlines()
    curves: dict[str, dict[str, Curve]] = {}
    for p in rows:
        if "background/" in lines[p.case.line - 1] and p.case.concurrency and p.predicted:
            curve = curves.setdefault(p.case.model, {}).setdefault(p.case.metric, {})
            curve[int(p.case.concurrency)] = p.case.measured, p.predicted
    return curves


def knee(rate: Curve, which: int) -> int:
    """Smallest batch whose throughput is near the largest: 0 measured, 1 predicted."""
    most = max(v[which] for v in rate.values())
    return min(b for b, v in rate.items() if v[which] >= KNEE * most)


def advised(rate: Curve, tpot: Curve, promise_s: float, which: int) -> int:
    """The advisor's batch by its own rule, from what was measured (0) or predicted (1)."""
    one = rate[1][which]
    good = [b for b in rate if tpot[b][which] <= promise_s
            and rate[b][which] >= EPSILON * b * one]  # fmt: skip
    return max(good)


def report(data: Path) -> None:
    """Print every comparison, with what one constant would do."""
    run = data / RUN
    if run.exists():
        before, constant, after, constant_half = real_run(run)
        print(f"vLLM run on an RTX 4090, 300 requests: end-to-end latency within {before:.1%} from "
              f"settings alone (goal 8%; one constant {constant:.0%}), {after:.1%} on the other "
              f"half after calibration (goal 3%; {constant_half:.0%})")  # fmt: skip
    path = data / ROWS
    if not path.exists():
        print("Mind the Memory Gap: its rows are not beside this checkout; skipped")
        return
    rows = memory_gap(path)
    labels = {"tpot_s": "time per token", "output_tokens_per_s": "throughput",
              "kv_tokens": "cache in tokens", "power_watts": "power"}  # fmt: skip
    for metric, label in labels.items():
        for model in sorted({p.case.model for p in rows}):
            pairs = np.array([(p.case.measured, p.predicted) for p in rows
                              if p.case.metric == metric and p.case.model == model])  # fmt: skip
            if not len(pairs):
                continue
            error = np.abs(pairs[:, 1] / pairs[:, 0] - 1.0)
            constant = np.abs(np.median(pairs[:, 0]) / pairs[:, 0] - 1.0)
            fit = ", engine fitted on these" if (metric, model) == ("tpot_s", "OPT-1.3B") else ""
            base = f"; one constant {constant.mean():.0%}" if len(pairs) > 1 else ""
            print(f"Mind the Memory Gap {model:10s} {label}: {len(pairs)} rows, mean "
                  f"{error.mean():.1%}, worst {error.max():.1%}{base}{fit}")  # fmt: skip
    for model, curves in sorted(by_batch(rows, path).items()):
        rate, tpot = curves["output_tokens_per_s"], curves["tpot_s"]
        batches = "; ".join(
            f"{name} promise ({x:g} x batch 32) {advised(rate, tpot, x * tpot[32][0], 0)} by the "
            f"measured curve, {advised(rate, tpot, x * tpot[32][0], 1)} by the predicted one"
            for name, x in PROMISES.items()
        )
        print(f"Mind the Memory Gap {model:10s} knee at batch {knee(rate, 0)} measured, "
              f"{knee(rate, 1)} predicted; advised: {batches}")  # fmt: skip


def main() -> None:
    """Read where the data is, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--data", type=Path, default=default)
    data = parser.parse_args().data
    report(data.parent if data.name == "data" else data)


if __name__ == "__main__":
    main()
