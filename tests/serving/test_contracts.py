"""What holds for every policy behind every router."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.serving.disaggregated import simulate_split
from isoflop.serving.loop.records import FED, ITERATIONS, STEPS, USED
from isoflop.serving.policy import policy_names
from isoflop.serving.reference_pools import run_replicas, run_split
from isoflop.serving.router import find_router, router_names
from isoflop.serving.running import Running
from isoflop.serving.simulate import simulate
from isoflop.serving.traffic import Trace
from isoflop.serving.traffic import generate as g

from .test_simulator import server


def trace(seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    n = 60
    prompt = rng.integers(1, 900, n)
    groups, sizes = rng.integers(0, 4, n), prompt // 16
    units = [int(groups[i]) * 1000 + j for i in range(n) for j in range(sizes[i])]
    return Trace(
        name="drawn", arrival_s=np.cumsum(rng.exponential(0.02, n)), prompt_tokens=prompt,
        output_tokens=rng.integers(1, 300, n), user=rng.integers(0, 3, n),
        priority=rng.integers(0, 3, n).astype(float),
        units=np.unique(np.array(units, int), return_inverse=True)[1].astype(np.int64),
        unit_offsets=np.concatenate([[0], np.cumsum(sizes)]), unit_tokens=16,
    )  # fmt: skip


@pytest.mark.parametrize("router", router_names())
@pytest.mark.parametrize("policy", policy_names())
def test_jumping_agrees_with_plain_loop_behind_routers(policy, router, monkeypatch):
    advance = Running.advance
    for seed in (0, 1):
        demand, one = trace(seed), server(policy=policy, cache_blocks=400)
        jumped = simulate(one, demand, replicas=3, router=router).collected
        with monkeypatch.context() as patched:
            patched.setattr(Running, "advance", lambda self, at=np.inf: advance(self, at, 1))
            plain = simulate(one, demand, replicas=3, router=router).collected
        np.testing.assert_allclose(jumped.ttft_s, plain.ttft_s, rtol=1e-9)
        np.testing.assert_allclose(jumped.e2e_s, plain.e2e_s, rtol=1e-9)
        assert np.all(np.isfinite(jumped.finish_s))


def following(seed: int, think: bool) -> Trace:
    """Twelve clients with prompts that share prefixes, each client one request at a time."""
    rng = np.random.default_rng(seed)
    drawn, clients = trace(seed), 12
    index = np.arange(len(drawn))
    return evolve(
        drawn, arrival_s=np.where(index < clients, np.cumsum(rng.exponential(0.01, 60)), np.inf),
        follows=np.where(index < clients, -1, index - clients),
        think_s=rng.exponential(0.3, 60) if think else None,
    )  # fmt: skip


@pytest.mark.parametrize("router", router_names())
@pytest.mark.parametrize("policy", policy_names())
def test_closed_loops_over_replicas_agree_with_the_plain_loop(policy, router):
    chosen = find_router(router)
    for seed, blocks in ((0, 400), (1, 150), (2, 20_000)):
        demand = following(seed, think=seed != 1)
        one = server(policy=policy, cache_blocks=blocks, max_sequences=(4, 16, 8)[seed])
        report = simulate(one, demand, replicas=3, router=router)
        chosen.start([None] * 3, demand)
        first, finish = run_replicas(one, demand, 3, chosen.choose)
        arrival = report.collected.arrival_s
        np.testing.assert_allclose(report.collected.finish_s, finish, rtol=1e-9)
        extra = one.step.engine.arrival_s
        np.testing.assert_allclose(report.collected.ttft_s - extra + arrival, first, rtol=1e-9)
        # A client's next request arrives when its last one has ended and it has thought.
        late = np.nonzero(demand.follows >= 0)[0]
        think = 0.0 if demand.think_s is None else demand.think_s[late]
        ended = report.collected.finish_s[demand.follows[late]]
        np.testing.assert_allclose(arrival[late], ended + think, rtol=1e-12)


def test_closed_loops_over_replicas_lose_nothing_and_jump():
    demand = g.closed_loop(clients=24, requests=240, prompt=g.Lengths(median=200, p90=600),
                           output=g.Lengths(median=200, p90=500), seed=3)  # fmt: skip
    report = simulate(server(), demand, replicas=3, router="least-loaded")
    finish, arrival = report.collected.finish_s, report.collected.arrival_s
    assert np.all(np.isfinite(finish))
    # Never more under way than there are clients, and all of them until the last requests.
    events = np.concatenate([arrival, finish])
    change = np.repeat([1, -1], 240)[np.lexsort((np.repeat([1, 0], 240), events))]
    assert np.cumsum(change).max() == 24
    for i in report.instances:
        n = i.whole(FED)
        assert np.all(i.requests.done[:n] == i.requests.output[:n])
        assert i.whole(USED) == 0, "pages not returned"
    assert sum(i.whole(FED) for i in report.instances) == 240
    jumps, steps = (sum(i.whole(k) for i in report.instances) for k in (ITERATIONS, STEPS))
    assert jumps < 0.3 * steps


def test_closed_loop_over_unequal_replicas():
    from isoflop.serving.fleet import simulate_fleet

    demand = g.closed_loop(clients=8, requests=60, prompt=g.Lengths(median=100, p90=300),
                           output=g.Lengths(median=50, p90=90))  # fmt: skip
    same = simulate_fleet([server()] * 2, demand, router="least-loaded")
    plain = simulate(server(), demand, replicas=2, router="least-loaded")
    np.testing.assert_allclose(same.collected.finish_s, plain.collected.finish_s, rtol=1e-12)
    unequal = simulate_fleet([server(), server(max_sequences=1)], demand, router="least-loaded")
    assert np.all(np.isfinite(unequal.collected.finish_s))


@pytest.mark.parametrize("policy", policy_names())
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000), prefills=st.integers(1, 3), decodes=st.integers(1, 3),
    blocks=st.sampled_from([150, 400, 20_000]), think=st.booleans(), timed=st.booleans(),
    preemption=st.sampled_from(["recompute", "swap"]),
)  # fmt: skip
def test_split_pools_agree_with_the_plain_loop(
    policy, seed, prefills, decodes, blocks, think, timed, preemption
):
    demand = trace(seed) if timed else following(seed, think)
    one = server(policy=policy, cache_blocks=blocks, preemption=preemption)
    report = simulate_split(one, demand, prefills=prefills, decodes=decodes)
    prompting = report.instances[0].server  # at the clock that its load allows
    chosen = tuple(find_router("round-robin") for _ in range(2))
    for router, count in zip(chosen, (prefills, decodes)):
        router.start([None] * count, demand)
    choose = (chosen[0].choose, chosen[1].choose)
    first, finish = run_split(prompting, one, demand, prefills, decodes, choose)
    c, extra = report.collected, one.step.engine.arrival_s
    np.testing.assert_allclose(c.finish_s, finish, rtol=1e-9)
    np.testing.assert_allclose(c.ttft_s - extra + c.arrival_s, first, rtol=1e-9)
    assert sum(i.finished for i in report.instances) == 60 + int((demand.output_tokens > 1).sum())
    assert all(i.whole(USED) == 0 for i in report.instances), "pages not returned"
    late = np.nonzero(demand.follows >= 0)[0] if demand.follows is not None else []
    if len(late):
        paused = 0.0 if demand.think_s is None else demand.think_s[late]
        ended = c.finish_s[demand.follows[late]]
        np.testing.assert_allclose(c.arrival_s[late], ended + paused, rtol=1e-12)


def test_split_pools_one_after_the_other_are_those_together():
    demand = trace(5)
    alone = evolve(demand, follows=np.full(len(demand), -1))  # nobody follows anybody
    for pools in ((1, 1), (2, 1), (1, 3)):
        apart, together = (simulate_split(server(), t, prefills=pools[0], decodes=pools[1])
                           for t in (demand, alone))  # fmt: skip
        assert apart.summary["held_clock"] == together.summary["held_clock"] == 1.0
        for name in ("finish_s", "ttft_s", "tpot_s", "e2e_s"):
            np.testing.assert_allclose(
                getattr(apart.collected, name), getattr(together.collected, name), rtol=1e-9
            )
        # Runs of steps enter with their mean step, and are cut at other places.
        for name in ("p50", "p90", "p95", "p99", "mean"):
            one, other = apart.summary["itl_s"][name], together.summary["itl_s"][name]
            assert other == pytest.approx(one, rel=0.007)
        # The cache of every request is waited for once, on the way between the pools.
        gaps = sum(i.state.histogram.sum() for i in apart.instances)
        assert gaps == demand.output_tokens.sum() - (demand.output_tokens == 1).sum()
