"""Two pools: unlike instances, routers, failures and drains, against the plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.plans import Formats
from isoflop.serving.disaggregated import simulate_split
from isoflop.serving.fleet import simulate_fleet
from isoflop.serving.loop.records import FED, LOG_COLUMNS, N_LOG, PREEMPTIONS, USED
from isoflop.serving.outages import Outage, parse_outages
from isoflop.serving.policy import policy_names
from isoflop.serving.reference_pools import run_replicas, run_split
from isoflop.serving.router import find_router, router_names
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.split import SplitRun
from isoflop.serving.steptimes import StepTimes
from isoflop.serving.traffic import Trace
from isoflop.serving.traffic import generate as g
from isoflop.serving.transfer import transfer_s

from .test_contracts import following, trace
from .test_simulator import server
from .test_transfer import step

L40S = step("l40s")
SLOW = StepTimes.build(L40S, max_sequences=64, max_tokens=2048, max_context=8192)


def slow(**options) -> Server:
    """The same limits on a device that is about four times as slow."""
    made = Server(step=L40S, max_sequences=16, max_context=8192, max_tokens=512, **options)
    made.__dict__["times"] = SLOW
    return made


def started(names, counts, demand):
    routers = [find_router(name, stream) for stream, name in enumerate(names)]
    for router, count in zip(routers, counts):
        router.start([None] * count, demand)
    return tuple(r.choose for r in routers)


def agrees(report, reference, extra):
    c, (first, finish) = report.collected, reference
    np.testing.assert_allclose(c.finish_s, finish, rtol=1e-9)
    np.testing.assert_allclose(c.ttft_s - extra + c.arrival_s, first, rtol=1e-9)


outages_of = st.lists(
    st.tuples(st.integers(0, 9), st.floats(0.05, 6.0), st.sampled_from([0.3, 2.0]),
              st.sampled_from(["fail", "drain"])),
    max_size=3, unique_by=lambda o: o[0],
)  # fmt: skip


def drawn(found, instances: int) -> list[Outage]:
    """At most one outage per instance."""
    kept = {number % instances: (start, length, kind) for number, start, length, kind in found}
    return [Outage(replica=j, start_s=a, end_s=a + b, kind=kind)
            for j, (a, b, kind) in kept.items()]  # fmt: skip


@pytest.mark.parametrize("policy", policy_names())
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000), prefills=st.integers(1, 3), decodes=st.integers(1, 3),
    blocks=st.sampled_from([150, 400, 20_000]), timed=st.booleans(), unlike=st.booleans(),
    preemption=st.sampled_from(["recompute", "swap"]), found=outages_of,
    routers=st.tuples(st.sampled_from(router_names()), st.sampled_from(router_names())),
)  # fmt: skip
def test_split_pools_agree_with_the_plain_loop_whatever_fails(
    policy, seed, prefills, decodes, blocks, timed, unlike, preemption, found, routers
):
    demand = trace(seed) if timed else following(seed, think=seed % 2 == 0)
    one = server(policy=policy, cache_blocks=blocks, preemption=preemption)
    other = slow(policy=policy, cache_blocks=blocks, preemption=preemption) if unlike else one
    outages = drawn(found, prefills + decodes)
    report = simulate_split(one, demand, prefills=prefills, decodes=decodes, prefill=other,
                            routers=routers, outages=outages)  # fmt: skip
    prompting = report.instances[0].server  # at the clock that its load allows
    choose = started(routers, (prefills, decodes), demand)
    reference = run_split(prompting, one, demand, prefills, decodes, choose, outages)
    agrees(report, reference, one.step.engine.arrival_s)
    c = report.collected
    assert np.all(c.finish_s >= c.ttft_s + c.arrival_s - one.step.engine.arrival_s - 1e-9)
    alive = report.instances[: prefills + decodes]
    assert all(i.whole(USED) == 0 for i in alive), "pages not returned"
    assert all(i.finished == i.whole(FED) for i in alive)
    if all(o.kind == "drain" for o in outages):
        moved = int((demand.output_tokens > 1).sum())
        assert sum(i.finished for i in alive) == len(demand) + moved
        assert report.summary.get("lost_tokens", 0.0) == 0.0


@pytest.mark.parametrize("policy", policy_names())
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), router=st.sampled_from(router_names()), timed=st.booleans(),
       blocks=st.sampled_from([150, 400, 20_000]), found=outages_of)  # fmt: skip
def test_replicas_agree_with_the_plain_loop_whatever_fails(policy, seed, router, timed, blocks,
                                                           found):  # fmt: skip
    demand = trace(seed) if timed else following(seed, think=seed % 2 == 0)
    one, outages = server(policy=policy, cache_blocks=blocks), drawn(found, 3)
    report = simulate_fleet([one] * 3, demand, router=router, outages=outages)
    choose = started([router], [3], demand)[0]
    agrees(report, run_replicas(one, demand, 3, choose, outages), one.step.engine.arrival_s)


@pytest.mark.parametrize("router", router_names())
def test_one_pool_after_the_other_is_both_together_behind_every_router(router):
    demand = trace(3)
    alone = evolve(demand, follows=np.full(len(demand), -1))  # nobody follows anybody
    one = server(cache_blocks=400)
    apart, together = (
        simulate_split(one, t, prefills=2, decodes=3, prefill=slow(), routers=(router, router))
        for t in (demand, alone)
    )
    assert apart.summary["held_clock"] == together.summary["held_clock"] == 1.0
    for name in ("finish_s", "ttft_s", "tpot_s", "e2e_s"):
        np.testing.assert_allclose(
            getattr(apart.collected, name), getattr(together.collected, name), rtol=1e-9
        )


def one_request(prompt=3000, output=50):
    """One request, and a small one long after it: the pools are idle, at full clocks."""
    return Trace(name="one", arrival_s=np.array([0.0, 1000.0]),
                 prompt_tokens=np.array([prompt, 10]),
                 output_tokens=np.array([output, 1]))  # fmt: skip


def test_unlike_pools_are_the_prompt_of_the_one_and_the_decoding_of_the_other():
    demand = one_request()
    sent = float(transfer_s(L40S, np.array(3000), server().step))
    back = float(transfer_s(server().step, np.array(3000), L40S))
    assert sent == back  # the slower end of the two
    ends = {}
    for name, one in (("slow", slow()), ("fast", server())):
        c = simulate(one, demand).collected
        ends[name] = float(c.ttft_s[0]), float(c.e2e_s[0] - c.ttft_s[0])
    for prompting, decoding in (("slow", "fast"), ("fast", "slow")):
        each = {"slow": slow(), "fast": server()}
        report = simulate_split(each[decoding], demand, prefills=1, decodes=1,
                                prefill=each[prompting])  # fmt: skip
        c = report.collected
        extra = each[prompting].step.engine.arrival_s
        assert extra == each[decoding].step.engine.arrival_s
        assert c.ttft_s[0] == pytest.approx(ends[prompting][0], rel=1e-9)
        assert c.e2e_s[0] - c.ttft_s[0] == pytest.approx(ends[decoding][1] + sent, rel=1e-9)
        assert report.summary["transfer_s"] == pytest.approx(sent)
        first, second = report.summary["pools"]
        assert first["device"] == each[prompting].step.device.id
        assert second["device"] == each[decoding].step.device.id
        assert set(report.summary["device"].split(" + ")) == {"h100-sxm", "l40s"}


def test_devices_and_price_count_both_pools():
    two = Server(step=step(tensor=2), max_context=8192)
    report = simulate_split(server(), trace(0), prefills=3, decodes=2, prefill=two)
    assert report.summary["devices"] == 3 * 2 + 2
    assert report.summary["split"] == {"prefill": 3, "decode": 2}
    assert "tp2" in report.summary["plan"]
    hourly = server().step.device.price.on_demand_usd_per_hour * 8
    spent = hourly * report.summary["duration_s"] / 3600.0
    made = float(trace(0).output_tokens.sum())
    assert report.summary["usd_per_million_output_tokens"] == pytest.approx(spent / made * 1e6)


def test_a_decode_failure_keeps_the_tokens_and_computes_their_cache_again():
    demand = one_request(output=400)
    calm = simulate_split(server(), demand, prefills=1, decodes=2).collected
    first, end = float(calm.arrival_s[0] + calm.ttft_s[0]), float(calm.finish_s[0])
    at = 0.5 * (first + end)
    outage = Outage(replica=1, start_s=at, end_s=at + 1.0, kind="fail")
    run = SplitRun(prompting=server(), decoding=server(), trace=demand, prefills=1, decodes=2,
                   routers=("round-robin", "round-robin"), outages=[outage], events=0)  # fmt: skip
    run.run()
    c = run.collected()
    assert c.ttft_s[0] == calm.ttft_s[0]
    legs = [(int(x.running.requests.prompt[k]), int(x.running.requests.output[k]))
            for x in run.decode.lives for k in range(len(x.requests))]  # fmt: skip
    (long, rest), whole = sorted(legs, reverse=True)
    assert whole == (3000, 400)
    assert long + rest == 3400
    made = long - 3000
    assert 150 < made < 250  # half of the time, about half of the tokens
    assert run.lost_tokens == 3000 + made - 1
    # It loses its prompt's time and transfer once more, not its tokens: the one under way is lost,
    # and one comes out of the prompt.
    again = simulate(server(), one_request(prompt=long, output=1)).collected.ttft_s[0]
    again += float(transfer_s(server().step, np.array(long))) - server().step.engine.arrival_s
    late = float(c.finish_s[0]) - end
    assert abs(late - again) < 1.1 * (end - first) / 399
    assert late < 0.5 * (at - first)


def test_a_prefill_failure_loses_the_cache_that_is_being_sent():
    wide = slow(cache_blocks=4000)
    demand, sent = one_request(prompt=6000), float(transfer_s(L40S, np.array(6000), L40S))
    calm = simulate_split(wide, demand, prefills=2, decodes=1).collected
    assert sent > 0.02
    first = float(calm.arrival_s[0] + calm.ttft_s[0] - wide.step.engine.arrival_s)

    def failing(at: float):
        outage = Outage(replica=0, start_s=at, end_s=at + 1.0, kind="fail")
        return simulate_split(wide, demand, prefills=2, decodes=1, outages=[outage])

    for at, lost in ((first - 1e-4, 6000), (first + 0.5 * sent, 6000), (first + 1.01 * sent, 0)):
        report = failing(at)
        c = report.collected
        assert report.summary["rerouted_requests"] == (lost > 0)
        assert report.summary["lost_tokens"] == pytest.approx(lost, abs=512 if at < first else 0)
        if at >= first:
            assert c.ttft_s[0] == calm.ttft_s[0]
        late = float(c.finish_s[0] - calm.finish_s[0])
        # The prompt again, from the failure on; a second token comes out of it, not of decoding.
        saved = 0.0 if at < first else 0.03
        assert at - saved <= late + 1e-9 <= at + 2e-9 if lost else abs(late) < 1e-9


def test_drained_instances_end_what_they_have_and_take_nothing():
    demand = trace(1)
    for j in range(4):
        outage = Outage(replica=j, start_s=0.4, end_s=50.0, kind="drain")
        report = simulate_split(server(), demand, prefills=2, decodes=2, outages=[outage])
        calm = simulate_split(server(), demand, prefills=2, decodes=2)
        out = report.instances[j].requests.arrival[: report.instances[j].whole(FED)]
        assert 0 < len(out) < calm.instances[j].whole(FED)
        assert np.all(out < 0.4)
        assert report.summary["rerouted_requests"] == report.summary["lost_tokens"] == 0
        assert np.all(np.isfinite(report.collected.finish_s))


@pytest.mark.parametrize("replica", [0, 1])
def test_everything_waits_for_the_only_instance_of_a_pool(replica):
    outage = Outage(replica=replica, start_s=0.5, end_s=7.0, kind="fail")
    report = simulate_split(server(), trace(2), prefills=1, decodes=1, outages=[outage])
    c = report.collected
    first = c.arrival_s + c.ttft_s - server().step.engine.arrival_s
    held = first if replica == 0 else c.finish_s[trace(2).output_tokens > 1]
    assert not np.any((held > 0.5) & (held < 7.0))
    assert np.all(np.isfinite(c.finish_s))
    assert report.summary["available_share"] < 1.0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), found=outages_of)
def test_every_token_is_computed_once_and_every_page_returned(seed, found):
    demand, one = trace(seed), server(cache_blocks=400)
    run = SplitRun(prompting=one, decoding=one, trace=demand, prefills=2, decodes=2,
                   routers=("least-loaded", "least-loaded"), outages=drawn(found, 4),
                   events=0)  # fmt: skip
    run.run()
    whole = demand.prompt_tokens + demand.output_tokens
    for life in run.decode.lives:
        r = life.running.requests
        for row, i in enumerate(life.requests):
            assert r.prompt[row] + r.output[row] == whole[i]
            assert r.prompt[row] >= demand.prompt_tokens[i]
    # Walk each request's legs in order of time: they start where the one before broke off.
    legs = {i: [] for i in range(len(demand))}
    for pool in (run.prefill, run.decode):
        for life in pool.lives:
            r = life.running.requests
            for row, i in enumerate(life.requests):
                kept = row not in life.lost
                legs[i].append((float(r.arrival[row]), pool is run.decode, kept,
                                int(r.prompt[row])))  # fmt: skip
    again = 0
    for i, parts in legs.items():
        parts.sort()
        longest = demand.prompt_tokens[i]
        for _, _, _, prompt in parts:
            assert prompt >= longest
            longest = prompt
        assert parts[-1][2], "the last leg is not lost"
        assert sum(kept for _, decoding, kept, _ in parts if decoding) <= 1
        again += sum(not decoding for _, decoding, _, _ in parts) - 1
    assert again == run.rerouted
    for life in [*run.prefill.alive, *run.decode.alive]:
        assert life.running.whole(USED) == 0
        assert life.running.outstanding == 0


def test_least_loaded_prompts_and_prefixes_that_meet_their_cache():
    rng = np.random.default_rng(0)
    uneven = Trace(name="uneven", arrival_s=np.cumsum(rng.exponential(0.012, 300)),
                   prompt_tokens=np.where(np.arange(300) % 4 == 0, 2000, 50),
                   output_tokens=np.full(300, 20))  # fmt: skip

    def split(router: str, demand: Trace, **more):
        return simulate_split(server(**more), demand, prefills=4, decodes=1,
                              routers=(router, "least-loaded")).summary  # fmt: skip

    turns, least = (split(r, uneven)["ttft_s"]["p99"] for r in ("round-robin", "least-loaded"))
    assert least < 0.8 * turns  # in turn, one instance gets every long prompt
    shared = g.open_loop(requests=300, requests_per_s=20, prompt=g.Lengths(median=600),
                         output=g.Lengths(median=10), shared_prefix=512, prefixes=12)  # fmt: skip
    hits = {r: split(r, shared, cache_blocks=300)["prefix_hit_ratio"]
            for r in ("round-robin", "prefix-aware")}  # fmt: skip
    assert hits["prefix-aware"] > hits["round-robin"]


def test_wrong_pools_are_explained():
    one, demand = server(), trace(0)
    with pytest.raises(InvalidInput, match="one of each is needed"):
        simulate_split(one, demand, prefills=0, decodes=1)
    with pytest.raises(InvalidInput, match="Give both pools one model"):
        simulate_split(one, demand, prefills=1, decodes=1,
                       prefill=Server(step=step(model="llama-3.2-1b")))  # fmt: skip
    narrow = Server(step=step(formats=Formats(kv="fp8-e4m3")), max_context=8192)
    with pytest.raises(InvalidInput, match="one cache format"):
        simulate_split(one, demand, prefills=1, decodes=1, prefill=narrow)
    with pytest.raises(InvalidInput, match="names replica 2"):
        simulate_split(one, demand, prefills=1, decodes=1, outages=parse_outages("2@1+2", "fail"))
    small = slow(cache_blocks=20)
    with pytest.raises(InvalidInput, match="needs a cache"):
        simulate_split(one, demand, prefills=1, decodes=1, prefill=small)
    kept = simulate_split(one, demand, prefills=1, decodes=1, prefill=small, drop_long=True)
    fits = demand.prompt_tokens + 1 <= 20 * 16 + 1
    assert kept.summary["dropped"] == int((~fits).sum()) > 0


def test_outages_are_named_by_pool():
    found = parse_outages("p1@60+120, d0@5+1,3@7+2", "fail", (2, 3))
    assert [(o.replica, o.start_s, o.end_s) for o in found] == [(1, 60, 180), (2, 5, 6), (3, 7, 9)]
    with pytest.raises(InvalidInput, match="prefill instance 2, but there are 2"):
        parse_outages("p2@60+120", "fail", (2, 3))
    with pytest.raises(InvalidInput, match="decode instance 3, but there are 3"):
        parse_outages("d3@60+120", "drain", (2, 3))
    with pytest.raises(InvalidInput, match="leave the letter out"):
        parse_outages("d0@60+120", "fail")
    with pytest.raises(InvalidInput, match="not an outage"):
        parse_outages("d0@6.0.1+120", "fail", (1, 1))


@pytest.mark.parametrize("policy", ["vllm", "prefill-first"])
def test_a_failure_in_the_step_that_recomputes_a_preempted_prompt(policy):
    # Its token does not exist yet, nor do those of the sequences that decode beside it.
    demand = evolve(trace(4), output_tokens=np.full(60, 150))
    one = server(policy=policy, cache_blocks=130)
    run = SplitRun(prompting=one, decoding=one, trace=demand, prefills=1, decodes=1,
                   routers=("round-robin", "round-robin"), outages=(), events=100_000)  # fmt: skip
    run.run()
    decoding = run.decode.alive[0].running
    assert decoding.whole(PREEMPTIONS) > 5
    log = decoding.state.log[: decoding.whole(N_LOG)]
    prompts = log[log[:, LOG_COLUMNS.index("kind")] == 1]
    assert len(prompts) > 5
    for begin, seconds in prompts[:: max(1, len(prompts) // 12), :2]:
        at = float(begin + 0.5 * seconds)
        outages = [Outage(replica=1, start_s=at, end_s=at + 0.1, kind="fail")]
        report = simulate_split(one, demand, prefills=1, decodes=1, outages=outages)
        choose = started(("round-robin",) * 2, (1, 1), demand)
        prompting = report.instances[0].server
        reference = run_split(prompting, one, demand, 1, 1, choose, outages)
        agrees(report, reference, one.step.engine.arrival_s)
