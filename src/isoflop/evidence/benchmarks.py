"""How a source's load generator ran, and what its launch scripts told the engine.

A closed-loop benchmark is a finite run: its lengths, its number of rounds and a few scheduler
options decide the mean time to the first token as much as the device does. Only what a source
publishes is here; a run of which nothing is known gets the defaults.
"""

from __future__ import annotations

import re

from attrs import evolve

from .case import Case, Protocol

INFERENCE_X = re.compile(r"^db-dump/|source_file=(\d{4}-\d\d-\d\d|[\w.-]+-gap-analysis)\.csv")
"""Rows of InferenceX (SemiAnalysisAI/InferenceX, formerly InferenceMAX): dumps of its data base
and the dated and per-model extracts of them, which repeat the same runs."""


def protocol_of(origin: str, case: Case) -> Protocol:
    """The run behind a row, from where the row says it comes from.

    InferenceX: `benchmark_serving.py --random-range-ratio 0.8 --num-prompts 10*C --request-rate
    inf --max-concurrency C --ignore-eos` (benchmarks/*.sh of its repository).
    """
    if not INFERENCE_X.search(origin):
        return Protocol()
    drafts = _drafts(origin, case)
    return Protocol(
        rounds=10.0, shortest=0.8, wait_steps=_wait_steps(case), drafts=drafts,
        acceptance=ACCEPTANCE if drafts else 0.0,
    )  # fmt: skip


ACCEPTANCE = 0.54
"""Chance that a token drafted by a model's own prediction layer is accepted, given those before."""

TRT_DRAFTED = re.compile(r"1\.2\.0rc6\.post3|measured=2026-01-14\S*;.*1\.1\.0rc2\.post2")
"""TensorRT-LLM runs of DeepSeek-R1 with drafts: one release, and one day of an older release."""


def _drafts(origin: str, case: Case) -> int:
    """Tokens the launch scripts of InferenceX made a model draft (benchmarks/*_mtp.sh).

    The rows do not say so, and their source ran most of these configurations without drafts too.

    - TensorRT-LLM, DeepSeek-R1: `num_nextn_predict_layers` 3, or 1 with attention data parallelism.
    - SGLang, Qwen3.5 in 8 bits on four B200: `--speculative-num-steps 3`; without drafts it ran on
      eight, or with expert parallelism.
    - SGLang, DeepSeek-R1 in 8 bits on B200: `--speculative-num-steps 2`; without drafts it ran
      with at most 64 clients.
    """
    if origin.startswith("db-dump"):  # holds runs without drafts alone
        return 0
    model, plan = case.model.lower(), case.plan
    if case.engine == "trtllm" and "deepseek" in model and TRT_DRAFTED.search(origin):
        return 1 if plan.data > 1 else 3
    if case.engine != "sglang" or case.device != "b200_sxm" or plan.expert > 1:
        return 0
    if "qwen3.5" in model and plan.tensor == 4 and plan.formats.experts == "fp8-block":
        return 3
    if _either(origin, case) and (case.concurrency or 0) > 64:
        return 2
    return 0


def _either(origin: str, case: Case) -> bool:
    """Whether the source ran the case's recipe with drafts and without, under one image."""
    return (
        case.engine == "sglang"
        and case.device == "b200_sxm"
        and "deepseek" in case.model.lower()
        and case.plan.formats.experts == "fp8-block"
        and (case.plan.tensor, case.plan.expert) == (8, 1)
        and "v0.5.9" in origin
        and not origin.startswith("db-dump")
    )


def unrecorded(origin: str, case: Case) -> str:
    """Why a row of a known source cannot be told apart from a different run; empty if it can."""
    if not INFERENCE_X.search(origin):
        return ""
    if case.plan.tensor > 8:
        return "a rack-scale run: it counts its devices, not how prompts and decoding share them"
    return ""


def otherwise_of(origin: str, case: Case) -> Protocol | None:
    """A second run that the row may as well be of: its source ran both and does not say which."""
    if _either(origin, case) and (case.concurrency or 0) <= 64:
        return evolve(case.protocol, drafts=2, acceptance=ACCEPTANCE)
    return None


def _wait_steps(case: Case) -> float:
    """What the launch scripts of InferenceX make a prompt wait, in decoding steps.

    - SGLang on Blackwell: `--scheduler-recv-interval` 10, or 30 from 16 clients; half of it.
    - TensorRT-LLM, Llama 70B at 1k/1k below TP 8: `batch_wait_timeout_iters: 20`, to fill a batch;
      prompts that join a waiting one wait half of that.
    - TensorRT-LLM, DeepSeek-R1 with attention data parallelism: `timeout_iters: 60`, to balance
      the ranks; one that comes while another waits has its own wait after it.
    """
    model, clients = case.model.lower(), case.concurrency or 1.0
    if case.engine == "sglang" and case.device.startswith(("b200", "b300", "gb")):
        return 15.0 if clients >= 16 else 5.0
    if case.engine != "trtllm":
        return 0.0
    if "llama" in model and case.plan.tensor < 8 and case.prompt_tokens == case.output_tokens:
        joined = 20.0 * clients / case.output_tokens
        return 20.0 * (1.0 + joined / 2.0) / (1.0 + joined)
    if "deepseek" in model and case.plan.data > 1:
        return 120.0
    return 0.0
