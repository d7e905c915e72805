"""Fit each serving engine's overheads to end-to-end TPOT and TTFT and write its calibration file.

    python tools/calibrate_engines.py --data ../shared/data

Only rows whose role is "fit" are used: configurations (engine, device, model, plan) chosen by a
hash, so that no configuration is on both sides. `isoflop validate` reports the others.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from _fitting import fit
from isoflop.cost.engines import Engine
from isoflop.cost.step import StepModel
from isoflop.evidence.case import Case
from isoflop.evidence.predict import run_of
from isoflop.evidence.read import read_cases
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.serving.instance import BARE, InstanceTables

OUT = Path(__file__).resolve().parents[1] / "src/isoflop/data/calibrations"
FAMILIES = ("hopper", "blackwell")


FIRST_WEIGHT = 0.25
"""Weight of a TTFT's log error against a TPOT's: it scatters about four times as much."""

MEASURED_WEIGHT = 0.2
"""What a factor on kernel times pays for leaving 1, in rows' log errors: the kernels were measured
alone, and lengths, overheads and factors can trade places in end-to-end rows."""


def engine(name: str, x: np.ndarray) -> Engine:
    """An engine from a parameter vector."""
    return Engine(
        id=f"engine-{name}",
        step_s=x[0] * 1e-3,
        sequence_s=x[1] * 1e-6,
        prefill_scale=x[2],
        kernel_scale=dict(zip(FAMILIES, x[3:5], strict=True)),
        captured=x[5],
        arrival_s=x[6] * 1e-3,
        burst=x[7],
        lag_steps=x[8],
        sigma=0.1,
        fitted_on="",
        source="estimate",
    )


START = [0.8, 5.0, 1.0, 1.0, 0.9, 0.4, 40.0, 0.3, 1.0]
LOW = [0.0, 0.0, 0.6, 0.5, 0.4, 0.0, 0.0, 0.0, 0.0]
HIGH = [6.0, 60.0, 1.8, 1.6, 1.6, 1.0, 400.0, 1.0, 12.0]


def groups(cases: list[Case], name: str, role: str, metric: str) -> list[tuple]:
    """Instances with their tables and measured TPOT."""
    members: dict[tuple, list[Case]] = defaultdict(list)
    pairs = {c.line: c.measured for c in cases if c.metric == "ttft_s"}
    for c in cases:
        wanted = name in ("default", c.engine)
        if c.metric == metric and not c.reason and wanted and c.role == role:
            members[c.model, c.device, c.plan].append(c)
    out = []
    for (model, device, plan), rows in members.items():
        try:
            step = StepModel(
                model=load_model(model), plan=plan, device=load_accelerator(device), engine=BARE
            )
            clients = np.array([c.running or c.concurrency for c in rows], float)
            prompt, output, spread = (
                np.array([getattr(c, k) for c in rows], float)
                for k in ("prompt_tokens", "output_tokens", "output_cv")
            )
            mixed = np.array([c.mixed for c in rows])
            tables = InstanceTables.build(step, clients, prompt, output, spread)
        except Exception as error:
            print(f"  skipped {model} on {device}: {str(error)[:90]}")
            continue
        options = {"output_cv": spread, "mixed": mixed, **run_of(rows)}
        measured = np.array([c.measured for c in rows])
        first = np.array([pairs.get(c.line, np.nan) for c in rows])
        out.append((tables, clients, prompt, output, options, measured, first))
    return out


def both_errors(data: list[tuple], e: Engine) -> tuple[np.ndarray, np.ndarray]:
    """log(predicted / measured) of TPOT and of TTFT, row by row; 0 where no TTFT was measured."""
    tpot, first = [], []
    for tables, clients, prompt, output, options, measured, ttft in data:
        state = tables.state(e, clients, prompt, output, **options)
        tpot.append(np.log(state.tpot_s / measured))
        first.append(np.nan_to_num(np.log(state.ttft_s / ttft)))
    return np.concatenate(tpot), np.concatenate(first)


def first_vllm(x: np.ndarray, sigma: float = 0.1, rows: int = 0) -> Engine:
    """vLLM's first engine: one Python process schedules, launches and detokenises."""
    return Engine(
        id="engine-vllm-v0",
        step_s=x[0] * 1e-3,
        sequence_s=x[1] * 1e-6,
        prompt_layer_s=x[2] * 1e-3,
        captured=0.4,
        sigma=sigma,
        rows=rows,
        fitted_on="",
        source="estimate",
    )


