"""Published inference figures: one metric per row, with a note."""

from __future__ import annotations

import math
import re

from attrs import evolve

from ..cost.engines import engine_of
from ..errors import IsoflopError
from ..plans import Plan
from .case import Arrivals, Case, Protocol, as_run, weight_formats
from .silicon_rows import number, role_of, whole

SERVING_COLUMNS = frozenset(
    [
        "source",
        "engine",
        "model",
        "precision",
        "gpu",
        "tp",
        "pp",
        "ep",
        "input_len",
        "output_len",
        "batch_or_concurrency",
        "metric",
        "value",
        "note",
    ]
)

UNITS = {
    "tpot_ms": ("tpot_s", 1e-3),
    "ttft_ms": ("ttft_s", 1e-3),
    "prefill_ms": ("prefill_s", 1e-3),
    "decode_tok_s_total": ("output_tokens_per_s", 1.0),
    "tok_s_per_gpu": ("tokens_per_s_per_device", 1.0),
    "e2e_ms": ("e2e_s", 1e-3),
    "prefill_tok_s_per_gpu": ("prefill_tokens_per_s_per_device", 1.0),
    "prefill_tok_s_total": ("prefill_tokens_per_s_total", 1.0),
    "ubatch_tok_s": ("prompt_tokens_per_s", 1.0),
    "power_w": ("power_watts", 1.0),
    "kv_cache_gb": ("kv_cache_bytes", 2.0**30),
    "kv_tokens_max": ("kv_tokens", 1.0),
}

MEMORYLESS_CV = 1.0
"""Spread of output lengths where a source used real conversations and states only their mean: the
geometric distribution, which assumes nothing but the mean (a decode that may end at every step)."""

V0_FITTED = ("vllm-v0", "OPT-1.3B")

_LLAMA_CPP = ("llama.cpp", "exllamav2", "tinychat", "MLC-LLM", "transformers")


def serving_case(line: int, row: dict[str, str]) -> Case:
    """One row as a case; what cannot be priced carries its reason."""
    source = re.split(r"[\s@]", row["source"])[0]
    metric, unit = UNITS.get(row["metric"], (row["metric"], 1.0))
    case = Case(line=line, source=source, metric=metric, measured=number(row["value"]) * unit)
    if row["metric"] == "speedup_x":
        return evolve(case, reason="a ratio of two systems, of which the row describes one")
    if row["metric"] not in UNITS:
        return evolve(case, reason=f"the metric '{row['metric']}' is not one isoflop predicts")
    if "THEORETICAL" in row["note"]:
        return evolve(case, reason="a formula, not a measurement")
    if not 0 < case.measured < math.inf:
        return evolve(case, reason=f"its value '{row['value']}' is not a positive number")
    for name in ("input_len", "output_len"):
        if number(row[name]) < 0:
            return evolve(case, reason=f"its {name} '{row[name]}' is negative")
    try:
        return _fill(case, row)
    except IsoflopError as error:
        return evolve(case, reason=str(error))


