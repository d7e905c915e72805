"""Language models on CPUs: weight bytes bound decoding, the widest unit bounds prompts."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.cost.engines import load_engine
from isoflop.cost.features import Batch
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.traffic import generate as g

CPUS = ("epyc-9654", "xeon-8480plus", "grace")
WEIGHTS_BYTES = 2 * 7.505e9
"""Llama 3.1 8B in bf16 without its embedding, of which a token reads one row."""


def step(device: str) -> StepModel:
    return StepModel(model=load_model("llama-3.1-8b"), plan=Plan(),
                     device=load_accelerator(device), engine=load_engine("vllm"))  # fmt: skip


@pytest.mark.parametrize("name", CPUS)
def test_one_sequence_decodes_at_bandwidth_over_weight_bytes(name):
    made = step(name)
    seconds = float(made.step_s(Batch(decode_sequences=1.0, decode_context=128.0)))
    floor = WEIGHTS_BYTES / made.device.memory.bandwidth_bytes_per_s
    assert floor < seconds < 1.45 * floor


@pytest.mark.parametrize("name", CPUS)
def test_long_prompts_run_at_the_16_bit_rate(name):
    made = step(name)
    tokens = 4096.0
    seconds = float(made.step_s(Batch(prefill_sequences=1.0, prefill_tokens=tokens)))
    ideal = 2 * 7.0e9 * tokens / made.device.rates.dense_flop_per_s["bf16"]
    assert ideal < seconds < 4.0 * ideal


def test_matrix_units_change_the_prompt_and_not_the_token():
    xeon, epyc = step("xeon-8480plus"), step("epyc-9654")
    prompt = Batch(prefill_sequences=1.0, prefill_tokens=2048.0)
    token = Batch(decode_sequences=1.0, decode_context=2048.0)
    # Sixteen times the rate by AMX, where activations begin to bound; two thirds of the bandwidth.
    assert float(epyc.step_s(prompt)) > 4 * float(xeon.step_s(prompt))
    assert float(epyc.step_s(token)) < float(xeon.step_s(token))


@pytest.mark.parametrize("name", [*CPUS, "m4-max"])  # Apple's GPUs have no matrix units either
def test_decoding_attention_is_not_padded_to_a_gpus_tile(name):
    made = step(name)
    # Caches of 64 x 2,048 tokens, 128 KiB each, at the memory's bandwidth; query heads in
    # groups of four do a few operations a byte, far below what the units can do.
    with_cache, without = (
        float(made.step_s(Batch(decode_sequences=64.0, decode_context=c))) for c in (2048.0, 1.0)
    )
    floor = 64 * 2048 * 131072 / made.device.memory.bandwidth_bytes_per_s
    assert floor < with_cache - without < 2.5 * floor


def test_serving_on_a_cpu_end_to_end():
    server = Server(step=step("xeon-8480plus"), max_sequences=16, max_tokens=2048,
                    max_context=4096)  # fmt: skip
    trace = g.open_loop(requests=60, requests_per_s=0.2, prompt=g.Lengths(median=256),
                        output=g.Lengths(median=64))  # fmt: skip
    report = simulate(server, trace)
    assert np.all(np.isfinite(report.collected.finish_s))
    floor = WEIGHTS_BYTES / server.step.device.memory.bandwidth_bytes_per_s
    assert floor < report.summary["tpot_s"]["p50"] < 1.6 * floor
    assert report.summary["bound"]["memory"] > 0.7
