import pytest

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.errors import InvalidInput
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.serving.capacity import Capacity, capacity
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.slo import parse_slo
from isoflop.serving.traffic import generate as g

STEP = StepModel(
    model=load_model("llama-3.1-8b"), plan=Plan(), device=load_accelerator("h100-sxm"),
    engine=load_engine("vllm"),
)  # fmt: skip
SERVER = Server(step=STEP, max_sequences=128, max_context=4096)
TRACE = g.open_loop(
    requests=1500, requests_per_s=5, prompt=g.Lengths(median=500), output=g.Lengths(median=100)
)


@pytest.mark.parametrize("slo", ["ttft<300ms@p99", "tpot<15ms@p95"])
def test_capacity_is_where_a_promise_breaks(slo):
    promises = parse_slo(slo)
    found = capacity(SERVER, TRACE, promises)
    assert found.requests_per_s > 0
    assert found.blocked_by

    def kept(rate):
        summary = simulate(SERVER, TRACE.at_rate(rate)).summary
        return all(p.kept(summary) for p in promises)

    assert kept(0.9 * found.requests_per_s)
    assert not kept(1.2 * found.requests_per_s)


def test_tighter_promises_carry_less():
    tight, loose = (
        capacity(SERVER, TRACE, parse_slo(s)).requests_per_s
        for s in ("ttft<60ms@p99", "ttft<600ms@p99")
    )
    assert tight < loose


def test_an_impossible_promise_has_no_capacity():
    found = capacity(SERVER, TRACE, parse_slo("tpot<1ms@p50"))
    assert found.requests_per_s == 0
    with pytest.raises(InvalidInput, match="no number of replicas"):
        found.replicas(10.0)


def test_replicas_round_up():
    found = Capacity(requests_per_s=4.0, blocked_by="x", trials=1)
    assert [found.replicas(r) for r in (0.1, 4.0, 4.01, 40.0)] == [1, 1, 2, 10]


def test_without_a_binding_promise_throughput_is_the_capacity():
    found = capacity(SERVER, TRACE, parse_slo("tpot<10s@p99"))
    most = simulate(SERVER, TRACE.at_rate(1e4)).summary["requests_per_s"]
    assert found.requests_per_s == pytest.approx(most, rel=0.35)
    assert "queue" in found.blocked_by
