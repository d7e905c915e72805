"""Published measurements: a real vLLM run, and cache capacities."""

from __future__ import annotations

import json

import numpy as np
import pytest
from attrs import evolve
from benchmarks.serving_accuracy import PROMISES, advised, by_batch, knee, memory_gap

from isoflop.cost.engines import engine_text, load_engine, named_engine
from isoflop.cost.features import Batch
from isoflop.cost.step import StepModel
from isoflop.errors import InvalidInput, IsoflopError
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Formats, Plan
from isoflop.serving.demo import demo_run
from isoflop.serving.measure import calibrate, engine_with, read_latencies, retimed
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
    path = shared(f"{RUN}/requests.jsonl")
    found = calibrate(run_server(), read_trace(path), read_latencies(path))
    assert found.fitted == found.checked == 150
    assert found.after <= 0.03
    assert found.after < found.before < found.baseline
    assert 0.7 < found.decode < 1.3
    assert found.step_s >= 0
    assert found.sequence_s >= 0


def made(engine: str = "vllm") -> Server:
    step = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(), engine=load_engine(engine),
                     device=load_accelerator("h100-sxm"))  # fmt: skip
    return Server(step=step, max_sequences=64, max_tokens=1024, max_context=8192)


def test_tables_follow_an_engine_without_tabulating():
    server = made()
    engine = engine_with(server.step, 1.2, 0.9, 3e-4, 2e-5)
    again = evolve(server, step=evolve(server.step, engine=engine)).times.tables
    quick = retimed(server.times, engine).tables
    for name in again._fields:
        np.testing.assert_allclose(getattr(quick, name), getattr(again, name), rtol=1e-9)


def test_a_measured_engine_is_written_and_read_back(tmp_path):
    server = made()
    trace, latency = demo_run(server, requests=120)
    found = calibrate(server, trace, latency, "demo")
    assert found.after < 0.04 < found.before
    path = tmp_path / "mine.toml"
    path.write_text(engine_text(found.engine))
    engine = named_engine(str(path))
    assert engine.kernel_scale == pytest.approx(found.engine.kernel_scale, rel=1e-5)
    assert (engine.step_s, engine.sequence_s, engine.prefill_scale) == pytest.approx(
        (found.engine.step_s, found.engine.sequence_s, found.engine.prefill_scale), rel=1e-5
    )
    measured = evolve(server, step=evolve(server.step, engine=engine))
    after = simulate(measured, trace).collected.e2e_s
    assert np.mean(np.abs(after / latency - 1.0)) < 0.04
    # Its own spread holds for what it was measured on, the kernels' and the engine's elsewhere.
    batch = Batch(decode_sequences=16.0, decode_context=1024.0)
    own = measured.step.interval(batch)
    elsewhere = evolve(measured.step, device=load_accelerator("h200")).interval(batch)
    assert own.high_s / own.seconds < 1.1 < elsewhere.high_s / elsewhere.seconds


@pytest.mark.parametrize("name", ["vlm", "missing.toml"])
def test_an_engine_nobody_measured_is_refused(name):
    with pytest.raises(IsoflopError):
        named_engine(name)


@pytest.mark.parametrize(
    ("end", "says"), [(5.0, "Request 2"), ("soon", "Request 2"), (float("nan"), "Request 2"),
                      (None, "Request 2")],
)  # fmt: skip
def test_a_log_without_latencies_is_refused(tmp_path, end, says):
    rows = [{"arrival_time": t, "queued_ts": t, "last_token_ts": t + 1} for t in (4.0, 5.0)]
    rows[1]["last_token_ts"] = end
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows))
    with pytest.raises(InvalidInput, match=says):
        read_latencies(path)
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(InvalidInput, match="not JSON"):
        read_latencies(path)


def test_mind_the_memory_gap_by_batch():
    """Two models whose runs fitted nothing: time per token, throughput, knee, the advised batch."""
    path = shared("serving/measurements.csv")
    rows = memory_gap(path)
    curves = by_batch(rows, path)
    assert set(curves) == {"Llama-2-7B", "OPT-1.3B", "OPT-2.7B"}
    for model in ("Llama-2-7B", "OPT-2.7B"):
        for metric, limit in (("tpot_s", 0.09), ("output_tokens_per_s", 0.13)):
            measured, predicted = np.array([
                (p.case.measured, p.predicted) for p in rows
                if (p.case.model, p.case.metric) == (model, metric)
            ]).T  # fmt: skip
            assert np.mean(np.abs(predicted / measured - 1.0)) < limit
    for curve in curves.values():
        rate, tpot = curve["output_tokens_per_s"], curve["tpot_s"]
        batches = sorted(rate)
        # One batch of the measured ones apart at most, two for the knee of a flat curve.
        place = [batches.index(knee(rate, which)) for which in (0, 1)]
        assert abs(place[0] - place[1]) <= 2
        for factor in PROMISES.values():
            place = [batches.index(advised(rate, tpot, factor * tpot[32][0], w)) for w in (0, 1)]
            assert abs(place[0] - place[1]) <= 1
