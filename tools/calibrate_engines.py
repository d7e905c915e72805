"""Fit each serving engine's overheads to end-to-end TPOT and write its calibration file.

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
from isoflop.evidence.read import read_cases
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.serving.instance import BARE, InstanceTables

OUT = Path(__file__).resolve().parents[1] / "src/isoflop/data/calibrations"
FAMILIES = ("hopper", "blackwell")


def engine(name: str, x: np.ndarray, y: tuple[float, float] = (0.0, 0.0)) -> Engine:
    """An engine from a parameter vector."""
    return Engine(
        id=f"engine-{name}",
        step_s=x[0] * 1e-3,
        sequence_s=x[1] * 1e-6,
        prefill_scale=x[2],
        captured=x[5],
        kernel_scale=dict(zip(FAMILIES, x[3:5], strict=True)),
        sigma=0.1,
        arrival_s=y[0] * 1e-3,
        burst=y[1],
        fitted_on="",
        source="estimate",
    )


def groups(cases: list[Case], name: str, role: str, metric: str) -> list[tuple]:
    """Instances with their tables and measured TPOT."""
    members: dict[tuple, list[Case]] = defaultdict(list)
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
            clients, prompt, output = (
                np.array([getattr(c, k) for c in rows], float)
                for k in ("concurrency", "prompt_tokens", "output_tokens")
            )
            tables = InstanceTables.build(step, clients, prompt, output)
        except Exception as error:
            print(f"  skipped {model} on {device}: {str(error)[:90]}")
            continue
        out.append((tables, clients, prompt, output, np.array([c.measured for c in rows])))
    return out


def errors(data: list[tuple], e: Engine, metric: str = "tpot_s") -> np.ndarray:
    """log(predicted / measured) of every row."""
    return np.concatenate(
        [np.log(getattr(t.state(e, c, p, o), metric) / measured) for t, c, p, o, measured in data]
    )


def main() -> None:
    """Fit every engine of the silicon table, and the pooled default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    cases = read_cases(parser.parse_args().data / "serving/silicon_agg.csv")
    for name in ("trtllm", "sglang", "vllm", "default"):
        data = groups(cases, name, "fit", "tpot_s")
        x = fit(
            lambda x, d=data, n=name: errors(d, engine(n, x)),
            [0.8, 3.0, 1.0, 1.0, 0.9, 0.3],
            [0.0, 0.0, 0.6, 0.5, 0.4, 0.0],
            [6.0, 60.0, 1.8, 1.6, 1.6, 1.0],
            0.1,
        )
        e = errors(data, engine(name, x))
        sigma = float(np.quantile(np.abs(e), 0.9) / 1.6449)
        print(
            f"{name:8s} {len(e):5d} rows  {np.round(x, 3)}  median {np.median(np.abs(e)):.1%}  "
            f"mean {np.mean(np.abs(np.expm1(e))):.1%}  sigma {sigma:.3f}",
            flush=True,
        )
        first = groups(cases, name, "fit", "ttft_s")
        y = fit(
            lambda y, d=first, n=name, x=x: errors(d, engine(n, x, tuple(y)), "ttft_s"),
            [30.0, 0.2],
            [0.0, 0.0],
            [400.0, 1.0],
            0.3,
        )
        t = errors(first, engine(name, x, tuple(y)), "ttft_s")
        print(f"    TTFT {np.round(y, 3)}  median {np.median(np.abs(t)):.1%}", flush=True)
        scale = "\n".join(f"{f} = {v:.4g}" for f, v in zip(FAMILIES, x[3:5], strict=True))
        (OUT / f"engine-{name}.toml").write_text(
            f"""step = {x[0] * 1e-3:.4g}
sequence = {x[1] * 1e-6:.4g}
prefill_scale = {x[2]:.4g}
captured = {x[5]:.4g}
arrival = {y[0] * 1e-3:.4g}
burst = {y[1]:.4g}
sigma = {sigma:.3f}
rows = {len(e)}
fitted_on = "TPOT of configurations with role fit"
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
