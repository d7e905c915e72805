"""Published inference figures: one metric per row, with a note."""

from __future__ import annotations

import math
import re

from attrs import evolve

from ..errors import IsoflopError
from ..plans import Plan
from .case import Case, weight_formats
from .silicon_rows import number, role_of

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
    "power_w": ("power_watts", 1.0),
    "kv_cache_gb": ("kv_cache_bytes", 2.0**30),
    "kv_tokens_max": ("kv_tokens", 1.0),
}

_LLAMA_CPP = ("llama.cpp", "exllamav2", "tinychat", "MLC-LLM", "transformers")


def serving_case(line: int, row: dict[str, str]) -> Case:
    """One row as a case; what cannot be priced carries its reason."""
    source = re.split(r"[\s@]", row["source"])[0]
    metric, unit = UNITS.get(row["metric"], (row["metric"], 1.0))
    case = Case(line=line, source=source, metric=metric, measured=number(row["value"]) * unit)
    if row["metric"] not in UNITS:
        return evolve(case, reason=f"the metric '{row['metric']}' is not one isoflop predicts")
    if "THEORETICAL" in row["note"]:
        return evolve(case, reason="a formula, not a measurement")
    try:
        return _fill(case, row)
    except IsoflopError as error:
        return evolve(case, reason=str(error))


def _fill(case: Case, row: dict[str, str]) -> Case:
    def degree(name: str) -> int:
        value = number(row.get(name, ""))
        return 1 if math.isnan(value) or value < 1 else int(value)

    formats = weight_formats(row["precision"], row["model"])
    note, engine = row["note"], row["engine"]
    if "fp8 KV" in note and "fp8" in row["precision"]:
        formats = evolve(formats, kv="fp8")
    tensor, devices = degree("tp"), degree("n_gpus")
    plan = Plan(tensor=tensor, pipeline=degree("pp"), formats=formats)
    if degree("ep") > 1 and degree("ep") <= tensor:
        plan = evolve(plan, expert=degree("ep"))
    if engine == "llama.cpp" and devices > 1:
        # Layer split: stages run one after the other for a single sequence.
        plan = evolve(plan, pipeline=devices, tensor=1)
    prompt, output = number(row["input_len"]), number(row["output_len"])
    size = row["batch_or_concurrency"].strip()
    case = evolve(
        case,
        model=row["model"],
        device=row["gpu"],
        engine=engine.lower(),
        plan=plan,
        prompt_tokens=0.0 if math.isnan(prompt) else prompt,
        output_tokens=0.0 if math.isnan(output) else output,
    )
    running = re.search(r"mean running ([\d.]+)", note)
    if running:
        case = evolve(case, running=float(running.group(1)))
    case = _batching(case, size, note, engine)
    # Some of these rows are medians of the runs that the engine overheads were fitted on.
    return evolve(case, role=role_of(case)) if "ai-dynamo" in row["source"] else case


def _batching(case: Case, size: str, note: str, engine: str) -> Case:
    if case.metric in ("kv_cache_bytes", "kv_tokens"):
        return evolve(case, mode="capacity")
    if case.metric == "prefill_s" or (case.metric == "ttft_s" and size in ("1", "1.0")):
        return evolve(case, mode="single", concurrency=1.0)
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
