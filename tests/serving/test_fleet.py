import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.errors import InvalidInput
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.serving.fleet import simulate_fleet
from isoflop.serving.loop.records import FED
from isoflop.serving.outages import Outage, parse_outages
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.traffic import generate as g


def server(device="h100-sxm") -> Server:
    step = StepModel(
        model=load_model("llama-3.1-8b"), plan=Plan(), device=load_accelerator(device),
        engine=load_engine("vllm"),
    )  # fmt: skip
    return Server(step=step, max_sequences=32, max_tokens=2048, max_context=4096)


FAST, SLOW = server(), server("l40s")


def trace(requests=300, rate=20.0, seed=0):
    return g.open_loop(requests=requests, requests_per_s=rate, prompt=g.Lengths(median=300),
                       output=g.Lengths(median=80), seed=seed)  # fmt: skip


@pytest.mark.parametrize("router", ["least-loaded", "round-robin"])
def test_equal_replicas_without_outages_are_the_plain_simulation(router):
    plain = simulate(FAST, trace(), replicas=3, router=router)
    fleet = simulate_fleet([FAST] * 3, trace(), router=router)
    np.testing.assert_allclose(fleet.collected.finish_s, plain.collected.finish_s, rtol=1e-9)
    for key in ("watts_per_device", "devices", "utilization", "usd_per_million_output_tokens"):
        # Watts are priced at the mean step, whose sums are added in another order.
        assert fleet.summary[key] == pytest.approx(plain.summary[key], rel=1e-8)
    assert fleet.summary["available_share"] == 1.0


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000), start=st.floats(0.5, 12.0), kind=st.sampled_from(["fail", "drain"])
)
def test_every_request_ends_whatever_fails(seed, start, kind):
    outages = [Outage(replica=0, start_s=start, end_s=start + 3.0, kind=kind)]
    report = simulate_fleet([FAST, FAST], trace(seed=seed), outages=outages)
    assert np.all(np.isfinite(report.collected.finish_s))
    assert np.all(report.collected.ttft_s > 0)
    lost = report.summary["rerouted_requests"]
    assert (lost == 0) if kind == "drain" else lost >= 0
    # Nothing starts on a replica that is out.
    again = report.instances[0]
    if kind == "fail":  # the restarted one
        assert np.all(again.requests.arrival[: again.whole(FED)] >= start + 3.0)


def test_failure_costs_latency_and_tokens():
    calm = simulate_fleet([FAST, FAST], trace())
    hit = simulate_fleet(
        [FAST, FAST], trace(), outages=[Outage(replica=0, start_s=5, end_s=9, kind="fail")]
    )
    assert hit.summary["rerouted_requests"] > 0
    assert hit.summary["lost_tokens"] > hit.summary["rerouted_requests"]
    assert hit.summary["e2e_s"]["p99"] > calm.summary["e2e_s"]["p99"]
    assert hit.summary["available_share"] < 1


def test_requests_wait_when_every_replica_is_out():
    outages = [Outage(replica=0, start_s=1, end_s=6, kind="fail")]
    report = simulate_fleet([FAST], trace(requests=60), outages=outages)
    late = report.collected.arrival_s > 1.5
    assert np.all(report.collected.finish_s[late] >= 6)
    assert report.summary["ttft_s"]["p99"] > 2


def test_the_faster_replica_gets_more():
    report = simulate_fleet([FAST, SLOW], trace(rate=40))
    fast, slow = (i.finished for i in report.instances)
    assert fast > 1.3 * slow
    assert report.summary["device"] == "h100-sxm + l40s"


def test_wrong_outages_are_explained():
    with pytest.raises(InvalidInput, match="replica@start"):
        parse_outages("first one", "fail")
    with pytest.raises(InvalidInput, match="names replica 4"):
        simulate_fleet([FAST], trace(), outages=parse_outages("4@1+2", "fail"))
    with pytest.raises(InvalidInput, match="after its start"):
        Outage(replica=0, start_s=5, end_s=5, kind="drain")
    assert parse_outages("0@60+120, 2@300s+30s", "drain")[1].end_s == 330


def loop(kind="clients", seed=0):
    # Four turns of the longest fit the model.
    lengths = {"prompt": g.Lengths(median=300, p90=600, most=1500),
               "output": g.Lengths(median=60, p90=120, most=400)}  # fmt: skip
    if kind == "clients":
        return g.closed_loop(clients=12, requests=120, think_s=0.05, seed=seed, **lengths)
    return g.sessions(sessions=30, sessions_per_s=6, turns=4, think_s=0.3, seed=seed, **lengths)


@pytest.mark.parametrize("kind", ["clients", "sessions"])
@pytest.mark.parametrize("router", ["least-loaded", "round-robin"])
def test_closed_loops_with_an_outage_after_the_end_are_those_without(kind, router):
    calm = simulate_fleet([FAST, FAST], loop(kind), router=router)
    for out in ("fail", "drain"):
        outages = [Outage(replica=0, start_s=1e6, end_s=2e6, kind=out)]
        late = simulate_fleet([FAST, FAST], loop(kind), router=router, outages=outages)
        np.testing.assert_allclose(late.collected.finish_s, calm.collected.finish_s, rtol=1e-12)
        np.testing.assert_allclose(late.collected.e2e_s, calm.collected.e2e_s, rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), start=st.floats(0.0, 4.0),
       kind=st.sampled_from(["fail", "drain"]),
       loops=st.sampled_from(["clients", "sessions"]))  # fmt: skip
def test_closed_loops_end_and_keep_their_order_whatever_fails(seed, start, kind, loops):
    demand = loop(loops, seed)
    outages = [Outage(replica=0, start_s=start, end_s=start + 2.0, kind=kind)]
    report = simulate_fleet([FAST, FAST], demand, outages=outages)
    c = report.collected
    assert np.all(np.isfinite(c.finish_s))
    # A request comes its thinking time after the end, for good, of the one it follows.
    later = np.nonzero(demand.follows >= 0)[0]
    think = demand.think_s[later] if demand.think_s is not None else 0.0
    np.testing.assert_allclose(
        c.arrival_s[later], c.finish_s[demand.follows[later]] + think, rtol=1e-9
    )
    if kind == "drain":
        assert report.summary["rerouted_requests"] == 0
    else:
        again = report.instances[0]
        assert np.all(again.requests.arrival[: again.whole(FED)] >= start + 2.0)


def test_clients_wait_when_every_replica_is_out():
    outages = [Outage(replica=0, start_s=1, end_s=6, kind="fail")]
    report = simulate_fleet([FAST], loop(), outages=outages)
    c = report.collected
    assert report.summary["rerouted_requests"] > 0
    assert not np.any((c.finish_s > 1.0) & (c.finish_s < 6.0))
    assert c.ttft_s.max() > 4.0
    # Never more than the clients at once.
    times = np.sort(np.concatenate([c.arrival_s, c.finish_s + 1e-9]))
    outstanding = [int(((c.arrival_s <= t) & (c.finish_s > t)).sum()) for t in times]
    assert max(outstanding) <= 12
