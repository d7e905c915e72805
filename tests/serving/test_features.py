"""Options of the simulator against what they claim."""

from __future__ import annotations

import json

import numpy as np
import pytest

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.errors import InvalidInput
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.serving.bounds import over_time, with_pauses
from isoflop.serving.disaggregated import simulate_split
from isoflop.serving.loop.records import BUSY, N_LOG
from isoflop.serving.router import router_names
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate, simulate_stream
from isoflop.serving.slo import parse_slo
from isoflop.serving.speculation import Speculation
from isoflop.serving.timeline import chrome_trace
from isoflop.serving.traffic import Trace
from isoflop.serving.traffic import generate as g
from isoflop.serving.transfer import transfer_s


def step(model="llama-3.1-8b", device="h100-sxm", **plan) -> StepModel:
    return StepModel(model=load_model(model), plan=Plan(**plan), device=load_accelerator(device),
                     engine=load_engine("vllm"))  # fmt: skip


@pytest.fixture(scope="module")
def base() -> Server:
    return Server(step=step(), max_sequences=64, max_tokens=2048)


def poisson(rate=5.0, requests=300, prompt=500, output=100, **more) -> Trace:
    return g.open_loop(requests=requests, requests_per_s=rate, prompt=g.Lengths(median=prompt),
                       output=g.Lengths(median=output), **more)  # fmt: skip


def test_tables_are_close_to_the_full_model(base):
    decode, prompt = base.times.error()
    assert decode < 0.01
    assert prompt < 0.01


def test_percentiles_rise_with_load(base):
    low, high = (simulate(base, poisson(rate)).summary for rate in (2.0, 40.0))
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        assert high[metric]["p99"] > low[metric]["p99"]


def test_speculation_expected_tokens():
    # Leviathan et al., equation 1, against a draw of the process itself.
    rng = np.random.default_rng(0)
    s = Speculation(draft=4, acceptance=0.7)
    accepted = np.cumprod(rng.random((200_000, 4)) < 0.7, axis=1).sum(axis=1) + 1
    assert s.tokens_per_step == pytest.approx(accepted.mean(), rel=0.01)
    assert Speculation(draft=4, acceptance=1.0).tokens_per_step == 5.0
    assert Speculation(draft=4, acceptance=0.5, branches=2).rate == pytest.approx(0.75)


def test_speculation_pays_at_small_batch_only():
    gain = {}
    for rate, sequences in ((0.1, 1), (200.0, 256)):
        plain = Server(step=step(), max_sequences=sequences)
        fast = Server(step=step(), max_sequences=sequences,
                      speculation=Speculation(draft=4, acceptance=0.7))  # fmt: skip
        trace = poisson(rate, 300, prompt=100)
        gain[sequences] = (
            simulate(plain, trace).summary["tpot_s"]["mean"]
            / simulate(fast, trace).summary["tpot_s"]["mean"]
        )
    assert gain[1] > 2.0
    assert gain[256] < 0.8 * gain[1]


def test_split_pools_keep_prompts_away_from_decoding(base):
    trace = poisson(10.0, 400, prompt=2000, output=200)
    split = simulate_split(base, trace, prefills=1, decodes=1).summary
    joint = simulate(base, trace, replicas=2).summary
    assert split["tpot_s"]["p99"] < joint["tpot_s"]["p99"]
    assert split["requests"] == 400
    # 1,000 tokens of 128 KiB each over the link of the device.
    link = base.step.device.links.scale_up_bytes_per_s
    each = transfer_s(base.step, np.array([1000, 2000]))
    assert each[1] - each[0] == pytest.approx(1000 * 131072 / link, rel=1e-6)


