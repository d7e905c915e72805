"""Tables of routed experts: their columns, tile rules and the problem of fitting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve

from _tables import TABLES, Columns, Problem, read
from isoflop.cost.kernels import DeviceShape
from isoflop.cost.kernels.moe import MoeParameters, moe_time_s
from isoflop.cost.kernels.routing import Routing
from isoflop.evidence.routing import TILE_ROWS, benchmark_routing, deals_in_turn, gated_rows
from isoflop.hardware import load_accelerator

RATES = {"bf16": "bf16", "fp8": "fp8", "fp8-block": "fp8", "int4": "bf16", "mxfp4": "bf16"}
WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp8-block": 1.0, "int4": 0.53, "mxfp4": 0.53}
NAMES = {"bf16": "bfloat16", "fp8": "fp8", "fp8-block": "fp8_block", "int4": "int4_wo",
         "mxfp4": "w4a16_mxfp4"}  # fmt: skip
KEYS = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size",
        "moe_ep_size", "distribution"]  # fmt: skip
MOST_RANKS = 16
ANY = 1_000_000_000
BY_TOKENS = ((32, 16, 64), (64, 32, 64), (96, 32, 128), (512, 64, 128), (ANY, 128, 128))
BY_EXPERTS = ((1, 16, 32), (ANY, 64, 64))
BLOCKED = ((64, 16, 128), (ANY, 64, 128))
"""What vLLM's grouped Triton kernel takes: from 0.18 on, before, and for block-scaled weights."""
TUNED = ((8, 7168), (8, 3584), (8, 1792), (8, 4096), (8, 2048), (1, 14336), (128, 192))
"""Local experts and inner widths of the measured shapes that vLLM ships a searched table for."""
RULES: dict[tuple[str, str], dict[str, Any]] = {
    ("hopper", "bf16"): {"ladder": BY_TOKENS},
    ("hopper", "fp8-block"): {"ladder": BLOCKED},
    ("ampere", "bf16"): {"ladder": BY_EXPERTS, "per_expert": True, "tuned": TUNED},
    ("ada", "bf16"): {"ladder": BY_TOKENS},
    ("ada", "fp8"): {"ladder": BY_TOKENS},
    ("ada", "fp8-block"): {"ladder": BLOCKED},
}
"""Rule of tiles by family and weights; kernels that are not listed search theirs."""
FREE = {
    # start, low, high
    "fixed": (35e-6, 2e-6, 80e-6), "small": (0.4, 0.0, 1.0), "compute": (0.75, 0.1, 1.0),
    "memory": (0.9, 0.3, 1.0), "wave": (0.7e-6, 0.0, 12e-6), "join": (2.2, 1.0, 8.0),
    "near": (6.0, 1.0, 30.0), "far": (0.5, 0.1, 1.0), "residency": (0.7, 0.02, 1.5),
    "permute": (1.0, 0.0, 6.0), "idle": (1.5, 0.0, 4.0), "align": (10e-9, 0.0, 120e-9),
    "unaligned": (1.5, 1.0, 6.0),
}  # fmt: skip


def expert_problem(data: Path, family: dict, kind: str) -> Problem:
    """Routed experts of one weight class, on at most `MOST_RANKS` expert ranks."""

    def keep(t: pa.Table) -> pa.Table:
        few = pc.less_equal(t["moe_ep_size"], MOST_RANKS)
        t = t.filter(pc.and_(pc.equal(t["moe_dtype"], NAMES[kind]), few))
        if kind == "fp8-block":
            return t.filter(pc.match_substring(t["kernel_source"], "triton"))
        return t

    columns = {
        d: _routed(read(data / TABLES / f / "moe/vllm" / v / "moe_perf.parquet", KEYS, keep), v)
        for d, (f, v) in family.items()
    }
    scale = {n: 10.0 ** np.floor(np.log10(start)) for n, (start, _, _) in FREE.items()}

    def predict(p: MoeParameters, shape: DeviceShape, device: str, c: Columns) -> np.ndarray:
        accelerator = load_accelerator(device)
        return moe_time_s(
            evolve(p, **rule(accelerator.family, kind)), shape, c["num_tokens"],
            hidden=c["hidden_size"], inner=c["inter_size"] / c["moe_tp_size"],
            experts=c["num_experts"], experts_local=c["num_experts"] / c["moe_ep_size"],
            per_token=c["topk"], gated=c["gated"],
            rate_flop_per_s=accelerator.rates.dense_flop_per_s[RATES[kind]],
            weight_bytes_per_value=WEIGHT_BYTES[kind],
            activation_bytes_per_value=1.0 if "fp8" in kind else 2.0,
            routing=Routing(local=c["local"], load=c["load"], tiles=lambda rows: c[f"tiles{rows}"]),
            streamed=False,
        )  # fmt: skip

    def build(x: np.ndarray) -> MoeParameters:
        values = {n: float(v * scale[n]) for n, v in zip(FREE, x, strict=True)}
        family_ = load_accelerator(next(iter(family))).family
        return MoeParameters(**values, **rule(family_, kind))

    start, low, high = ([v[i] / scale[n] for n, v in FREE.items()] for i in range(3))
    return Problem(columns, predict, build, start, low, high, KEYS, 0.15)


def rule(family: str, kind: str) -> dict[str, Any]:
    """Tile rule of a family's kernel."""
    return {"ladder": (), "per_expert": False, "tuned": ()} | RULES.get((family, kind), {})


def _routed(c: Columns, version: str) -> Columns:
    """The columns with what the benchmark routes and runs, which does not change with the fit."""
    in_turn = deals_in_turn(version)
    work = benchmark_routing(c["num_tokens"], c["num_experts"], c["topk"], c["moe_ep_size"],
                             c["distribution"], in_turn)  # fmt: skip
    tiles = {f"tiles{rows}": work.tiles(rows) for rows in TILE_ROWS}
    return c | {"gated": gated_rows(c, in_turn), "local": work.local, "load": work.load} | tiles
