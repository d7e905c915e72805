"""How a source's load generator ran, and what its launch scripts told the engine.

A closed-loop benchmark is a finite run: its lengths, its number of rounds and a few scheduler
options decide the mean time to the first token as much as the device does. Only what a source
publishes is here; a run of which nothing is known gets the defaults.
"""

from __future__ import annotations

import re

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
    return Protocol(rounds=10.0, shortest=0.8, wait_steps=_wait_steps(case))


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