def test_sharing_a_device_pays_while_steps_leave_it_idle():
    # Mind the Memory Gap: replicas help a small model, whose steps are host and launch bound.
    tiny = step("opt-1.3b", "h100-64gb")
    trace = poisson(1000.0, 400, prompt=100, output=100)
    one = simulate(Server(step=tiny, max_sequences=32), trace).summary
    two = simulate(Server(step=tiny, max_sequences=32, share=2), trace, replicas=2).summary
    ratio = two["throughput_output_tokens_per_s"] / one["throughput_output_tokens_per_s"]
    assert 1.0 < ratio < 2.0
    assert two["devices"] == 1


@pytest.mark.parametrize("router", router_names())
def test_routers_serve_everything(base, router):
    trace = poisson(30.0, 200, shared_prefix=320, prefixes=5)
    report = simulate(base, trace, replicas=3, router=router)
    assert np.isfinite(report.collected.e2e_s).all()
    assert sum(i.finished for i in report.instances) == 200


def test_prefix_aware_routing_raises_the_hit_ratio():
    small = Server(step=step(), max_sequences=64, max_tokens=2048, cache_blocks=600)
    trace = poisson(20.0, 400, prompt=600, output=20, shared_prefix=512, prefixes=12)
    hits = {r: simulate(small, trace, replicas=4, router=r).summary["prefix_hit_ratio"]
            for r in ("round-robin", "prefix-aware")}  # fmt: skip
    assert hits["prefix-aware"] > hits["round-robin"]


def test_closed_loop_keeps_its_clients(base):
    trace = g.closed_loop(clients=8, requests=100, prompt=g.Lengths(median=200),
                          output=g.Lengths(median=50))  # fmt: skip
    report = simulate(base, trace)
    assert report.summary["requests"] == 100
    assert report.summary["mean_batch"] <= 8
    r = report.instances[0].requests
    # A client's next request arrives when its last one ends.
    np.testing.assert_allclose(r.arrival[8:100], r.finish[:92], rtol=1e-12)


def test_conversations_reuse_their_prefix(base):
    trace = g.sessions(sessions=20, sessions_per_s=1.0, turns=4, prompt=g.Lengths(median=200),
                       output=g.Lengths(median=100), think_s=1.0)  # fmt: skip
    assert simulate(base, trace).summary["prefix_hit_ratio"] > 0.3


def test_stream_agrees_with_the_whole_run(base):
    trace = poisson(20.0, 3000)
    whole = simulate(base, trace).summary
    parts = [trace.take(np.arange(i, i + 500)) for i in range(0, 3000, 500)]
    stream = simulate_stream(base, parts, ring=2000).summary
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        for point in ("p50", "p99", "mean"):
            assert stream[metric][point] == pytest.approx(whole[metric][point], rel=0.01)
    assert stream["requests"] == 3000


def test_stream_says_when_traffic_is_too_much(base):
    with pytest.raises(InvalidInput, match="above what the server can carry"):
        simulate_stream(base, [poisson(1e5, 1500, output=400)], ring=1000)


def test_timeline_is_a_chrome_trace(base):
    report = simulate(base, poisson(requests=20), events=1000)
    events = json.loads(chrome_trace(report))["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert sum(e["dur"] for e in slices) == pytest.approx(
        report.instances[0].real(3) * 1e6, rel=1e-6
    )


def test_every_event_of_a_timeline_has_what_the_format_asks(base):
    report = simulate(base, poisson(requests=60), replicas=2, events=1000)
    needed = {"X": {"name", "ts", "dur", "pid", "tid"}, "C": {"name", "ts", "pid", "args"},
              "M": {"name", "pid", "args"}}  # fmt: skip
    events = json.loads(chrome_trace(report))["traceEvents"]
    assert {e["ph"] for e in events} == set(needed)
    for e in events:
        assert needed[e["ph"]] <= set(e)
        if e["ph"] == "C":
            assert all(isinstance(v, (int, float)) for v in e["args"].values())
        if e["name"] == "bound by, %":
            assert sum(e["args"].values()) == pytest.approx(100.0, abs=0.3)


