"""The search: splits of prompts and decoding, pipelines, and what it says of them."""

from __future__ import annotations

import re

import pytest

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator, load_fleet
from isoflop.models import load_model
from isoflop.plans import Formats, Plan
from isoflop.serving.candidates import plans
from isoflop.serving.confirm import LESS_STRAIN
from isoflop.serving.curve import Candidate
from isoflop.serving.disaggregated import simulate_split
from isoflop.serving.launch import commands
from isoflop.serving.search import advise
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.slo import parse_slo
from isoflop.serving.traffic.generate import Lengths, open_loop


def found(slo: str, rate: float = 3.0):
    trace = open_loop(requests=600, requests_per_s=rate, prompt=Lengths(median=4000),
                      output=Lengths(median=200))  # fmt: skip
    return advise(load_model("llama-3.1-70b"), [load_fleet("8xh100-sxm")], trace, parse_slo(slo),
                  load_engine("vllm"), weights=["fp8"], caches=["fp8"])  # fmt: skip


def test_a_split_keeps_what_long_prompts_break():
    """Prompts of 4,000 tokens stall decoding beside them; on instances of their own they do not."""
    advice = found("ttft<2s@p99,tpot<20ms@p99")
    assert advice.best is not None
    assert advice.best.candidate.prefills > 0
    together = [f for f in advice.finalists if not f.candidate.prefills]
    assert not any(f.kept for f in together)
    best = advice.best.candidate
    trace = open_loop(requests=600, requests_per_s=3.0, prompt=Lengths(median=4000),
                      output=Lengths(median=200))  # fmt: skip
    again = simulate_split(best.server(), trace, prefills=best.prefills, decodes=best.decodes)
    assert all(p.kept(again.summary) for p in advice.promises)


def test_one_pool_where_one_is_enough():
    advice = found("ttft<10s@p99,tpot<200ms@p99", rate=1.0)
    assert advice.best is not None
    assert advice.best.candidate.prefills == 0
    assert any(f.candidate.prefills for f in advice.finalists), "a split is shown beside it"


def test_split_launch_lines_name_both_pools_and_what_stands_in_front():
    advice = found("ttft<3s@p99,tpot<25ms@p99")
    assert advice.best is not None
    best = advice.best.candidate
    lines = commands(best, 8000)
    assert all(len(v.splitlines()) == 3 for v in lines.values())
    prefill, decode, proxy = lines["vLLM"].splitlines()
    assert "kv_connector" in prefill
    side = re.compile(r"VLLM_NIXL_SIDE_CHANNEL_PORT=(\d+)")
    assert side.search(prefill).group(1) != side.search(decode).group(1)  # type: ignore[union-attr]
    assert proxy.count("localhost") == best.prefills + best.decodes
    prefill, decode, router = lines["SGLang"].splitlines()
    assert "--disaggregation-mode prefill" in prefill
    assert "--disaggregation-mode decode" in decode
    assert "--pd-disaggregation" in router
    assert router.count("--prefill http") == best.prefills
    assert router.count("--decode http") == best.decodes
    context, generation, front = lines["TensorRT-LLM"].splitlines()
    assert "disable_overlap_scheduler" in context
    assert "disable_overlap_scheduler" not in generation
    assert "cache_transceiver_config" in generation
    assert f"num_instances: {best.decodes}" in front


def test_options_of_tensorrt_llm_are_yaml():
    """What stands behind the command line is the options file, line by line."""
    advice = found("ttft<10s@p99,tpot<200ms@p99", rate=1.0)
    assert advice.best is not None
    line = commands(advice.best.candidate, 8000)["TensorRT-LLM"]
    options = line.split("  # ")[1].split("; ")
    assert "enable_chunked_prefill: true" in options  # off unless asked for
    assert any(o.startswith("kv_cache_config: {free_gpu_memory_fraction: 0.9") for o in options)


def test_sglang_degrees_have_their_whole_names():
    """`--pp` begins `--pp-size` and `--pp-max-micro-batch-size` alike."""
    plan = Plan(tensor=2, pipeline=2, data=2, expert=4,
                formats=Formats.for_model(load_model("mixtral-8x7b")))  # fmt: skip
    step = StepModel(model=load_model("mixtral-8x7b"), plan=plan,
                     device=load_accelerator("h100-sxm"))  # fmt: skip
    made = Candidate(step=step, max_sequences=64, max_tokens=8192, share=1, replicas=1, batch=8.0,
                     tpot_s=0.01, ttft_s=0.1, usd_per_hour=1.0)  # fmt: skip
    line = commands(made, 4096)["SGLang"]
    degrees = dict(re.findall(r"--(\w+)-size (\d+)", line.replace("chunked-prefill", "chunk")))
    assert {k: int(degrees[k]) for k in ("tp", "dp", "ep", "pp")} == {
        "tp": 4, "dp": 2, "ep": 4, "pp": 2
    }  # fmt: skip


@pytest.mark.parametrize(("joined", "deepest"), [(8, 1), (1, 8)])
def test_pipelines_where_fast_links_end(joined, deepest):
    model = load_model("llama-3.1-8b")
    made = list(plans(model, 8, 8, [Formats()], joined))
    assert max(getattr(p, "pipeline", 1) for p in made) == deepest


def test_a_brief_report_leaves_out_only_what_the_full_model_prices():
    step = StepModel(
        model=load_model("llama-3.1-8b"), plan=Plan(), device=load_accelerator("h100-sxm")
    )
    server = Server(step=step, max_sequences=32)
    trace = open_loop(requests=60, requests_per_s=5, prompt=Lengths(median=300),
                        output=Lengths(median=50), seed=0)  # fmt: skip
    missing = {"watts_per_device", "joules_per_output_token", "bound", "allowed_clock",
               "co2_grams_per_million_output_tokens", "co2_grams_per_kwh"}  # fmt: skip
    for run in (simulate, lambda *a, **k: simulate_split(*a, prefills=1, decodes=1, **k)):
        full, brief = run(server, trace).summary, run(server, trace, brief=True).summary
        assert list(full) == list(brief)
        assert {k for k, v in brief.items() if v is None} == missing
        for name in set(full) - missing - {"wall_s", "simulated_requests_per_wall_s"}:
            assert full[name] == brief[name]
        assert sum(full["bound"].values()) == pytest.approx(1.0)


def test_at_one_price_what_keeps_most_room_is_chosen():
    """Two cards without fast links: experts over both tie in price, and data ranks wait longer."""
    trace = open_loop(requests=1200, requests_per_s=10.0, prompt=Lengths(median=2000),
                      output=Lengths(median=300))  # fmt: skip
    device, count, cluster = load_fleet("4xrtx-5090")
    promises = parse_slo("ttft<2s@p95,tpot<60ms@p95")
    found = advise(load_model("qwen3-30b-a3b"), [(device, count, cluster)], trace, promises,
                   load_engine("vllm"))  # fmt: skip
    kept = [f for f in found.finalists if f.kept and not f.candidate.prefills]
    equal = [f for f in kept if f.candidate.usd_per_hour == found.best.candidate.usd_per_hour]
    assert len(equal) > 1
    assert found.best is not None
    assert found.best.strain == min(f.strain for f in equal if not f.lost)
    assert all(f.strain >= LESS_STRAIN * found.best.screened for f in equal if f.lost)
    assert found.best.strain == max(
        p.value_s(found.best.report.summary) / p.limit_s for p in promises
    )
