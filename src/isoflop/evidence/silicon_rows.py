"""End-to-end measurements with full parallel configuration (TTFT and TPOT per row)."""

from __future__ import annotations

import math
import re
import zlib

from attrs import evolve

from ..errors import InvalidInput, IsoflopError
from ..plans import Plan
from .benchmarks import otherwise_of, protocol_of, unrecorded
from .case import Case, Role, as_run, weight_formats

SILICON_COLUMNS = frozenset(
    ["silicon_data_source", "backend", "model_path", "system", "precision", "isl", "osl",
     "batch_size", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size",
     "silicon_ttft_ms", "silicon_tpot_ms"]
)  # fmt: skip

QUEUE_MS = 1e4
MOST = 1e7
"""Above any degree or count that a row may state."""
FIT_SHARE = 0.4
"""Share of configurations whose rows the engine overheads are fitted on; the others only check."""


def number(text: str) -> float:
    """A CSV field as a number; NaN where it is empty or not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def whole(row: dict[str, str], name: str, least: int = 1) -> int:
    """A degree or a count of a row; 1 where it is empty.

    Raises
    ------
    InvalidInput
        If it is written but no whole number of at least `least`.
    """
    text = row.get(name, "").strip()
    value = number(text) if text and text.lower() != "nan" else 1.0
    if not (least <= value < MOST and value == math.floor(value)):
        raise InvalidInput(f"its {name} '{text}' is not a whole number of at least {least}")
    return int(value)


def positive(row: dict[str, str], name: str) -> float:
    """A length or a count of a row.

    Raises
    ------
    InvalidInput
        If it is no positive number.
    """
    value = number(row.get(name, ""))
    if not 0 < value < math.inf:
        raise InvalidInput(f"its {name} '{row.get(name, '')}' is not a positive number")
    return value


def silicon_cases(line: int, row: dict[str, str]) -> list[Case]:
    """One row as its TPOT and TTFT cases."""
    origin = row["silicon_data_source"]
    source = f"{row['backend']} {row['system']} {row['model_path'].split('/')[-1]}"
    base = Case(line=line, source=source, metric="tpot_s", measured=math.nan)
    try:
        base = _fill(base, row, origin)
        # The split goes by the stated lengths, the price by those that really ran.
        base = evolve(base, role=role_of(base))
        base = as_run(base, protocol_of(origin, base))
        base = evolve(
            base, reason=base.reason or unrecorded(origin, base),
            otherwise=otherwise_of(origin, base),
        )  # fmt: skip
        if base.otherwise:  # of no use to a fit
            base = evolve(base, role="check")
    except IsoflopError as error:
        base = evolve(base, reason=str(error))
    cases = []
    for metric, column in (("tpot_s", "silicon_tpot_ms"), ("ttft_s", "silicon_ttft_ms")):
        value = number(row[column]) * 1e-3
        if 0 < value < math.inf:
            reason = base.reason
            if not reason and number(row["silicon_ttft_ms"]) > QUEUE_MS:
                reason = "a TTFT above 10 s is a queue: fewer sequences ran than were sent"
            cases.append(evolve(base, metric=metric, measured=value, reason=reason))
    return cases or [evolve(base, reason=base.reason or "neither TPOT nor TTFT is positive")]


def role_of(case: Case) -> Role:
    """By a hash of the configuration and lengths: repeated runs and load sweeps share a side.

    Checkpoints of one architecture count as one model, because some sources list a run under each.
    """
    model = case.model.lower().replace("deepseek-r1", "deepseek-v3").rpartition("/")[2]
    lengths = f"{case.prompt_tokens:g}|{case.output_tokens:g}"
    key = f"{case.engine}|{case.device}|{model}|{case.plan.describe()}|{lengths}"
    return "fit" if zlib.crc32(key.encode()) % 1000 < 1000 * FIT_SHARE else "check"


def _fill(case: Case, row: dict[str, str], origin: str) -> Case:
    tensor, data, expert, reason = _degrees(row)
    quant = row.get("gemm_quant_mode", "") or row["precision"]
    formats = weight_formats(quant, row["model_path"], row.get("moe_quant_mode", ""))
    if row["backend"] == "trtllm" and quant in ("fp8", "nvfp4", "fp8_block", "fp4"):
        # Its quantised checkpoints carry 8-bit cache scales and use them by default.
        formats = evolve(formats, kv="fp8")
    plan = Plan(
        tensor=tensor, pipeline=whole(row, "pp_size"), data=data, expert=expert,
        formats=formats,
    )  # fmt: skip
    return evolve(
        case, reason=reason or _distrust(row), model=row["model_path"], device=row["system"],
        engine=row["backend"], release=row.get("backend_version", ""), plan=plan,
        prompt_tokens=positive(row, "isl"),
        output_tokens=positive(row, "osl"),
        concurrency=_clients(row, origin, data),
    )  # fmt: skip


def _clients(row: dict[str, str], origin: str, data: int) -> float:
    """Clients of one instance.

    Some runs put a router before several instances: their clients are then a multiple of the
    batch, which is one instance's, or one attention rank's.
    """
    sent = re.search(r"silicon_concurrency=(\d+)", origin)
    if sent and not row["batch_size"].strip():
        return float(sent.group(1))
    batch = positive(row, "batch_size")
    if not sent:
        return batch * data
    ranks = number(row["attention_dp_size"])
    one = batch * (1.0 if math.isnan(ranks) else max(ranks, 1.0))
    return min(float(sent.group(1)), one)


def _degrees(row: dict[str, str]) -> tuple[int, int, int, str]:
    """Tensor, attention-data and expert degrees as they really ran.

    Where MoE degrees t x e with t = e > 1 fill tensor x data exactly, the record multiplied the
    same ranks twice: TP4 with EP4 on 4 devices is written as 16 ranks. The same run appears with
    both spellings, which shows it.
    """
    tp, raw_dp = whole(row, "tp_size"), number(row["attention_dp_size"])
    if raw_dp == 0:
        return tp, 1, 1, "attention data parallelism of 0 is not a plan"
    dp = whole(row, "attention_dp_size")
    # Dense models are recorded with experts over no rank.
    t, e = (max(1, whole(row, f"moe_{k}_size", least=0)) for k in ("tp", "ep"))
    if t == e > 1 and tp * dp == t * e:
        return (t, 1, e, "") if tp > 1 else (1, t, e, "")
    if tp > 1 and dp == tp and e == tp * dp:
        # The same ranks multiplied again; other files spell these runs TP4 with EP4.
        return tp, 1, tp, ""
    if math.isnan(raw_dp) and t * e > tp and t * e % tp == 0:
        # Experts spread over more ranks than attention: attention is replicated over the rest.
        return tp, t * e // tp, e, ""
    return tp, dp, e, ""


def _distrust(row: dict[str, str]) -> str:
    model, system = row["model_path"], row["system"]
    if row.get("mode", "") == "disagg":
        return "prompts and decoding ran on instances of their own; the row's plan is of neither"
    if system == "gb200" and "Qwen3-32B" in model:
        return "this series contradicts itself (1 client 8 ms, 2 clients 42 ms)"
    if model == "nvidia/Llama-3.1-8B-Instruct-FP8":
        return "its batch is probably not the number of clients"
    if model == "nvidia/DeepSeek-R1-NVFP4":
        return "its time per token is the same for 5 and for 56 sequences (85 to 92 ms)"
    return ""
