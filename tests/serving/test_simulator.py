"""The jumping loop against the plain one, theory, and conservation."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.serving.loop.records import HOST_HITS, N_IDLE, PREEMPTIONS, USED
from isoflop.serving.policy import policy_names
from isoflop.serving.reference import Reference
from isoflop.serving.report import PERCENTILES, percentiles
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.steptimes import StepTimes
from isoflop.serving.traffic import Trace
from isoflop.serving.traffic import generate as g

STEP = StepModel(
    model=load_model("llama-3.1-8b"), plan=Plan(), device=load_accelerator("h100-sxm"),
    engine=load_engine("vllm"),
)  # fmt: skip
TIMES = StepTimes.build(STEP, max_sequences=64, max_tokens=2048, max_context=8192)


def server(**options) -> Server:
    made = Server(step=STEP, max_sequences=options.pop("max_sequences", 16), max_context=8192,
                  max_tokens=options.pop("max_tokens", 512), **options)  # fmt: skip
    made.__dict__["times"] = TIMES
    return made


@st.composite
def traces(draw) -> Trace:
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    rate = draw(st.sampled_from([0.5, 5.0, 50.0, 1e4]))
    prompt = rng.integers(1, draw(st.sampled_from([2, 40, 900])), n)
    extra = {}
    if draw(st.booleans()):
        sizes = prompt // 16
        groups = rng.integers(0, 3, n)
        # Requests of one group share their prefix.
        units = [int(groups[i]) * 1000 + j for i in range(n) for j in range(sizes[i])]
        extra = {
            "units": np.unique(np.array(units, int), return_inverse=True)[1].astype(np.int64),
            "unit_offsets": np.concatenate([[0], np.cumsum(sizes)]), "unit_tokens": 16,
        }  # fmt: skip
    return Trace(
        name="drawn", arrival_s=np.cumsum(rng.exponential(1 / rate, n)), prompt_tokens=prompt,
        output_tokens=rng.integers(1, draw(st.sampled_from([2, 30, 400])), n),
        user=rng.integers(0, 3, n), priority=rng.integers(0, 3, n).astype(float), **extra,
    )  # fmt: skip


@pytest.mark.parametrize("policy", policy_names())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    trace=traces(), blocks=st.sampled_from([130, 400, 20_000]),
    preemption=st.sampled_from(["recompute", "swap"]), caching=st.booleans(),
    host=st.sampled_from([0, 7, 10_000]),
)  # fmt: skip
def test_jumping_agrees_with_plain_loop(policy, trace, blocks, preemption, caching, host):
    one = server(policy=policy, cache_blocks=blocks, preemption=preemption, prefix_caching=caching,
                 host_cache_bytes=host * 16 * 131072.0)  # fmt: skip
    first, finish = Reference(one, trace).run()
    report = simulate(one, trace)
    instance = report.instances[0]
    np.testing.assert_allclose(instance.requests.first[: len(trace)], first, rtol=1e-9)
    np.testing.assert_allclose(instance.requests.finish[: len(trace)], finish, rtol=1e-9)
    assert instance.whole(USED) == 0, "pages not returned"
    assert instance.finished == len(trace)


def test_preemption_happens_in_the_comparison():
    # Otherwise the agreement above would say nothing about preemption.
    trace = g.open_loop(requests=30, requests_per_s=1e4, prompt=g.Lengths(median=100),
                        output=g.Lengths(median=300))  # fmt: skip
    report = simulate(server(cache_blocks=130), trace)
    assert report.instances[0].whole(PREEMPTIONS) > 5


def test_host_memory_keeps_what_the_device_drops():
    # Four long system prompts, more than the device's pages hold at once.
    trace = g.open_loop(requests=400, requests_per_s=4, prompt=g.Lengths(median=2100),
                        output=g.Lengths(median=20), shared_prefix=2000, prefixes=4)  # fmt: skip
    reports = [simulate(server(cache_blocks=350, host_cache_bytes=b), trace) for b in (0.0, 2e9)]
    assert reports[0].summary["host_hit_ratio"] == 0.0
    assert reports[1].summary["host_hit_ratio"] > 0.2
    assert reports[1].summary["unit_hit_ratio"] > reports[0].summary["unit_hit_ratio"] + 0.2
    assert reports[1].summary["ttft_s"]["mean"] < 0.8 * reports[0].summary["ttft_s"]["mean"]
    # Everything that came back crossed the host link.
    i = reports[1].instances[0]
    assert i.whole(HOST_HITS) > 0


def test_tokens_are_conserved():
    trace = g.open_loop(requests=200, requests_per_s=20, prompt=g.Lengths(median=300, p90=900),
                        output=g.Lengths(median=60, p90=200), shared_prefix=160)  # fmt: skip
    report = simulate(server(cache_blocks=3000), trace)
    i = report.instances[0]
    assert np.all(i.requests.done[:200] == trace.output_tokens)
    assert i.whole(USED) == 0
    # Idle units are what the prefix cache keeps; they fit.
    assert i.whole(N_IDLE) * i.limits.unit_blocks <= i.limits.blocks
    assert report.summary["prefix_hit_ratio"] > 0.2


def test_jumps_do_not_grow_with_output_length():
    short, long = (
        simulate(server(), g.open_loop(requests=50, requests_per_s=0.01, prompt=g.Lengths(
            median=100), output=g.Lengths(median=n))).instances[0].whole(16) for n in (100, 5000)
    )  # fmt: skip
    assert long < 6 * short  # 50 times the tokens, only the knots of the table more


@pytest.mark.parametrize("spread", ["constant", "exponential", "lognormal"])
def test_waiting_time_of_a_single_server_queue(spread):
    """M/D/1, M/M/1, M/G/1: W = rho / (1 - rho) x service x (1 + cv^2) / 2 (Pollaczek-Khinchine)."""
    rng = np.random.default_rng(1)
    n, rho = 60_000, 0.6
    base = server(max_sequences=1, policy="vllm")
    constant = 0.001  # seconds per step, whatever is in it
    t = base.times.tables
    flat = t._replace(
        decode=np.full_like(t.decode, constant), attention=np.zeros_like(t.attention),
        mixed=np.full_like(t.mixed, constant), aside=np.zeros_like(t.aside),
        head=np.zeros_like(t.head), prompt=np.zeros_like(t.prompt),
    )  # fmt: skip
    base.__dict__["times"] = evolve(base.times, tables=flat)
    mean = 100
    drawn = {"constant": np.full(n, float(mean)), "exponential": rng.exponential(mean, n),
             "lognormal": mean * rng.lognormal(-0.32, 0.8, n)}[spread]  # fmt: skip
    output = np.clip(np.ceil(drawn), 1, 8000).astype(int)
    service = output.mean() * constant
    arrivals = np.cumsum(rng.exponential(service / rho, n))
    trace = Trace(name="queue", arrival_s=arrivals, prompt_tokens=np.ones(n, int),
                  output_tokens=output)  # fmt: skip
    report = simulate(base, trace)
    r = report.instances[0].requests
    waited = (r.scheduled - r.arrival)[:n]
    variation = (output.std() / output.mean()) ** 2
    expected = rho / (1 - rho) * service * (1 + variation) / 2
    parts = np.array([p.mean() for p in np.array_split(waited, 30)])
    half = 2.05 * parts.std(ddof=1) / np.sqrt(30)
    # Arrivals are seen at the end of a step: half a step late on average.
    assert abs(waited.mean() - expected) < half + 2 * constant


def test_static_batch_ends_together():
    trace = Trace(name="four", arrival_s=np.zeros(4), prompt_tokens=np.full(4, 64),
                  output_tokens=np.array([5, 10, 20, 40]))  # fmt: skip
    finish = simulate(server(policy="static"), trace).instances[0].requests.finish[:4]
    assert np.ptp(finish) == 0.0


def test_fair_policy_protects_the_small_user():
    rng = np.random.default_rng(0)
    many, few = 150, 10
    arrival = np.concatenate([np.zeros(many), rng.uniform(0, 1, few)])
    order = np.argsort(arrival, kind="stable")
    user = np.concatenate([np.zeros(many, int), np.ones(few, int)])[order]
    trace = Trace(name="two users", arrival_s=arrival[order], prompt_tokens=np.full(160, 200),
                  output_tokens=np.full(160, 50), user=user)  # fmt: skip
    waits = {
        p: simulate(server(policy=p), trace).collected.ttft_s[user == 1].mean()
        for p in ("vllm", "fair")
    }
    assert waits["fair"] < 0.5 * waits["vllm"]


def test_shortest_first_lowers_the_mean():
    trace = g.open_loop(requests=200, requests_per_s=1e3, prompt=g.Lengths(median=100),
                        output=g.Lengths(median=50, p90=600, most=4000))  # fmt: skip
    mean = {p: simulate(server(policy=p), trace).summary["e2e_s"]["mean"]
            for p in ("vllm", "shortest-predicted")}  # fmt: skip
    assert mean["shortest-predicted"] < 0.85 * mean["vllm"]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.integers(1, 4))
def test_percentiles_are_those_of_numpy(values, rows):
    v = np.array([values] * rows)
    assert np.array_equal(percentiles(v), np.percentile(v, PERCENTILES, axis=-1))
    assert np.array_equal(percentiles(v[0]), np.percentile(v[0], PERCENTILES))
