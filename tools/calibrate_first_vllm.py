"""Fit the host times of vLLM's first engine (before 0.8) and write its calibration file.

    python tools/calibrate_first_vllm.py --data ../shared/data

Fitted on the published runs of one small model; `isoflop validate` reports the others.
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


def groups(cases: list[Case]) -> list[tuple]:
    """Instances with their tables and measured TPOT."""
    members: dict[tuple, list[Case]] = defaultdict(list)
    for c in cases:
        mine = c.engine == "vllm-v0" and c.role == "fit"
        if c.metric == "tpot_s" and not c.reason and mine:
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
        out.append((tables, clients, prompt, output, options, measured))
    return out


def errors(data: list[tuple], e: Engine) -> np.ndarray:
    """log(predicted / measured) of TPOT, row by row."""
    out = []
    for tables, clients, prompt, output, options, measured in data:
        state = tables.state(e, clients, prompt, output, **options)
        out.append(np.log(state.tpot_s / measured))
    return np.concatenate(out)


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


FLOOR_SIGMA = 0.1
"""One model on one machine says nothing of other hosts: no narrower than this."""


def main() -> None:
    """Host times of vLLM before 0.8, on the published runs of one small model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    path = parser.parse_args().data / "serving/measurements.csv"
    data = groups(read_cases(path))
    x = fit(
        lambda x: errors(data, first_vllm(x)),
        [0.3, 30.0, 0.6],
        [0.0, 0.0, 0.0],
        [3.0, 120.0, 2.0],
        0.1,
    )
    e = errors(data, first_vllm(x))
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


if __name__ == "__main__":
    main()