def _fill(case: Case, row: dict[str, str]) -> Case:
    def degree(name: str) -> int:
        return whole(row, name)

    formats = weight_formats(row["precision"], row["model"])
    note, engine = row["note"], row["engine"]
    narrow = row["precision"].strip().lower() in ("fp8", "fp4", "nvfp4")
    if narrow and ("fp8 KV" in note or engine.lower().startswith("tensorrt")):
        # TensorRT-LLM's published 8- and 4-bit checkpoints carry 8-bit cache scales.
        formats = evolve(formats, kv="fp8")
    tensor, devices = degree("tp"), degree("n_gpus")
    plan = Plan(tensor=tensor, pipeline=degree("pp"), formats=formats)
    if degree("ep") > 1 and degree("ep") <= tensor:
        plan = evolve(plan, expert=degree("ep"))
    elif degree("ep") > tensor:
        # Attention replicated over the ranks that share the experts.
        plan = evolve(plan, data=degree("ep") // tensor, expert=degree("ep"))
    if engine == "llama.cpp" and devices > 1:
        # Layer split: stages run one after the other for a single sequence.
        plan = evolve(plan, pipeline=devices, tensor=1)
    prompt, output = number(row["input_len"]), number(row["output_len"])
    size = row["batch_or_concurrency"].strip()
    case = evolve(
        case,
        model=row["model"],
        device=row["gpu"],
        engine=engine_of(engine, row.get("engine_version", "")),
        release=row.get("engine_version", ""),
        replicas=float(devices),
        mixed="chunked prefill on" in note,
        plan=plan,
        prompt_tokens=0.0 if math.isnan(prompt) else prompt,
        output_tokens=0.0 if math.isnan(output) else output,
    )
    running = re.search(r"mean running ([\d.]+)", note)
    if running:
        case = evolve(case, running=float(running.group(1)))
    if "ShareGPT" in note:
        case = evolve(case, output_cv=MEMORYLESS_CV)
    if "bench max load" in note or "static batch" in note or size == "max":
        # trtllm-bench and gptSessionBenchmark call the engine: no server answers each sequence.
        case = evolve(case, protocol=Protocol(served=False))
    spread = re.search(r"lengths from (0?\.\d+)", note)
    if spread:
        case = as_run(case, Protocol(shortest=float(spread.group(1))))
    case = _batching(case, size, note, engine)
    # Some of these rows are medians of the runs that the engine overheads were fitted on.
    if "ai-dynamo" in row["source"]:
        return evolve(case, role=role_of(case))
    if row["gpu"] == "L40S" and tensor > 1:
        # Peer access between PCIe cards was settled on these rows (tools/calibrate_kernels.py).
        return evolve(case, role="fit")
    # tools/calibrate_engines.py fits the first vLLM engine on one model and checks on the others.
    return evolve(case, role="fit") if (case.engine, case.model) == V0_FITTED else case


def _arrivals(found: re.Match[str], note: str) -> Arrivals:
    sequences = re.search(r"max_num_seqs (\d+)", note)
    tokens = re.search(r"chunked (\d+)", note)
    return Arrivals(
        requests_per_s=float(found.group(1)),
        requests=int(found.group(2)),
        max_sequences=int(sequences.group(1)) if sequences else 256,
        max_tokens=int(tokens.group(1)) if tokens else 8192,
    )


def share_limits(cases: list[Case]) -> list[Case]:
    """Timed runs of one source with the limits that any of its rows states."""
    stated: dict[tuple, Arrivals] = {}
    for case in cases:
        if case.arrivals is not None:
            key = (case.source, case.model, case.device, case.plan)
            now, old = case.arrivals, stated.get(key, case.arrivals)
            stated[key] = evolve(
                now,
                max_sequences=min(now.max_sequences, old.max_sequences),
                max_tokens=min(now.max_tokens, old.max_tokens),
            )
    return [
        evolve(c, arrivals=stated[c.source, c.model, c.device, c.plan]) if c.arrivals else c
        for c in cases
    ]


def _batching(case: Case, size: str, note: str, engine: str) -> Case:
    if case.metric in ("kv_cache_bytes", "kv_tokens"):
        return evolve(case, mode="capacity")
    if case.metric == "prefill_s" or (case.metric == "ttft_s" and size in ("1", "1.0")):
        return evolve(case, mode="single", concurrency=1.0)
    if case.metric.startswith("prefill_tokens"):
        stated = case.plan.devices > 1 or case.model.lower().startswith("qwen")
        reason = "" if stated else "it does not state the parallel plan"
        return evolve(case, mode="prompts", reason=reason)
    arrivals = re.fullmatch(r"([\d.]+) req/s x(\d+)", size)
    if arrivals:
        return evolve(case, mode="open", arrivals=_arrivals(arrivals, note))
    if case.metric == "prompt_tokens_per_s":
        return evolve(case, mode="pieces", concurrency=number(size))
    if size == "max":
        return evolve(case, concurrency=None)
    clients = number(size)
    if not clients > 0:
        return evolve(case, reason=f"its batch '{size}' does not say how many sequences run")
    if engine in _LLAMA_CPP or clients == 1:
        # Short-context single-stream decoding; llama-bench averages over the growing context.
        output = case.output_tokens or 128.0
        return evolve(case, mode="static", concurrency=clients, output_tokens=output)
    mode = "static" if "static batch" in note else "closed"
    return evolve(case, mode=mode, concurrency=clients)