def fit_first_vllm(path: Path) -> None:
    """Host times of vLLM before 0.8, on the published runs of one small model."""
    data = groups(read_cases(path), "vllm-v0", "fit", "tpot_s")
    x = fit(
        lambda x: both_errors(data, first_vllm(x))[0],
        [0.3, 30.0, 0.6],
        [0.0, 0.0, 0.0],
        [3.0, 120.0, 2.0],
        0.1,
    )
    e = both_errors(data, first_vllm(x))[0]
    sigma = max(float(np.quantile(np.abs(e), 0.9) / 1.6449), FLOOR_SIGMA)
    mean = np.mean(np.abs(np.expm1(e)))
    print(f"vllm-v0  {len(e):5d} rows  {np.round(x, 3)}  mean {mean:.1%}  sigma {sigma:.3f}")
    (OUT / "engine-vllm-v0.toml").write_text(
        f"""step = {x[0] * 1e-3:.4g}
sequence = {x[1] * 1e-6:.4g}
prompt_layer = {x[2] * 1e-3:.4g}
captured = 0.4
sigma = {sigma:.3f}
rows = {len(e)}
fitted_on = "TPOT of OPT-1.3B; Llama-2-7B and OPT-2.7B check it"
note = "vLLM before 0.8: one Python process, prompt steps not captured as graphs"
source = "gap"

[sources.gap]
title = "Mind the Memory Gap, published logs (FerranAgulloLopez/vLLMBatchingMemoryGap)"
locator = "commit a9186347, background"
date = "2025"
"""
    )


FLOOR_SIGMA = 0.1
"""One model on one machine says nothing of other hosts: no narrower than this."""


def main() -> None:
    """Fit every engine of the silicon table, and the pooled default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--only",
        choices=["vllm-v0", "trtllm", "sglang", "vllm", "default"],
        help="fit this engine alone",
    )
    arguments = parser.parse_args()
    if arguments.only in (None, "vllm-v0"):
        fit_first_vllm(arguments.data / "serving/measurements.csv")
    cases = read_cases(arguments.data / "serving/silicon_agg.csv")
    for name in ("trtllm", "sglang", "vllm", "default"):
        if arguments.only not in (None, name):
            continue
        data = groups(cases, name, "fit", "tpot_s")

        def residual(x: np.ndarray, d: list[tuple] = data, n: str = name) -> np.ndarray:
            tpot, first = both_errors(d, engine(n, x))
            held = MEASURED_WEIGHT * np.sqrt(len(tpot)) * np.log(x[2:5])
            return np.concatenate([tpot, FIRST_WEIGHT * first, held])

        x = fit(residual, START, LOW, HIGH, 0.1)
        e, t = both_errors(data, engine(name, x))
        sigma = float(np.quantile(np.abs(e), 0.9) / 1.6449)
        print(
            f"{name:8s} {len(e):5d} rows  {np.round(x, 3)}  median {np.median(np.abs(e)):.1%}  "
            f"mean {np.mean(np.abs(np.expm1(e))):.1%}  sigma {sigma:.3f}  "
            f"TTFT median {np.median(np.abs(t)):.1%}",
            flush=True,
        )
        scale = "\n".join(f"{f} = {v:.4g}" for f, v in zip(FAMILIES, x[3:5], strict=True))
        (OUT / f"engine-{name}.toml").write_text(
            f"""step = {x[0] * 1e-3:.4g}
sequence = {x[1] * 1e-6:.4g}
prefill_scale = {x[2]:.4g}
captured = {x[5]:.4g}
arrival = {x[6] * 1e-3:.4g}
burst = {x[7]:.4g}
lag_steps = {x[8]:.4g}
sigma = {sigma:.3f}
rows = {len(e)}
fitted_on = "TPOT and TTFT of configurations with role fit"
source = "silicon"

[kernel_scale]
{scale}

[sources.silicon]
title = "ai-dynamo/aiconfigurator end-to-end measurements (Apache-2.0)"
locator = "commit 095f58a5, silicon_agg"
date = "2026"
"""
        )


if __name__ == "__main__":
    main()