def test_what_bounds_every_second_adds_up_to_the_run(base):
    report = simulate(base, poisson(rate=4.0, requests=200, prompt=900), events=100_000)
    instance = report.instances[0]
    log = instance.state.log[: instance.whole(N_LOG)]
    edges, shares = over_time(base.step, log, bins=50)
    assert np.allclose(sum(shares.values()), 1.0)
    assert all(np.all(s >= 0) for s in shares.values())
    assert shares["idle"].max() > 0.5  # four requests a second leave gaps
    busy = (1.0 - shares["idle"]).mean() * (edges[-1] - edges[0])
    assert busy == pytest.approx(instance.real(BUSY), rel=1e-6)
    held = with_pauses(log)
    nothing = held[:, 1] == 0
    assert held[nothing, 1:].sum() == 0
    pauses = np.diff(held[:, 0])[nothing[:-1]].sum()
    assert pauses == pytest.approx(shares["idle"].mean() * (edges[-1] - edges[0]), rel=1e-6)
    # Step by step, it is what the report says of the mean steps.
    for name, share in report.summary["bound"].items():
        over = shares[name].mean() / (1.0 - shares["idle"]).mean()
        assert over == pytest.approx(share, abs=0.1)


def test_intervals_of_gaps_between_tokens_hold_other_runs(base):
    runs = [simulate(base, poisson(rate=12.0, requests=1000, seed=s)) for s in range(12)]
    plain = simulate(base, poisson(rate=12.0, requests=1000), longest=1)
    # Looking at the run between batches changes no time.
    np.testing.assert_allclose(plain.collected.finish_s, runs[0].collected.finish_s, rtol=1e-9)
    mean = np.mean([r.summary["itl_s"]["mean"] for r in runs])
    held = [r.summary["itl_s"]["ci90"]["mean"] for r in runs]
    assert sum(low <= mean <= high for low, high in held) >= 8
    assert all(high - low < 0.1 * mean for low, high in held)
    assert set(runs[0].summary["itl_s"]["ci90"]) == {"p50", "p90", "p95", "p99", "mean"}
    assert simulate(base, poisson(requests=50)).summary["itl_s"]["ci90"] == {}


def test_goodput_counts_requests_within_every_promise(base):
    report = simulate(base, poisson(rate=30.0, requests=300, prompt=900))
    promises = parse_slo("ttft<200ms@p99,tpot<12ms@p95,ttft<100ms@p50,itl<1s")
    c = report.collected
    good = (c.ttft_s <= 0.1) & ~(c.tpot_s > 0.012)
    assert 0 < good.sum() < len(good)
    wanted = good.mean() * report.summary["requests_per_s"]
    assert report.goodput_per_s(promises) == pytest.approx(wanted)
    assert report.goodput_per_s(parse_slo("itl<1s")) is None


def test_timeline_has_every_instance_of_two_pools(base):
    report = simulate_split(base, poisson(requests=20), prefills=1, decodes=2, events=1000)
    slices = [e for e in json.loads(chrome_trace(report))["traceEvents"] if e["ph"] == "X"]
    assert {e["pid"] for e in slices} == {0, 1, 2}
    assert all("prompt tokens" in e["name"] for e in slices if e["pid"] == 0)
    assert all("decoding steps" in e["name"] for e in slices if e["pid"] > 0)


def test_a_request_longer_than_the_cache_is_a_sentence():
    small = Server(step=step(), cache_blocks=10)
    with pytest.raises(InvalidInput, match="this configuration holds 160"):
        simulate(small, poisson())
    assert simulate(small, Trace(
        name="two", arrival_s=np.zeros(2), prompt_tokens=np.array([10, 1000]),
        output_tokens=np.array([5, 5])), drop_long=True).summary["dropped"] == 1  # fmt: skip


def test_hybrid_and_latent_models_simulate():
    for model in ("gemma-3-12b", "nemotron-h-8b", "deepseek-v2-lite"):
        server = Server(step=step(model), max_sequences=16, max_tokens=1024, max_context=4096)
        summary = simulate(server, poisson(2.0, 30)).summary
        assert summary["tpot_s"]["mean"] > 0
