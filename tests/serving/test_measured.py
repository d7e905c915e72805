"""Published measurements: a real vLLM run, and cache capacities."""

from __future__ import annotations

import json

import numpy as np
import pytest

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Formats, Plan
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.traffic import read_trace
from tests.shared_data import data as shared

RUN = "requests/RTX4090/Llama-3.1-8B/vllm"


def run_server() -> Server:
    step = StepModel(
        model=load_model("llama-3.1-8b"), plan=Plan(), device=load_accelerator("rtx-4090"),
        engine=load_engine("vllm"),
    )  # fmt: skip
    # The run's meta.json: max_num_seqs 256, max_num_batched_tokens 2048, max_model_len 32768.
    return Server(step=step, max_sequences=256, max_tokens=2048, max_context=32768)


def test_real_run_without_a_profile_of_its_device():
    path = shared(f"{RUN}/requests.jsonl")
    rows = sorted((json.loads(x) for x in path.open()), key=lambda r: r["arrival_time"])
    measured = np.array([r["last_token_ts"] - r["queued_ts"] for r in rows])
    predicted = simulate(run_server(), read_trace(path)).collected.e2e_s
    error = np.mean(np.abs(predicted / measured - 1.0))
    baseline = np.mean(np.abs(np.median(measured) / measured - 1.0))
    print(f"end-to-end latency: {error:.1%}, one constant: {baseline:.1%}")
    assert error <= 0.08
    assert error < 0.5 * baseline


@pytest.mark.parametrize(
    ("model", "device", "tokens", "version"),
    [
        ("llama-3.1-8b", "rtx-4090", 41408, 0.9),
        ("llama-2-7b", "h100-64gb", 90624, 0.9),
        ("opt-1.3b", "h100-64gb", 296416, 0.9),
        ("opt-2.7b", "h100-64gb", 169632, 0.9),
    ],
)
def test_cache_capacity_in_tokens(model, device, tokens, version):
    """vLLM logs: meta.json of the run above, and Mind the Memory Gap's repository."""
    step = StepModel(model=load_model(model), plan=Plan(formats=Formats()),
                     device=load_accelerator(device))  # fmt: skip
    server = Server(step=step, max_tokens=2048, utilization=version)
    assert server.blocks * 16 == pytest.approx(tokens, rel=0.02)


def test_four_numbers_from_half_of_the_run():
    from isoflop.serving.measure import calibrate, read_latencies

    path = shared(f"{RUN}/requests.jsonl")
    found, _ = calibrate(run_server(), read_trace(path), read_latencies(path))
    assert found.fitted == found.checked == 150
    assert found.after <= 0.03
    assert found.after < found.before < found.baseline
    assert 0.7 < found.decode < 1.3
    assert found.step_s >= 0
    assert found.sequence_s >= 0
