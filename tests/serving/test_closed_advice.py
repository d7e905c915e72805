"""Advice for closed loops and conversations: closed form, search and capacity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator, load_fleet
from isoflop.models import load_model
from isoflop.plans import Formats, Plan
from isoflop.serving import candidates, curve
from isoflop.serving.capacity import capacity
from isoflop.serving.search import advise, load_of
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.slo import parse_slo
from isoflop.serving.traffic.generate import Lengths, closed_loop, open_loop, sessions

MODEL, ENGINE = load_model("llama-3.1-8b"), load_engine("vllm")
FP8 = Formats.for_model(MODEL, "fp8", kv="fp8")
STEP = StepModel(model=MODEL, plan=Plan(formats=FP8), device=load_accelerator("h100-sxm"),
                 engine=ENGINE)  # fmt: skip


def loop(clients: int = 24, rounds: int = 12, think: float = 0.5, prompt: int = 1500):
    output = Lengths(median=120, p90=240)
    return closed_loop(clients=clients, requests=clients * rounds, think_s=think,
                       prompt=Lengths(median=prompt), output=output)  # fmt: skip


def kept(server: Server, trace, replicas: int, promises) -> bool:
    """Whether the fullest of `replicas` servers keeps the promises for the clients it holds."""
    mine = np.nonzero((np.arange(len(trace)) % trace.clients) % replicas == 0)[0]
    place = {int(i): j for j, i in enumerate(mine)}
    follows = [place.get(int(trace.follows[i]), -1) for i in mine]
    part = type(trace)(
        name="part", arrival_s=trace.arrival_s[mine], prompt_tokens=trace.prompt_tokens[mine],
        output_tokens=trace.output_tokens[mine], follows=np.array(follows),
        think_s=trace.think_s[mine],
    )  # fmt: skip
    summary = simulate(server, part).summary
    return all(p.kept(summary) for p in promises)


@pytest.mark.parametrize("slo", ["ttft<700ms@p95,tpot<20ms@p99", "tpot<7ms@p95,ttft<1s@p95",
                                 "tpot<5.5ms@p95,e2e<6s@p99", "ttft<150ms@p95,tpot<8ms@p90",
                                 "tpot<5ms@p90,ttft<150ms@p90"])  # fmt: skip
def test_nothing_cheaper_keeps_the_promise(slo, monkeypatch):
    """Every configuration of a small space, simulated on every number of replicas."""
    monkeypatch.setattr(candidates, "SEQUENCES", (8, 32))
    monkeypatch.setattr(candidates, "TOKENS", (8192,))
    monkeypatch.setattr(candidates, "SHARES", ())
    trace, promises = loop(), parse_slo(slo)
    fleet = load_fleet("4xh100-sxm")
    found = advise(MODEL, [fleet], trace, promises, ENGINE, weights=["fp8"], caches=["fp8"])
    costs = []
    for tensor in (1, 2, 4):
        step = StepModel(model=MODEL, plan=Plan(tensor=tensor, formats=FP8), device=fleet[0],
                         cluster=fleet[2], engine=ENGINE)  # fmt: skip
        for sequences in (8, 32):
            server = Server(step=step, max_sequences=sequences, max_tokens=8192)
            costs += [tensor * n for n in range(1, 4 // tensor + 1)
                      if kept(server, trace, n, promises)]  # fmt: skip
    assert (found.best.candidate.devices if found.best else None) == min(costs, default=None)


def test_the_closed_form_settles_where_the_simulation_does():
    """Rate, batch and time per token of a long loop, whose start weighs little."""
    for clients, think, limit in ((8, 0.0, 64), (48, 1.0, 64), (48, 0.0, 16)):
        trace = loop(clients, 30, think)
        load = load_of(trace)
        found = curve.Curve.of(STEP, load)
        _, tpot, _, rate = found.at_clients(clients, limit, 1, found.decode_s)
        report = simulate(Server(step=STEP, max_sequences=limit), trace)
        # Between the start, when all ask at once, and the end, when they leave one by one.
        ends = np.sort(report.collected.finish_s)
        first, last = len(ends) // 5, 4 * len(ends) // 5
        assert rate == pytest.approx((last - first) / (ends[last] - ends[first]), rel=0.1)
        assert tpot == pytest.approx(report.summary["tpot_s"]["mean"], rel=0.15)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 128), st.floats(0, 30))
def test_clients_are_rate_times_cycle(clients, limit, think):
    """Little's law over the whole loop, thinking included, on either side of the batch limit."""
    load = curve.Load(requests_per_s=0, prompt=900, output=150, context=975, longest=1100,
                      clients=clients, think_s=think)  # fmt: skip
    found = curve.Curve.of(STEP, load)
    batch, tpot, ttft, rate = found.at_clients(clients, limit, 1, found.decode_s)
    assert batch <= limit * (1 + 1e-9)
    assert rate * (ttft + 149 * tpot + think) == pytest.approx(clients, rel=1e-6)
    more = found.at_clients(clients + 1, limit, 1, found.decode_s)
    assert more[3] >= rate * (1 - 1e-9)
    assert more[2] + 149 * more[1] >= (ttft + 149 * tpot) * (1 - 1e-9)


def test_one_client_waits_for_nobody():
    load = curve.Load(requests_per_s=0, prompt=900, output=150, context=975, longest=1100,
                      clients=1)  # fmt: skip
    found = curve.Curve.of(STEP, load)
    _, tpot, ttft, _ = found.at_clients(1, 64, 1, found.decode_s)
    assert tpot == pytest.approx(found.decode_s[0])
    assert ttft == pytest.approx(found.prompt_s + tpot + ENGINE.arrival_s)


def test_no_number_of_clients_is_ruled_out_by_rate():
    """The fleet carries any population slowly; only a promise on latency rules a plan out."""
    advice = advise(MODEL, [load_fleet("1xh100-sxm")], loop(200, 3, 0.0), parse_slo("tpot<1s@p99"),
                    ENGINE, weights=["fp8"], caches=["fp8"])  # fmt: skip
    assert advice.best is not None
    assert "capacity" not in advice.reasons
    assert advice.as_dict()["clients"] == 200
    row = advice.best.row()
    summary = advice.best.report.summary
    assert advice.requests_per_s == summary["requests_per_s"]
    usd_per_s = row["usd_per_hour"] / 3600
    tokens = summary["throughput_output_tokens_per_s"]
    assert row["usd_per_million_output_tokens"] == pytest.approx(usd_per_s / tokens * 1e6, rel=1e-6)


def test_chains_are_whole_clients():
    trace = loop(7, 5)
    part = trace.chains(trace.roots[::3])
    assert part.clients == 3
    assert len(part) == 15
    of = {0: 0, 1: 3, 2: 6}
    for j in range(15):
        i = of[j % 3] + 7 * (j // 3)
        assert part.prompt_tokens[j] == trace.prompt_tokens[i]
        assert part.output_tokens[j] == trace.output_tokens[i]
        assert part.follows[j] == (j - 3 if j >= 3 else -1)


def test_chains_of_conversations_share_prefixes_as_before():
    trace = sessions(sessions=9, sessions_per_s=1, turns=3, prompt=Lengths(median=100),
                     output=Lengths(median=40))  # fmt: skip
    part = trace.chains(trace.roots[::2])
    assert len(part) == 15
    assert part.infinite_cache_hit_ratio() == pytest.approx(trace.infinite_cache_hit_ratio())
    assert set(part.user) == set(range(0, 9, 2))
    assert trace.clients == 0
    assert open_loop(requests=5, requests_per_s=1, prompt=Lengths(median=9),
                     output=Lengths(median=9)).clients == 0  # fmt: skip


def test_capacity_of_a_closed_loop_is_in_clients():
    server, promises = Server(step=STEP, max_sequences=64), parse_slo("tpot<8ms@p95")
    trace = loop(4, 12)
    found = capacity(server, trace, promises)
    assert found.clients is not None

    def keeps(clients: int) -> bool:
        s = simulate(server, trace.with_clients(clients)).summary
        return all(p.kept(s) for p in promises)

    assert keeps(found.clients)
    assert not keeps(math.ceil(1.1 * found.clients) + 1)
    assert found.replicas(3 * found.clients + 1) == 4


def test_conversations_are_advised_by_the_rate_of_their_turns():
    trace = sessions(sessions=120, sessions_per_s=2, turns=4, think_s=2.0,
                     prompt=Lengths(median=200), output=Lengths(median=80))  # fmt: skip
    load = load_of(trace)
    assert load.clients == 0
    assert load.requests_per_s == pytest.approx(8.0, rel=0.2)
    promises = parse_slo("ttft<400ms@p99,tpot<30ms@p95")
    advice = advise(MODEL, [load_fleet("2xh100-sxm")], trace, promises, ENGINE,
                    weights=["fp8"], caches=["fp8"])  # fmt: skip
    assert advice.best is not None
    best = advice.best.candidate
    summary = simulate(best.server(), trace, replicas=best.replicas, router="prefix-aware").summary
    assert all(p.kept(summary) for p in promises)
