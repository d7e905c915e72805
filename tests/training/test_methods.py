"""Schedules, failures and recomputation against closed forms, simulation and exhaustive search."""

import heapq
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.cli import main
from isoflop.errors import DoesNotFit, InvalidInput, InvalidPlan
from isoflop.training.failures import Failures, daly_s, expected_s, simulate_s, young_s
from isoflop.training.moccasin import Graph, Retention, keep_everything, solve, training_chain
from isoflop.training.moccasin import replay as replay_graph
from isoflop.training.rematerialise import (
    Layer,
    optimal,
    recursive,
    replay,
    segments,
    store_all,
)  # fmt: skip
from isoflop.training.schedule import StageTimes, find_schedule, schedule_names
from tests.test_cli import fails


@pytest.mark.parametrize("name", schedule_names())
@settings(max_examples=40, deadline=None)
@given(
    stages=st.integers(1, 8), rounds=st.integers(2, 4), chunks=st.integers(1, 4),
    f=st.floats(0.5, 2.0), b=st.floats(0.5, 2.0), share=st.floats(0.1, 1.0),
)  # fmt: skip
def test_events_agree_with_the_closed_form(name, stages, rounds, chunks, f, b, share):
    schedule = find_schedule(name)
    t = StageTimes(forward_s=f, backward_s=b, weight_s=share * min(f, b))
    v = chunks if name == "interleaved" and stages > 1 else 1
    m = stages * rounds
    line = schedule.run([t] * stages, m, chunks=v)
    assert line.total_s == pytest.approx(schedule.closed_form_s(stages, m, v, t), rel=1e-9)
    work = m * (f + b + t.weight_s)
    assert line.bubble == pytest.approx(1 - work / line.total_s, abs=1e-9)


def test_memory_in_flight():
    t = [StageTimes(forward_s=1.0, backward_s=1.0, weight_s=1.0)] * 4
    assert find_schedule("gpipe").run(t, 16).peak_in_flight == (16, 16, 16, 16)
    assert find_schedule("one-f-one-b").run(t, 16).peak_in_flight == (4, 3, 2, 1)
    # ZB-H1 holds no more than the first stage of 1F1B.
    assert max(find_schedule("zero-bubble").run(t, 16).peak_in_flight) == 4
    bubbles = [find_schedule(n).run(t, 16).bubble for n in ("one-f-one-b", "zero-bubble")]
    assert bubbles[1] < 0.5 * bubbles[0]


@given(slow=st.integers(0, 3), factor=st.floats(1.0, 3.0))
@settings(max_examples=20, deadline=None)
def test_a_slow_stage_sets_the_pace(slow, factor):
    t = [StageTimes(forward_s=1.0, backward_s=1.0, weight_s=1.0)] * 4
    t[slow] = StageTimes(forward_s=factor, backward_s=factor, weight_s=factor)
    total = find_schedule("one-f-one-b").run(t, 12, transfer_s=0.1).total_s
    assert total >= 12 * 3 * factor


def test_interleaving_needs_whole_rounds():
    t = [StageTimes(forward_s=1.0, backward_s=1.0, weight_s=1.0)] * 4
    with pytest.raises(InvalidPlan, match="multiple of 4"):
        find_schedule("interleaved").run(t, 6, chunks=2)


@pytest.mark.parametrize("mtbf", [2000.0, 20_000.0])
def test_simulated_failures_agree_with_daly(mtbf):
    f = Failures(mtbf_s=mtbf, restart_s=300.0, checkpoint_s=30.0)
    work = 40 * daly_s(f)
    for interval in (daly_s(f), 2 * daly_s(f)):
        sample = simulate_s(f, work, interval, runs=1500)
        half = 3.3 * sample.std(ddof=1) / len(sample) ** 0.5
        assert abs(sample.mean() - expected_s(f, work, interval)) < half


def test_daly_is_the_better_interval():
    f = Failures(mtbf_s=3000.0, restart_s=0.0, checkpoint_s=300.0)
    best = min(expected_s(f, 1.0, t) for t in range(50, 5000, 5))
    assert expected_s(f, 1.0, daly_s(f)) < expected_s(f, 1.0, young_s(f))
    assert expected_s(f, 1.0, daly_s(f)) < 1.001 * best


CHAIN = [Layer(forward=1.0, size=1.0)] * 64


def test_sublinear_memory():
    """Chen et al.: about 2 sqrt(n) outputs for one more forward pass."""
    assert store_all(CHAIN).forward == 64
    plan = segments(CHAIN)
    assert plan.peak <= 2 * 8
    assert plan.forward < 2 * 64
    halves = recursive(CHAIN)
    assert halves.peak <= 7
    assert halves.forward <= 64 * (1 + 6 / 2)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=9),
       st.floats(0.3, 1.0))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_dynamic_program_never_loses(costs, share):
    chain = [Layer(forward=float(f), size=float(s)) for f, s in costs]
    whole = sum(c.size for c in chain)
    budget = round(share * whole)
    if budget < 1:
        return
    others = [p for p in (store_all(chain), segments(chain), recursive(chain)) if p.peak <= budget]
    try:
        found = optimal(chain, float(budget), levels=budget)
    except DoesNotFit:
        assert not others
        return
    assert found.peak <= budget + 1e-9
    assert all(found.forward <= p.forward + 1e-9 for p in others)


def test_replay_refuses_what_cannot_run():
    with pytest.raises(InvalidInput, match="without its input"):
        replay(CHAIN[:3], [("forward", 1)])
    with pytest.raises(InvalidInput, match="never goes back"):
        replay(CHAIN[:2], [("keep", 0), ("keep", 1), ("backward", 1)])
    graph = training_chain([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(InvalidInput, match="without node"):
        replay_graph(graph, [Retention(node=1, start=2, end=2)])


def cheapest(graph: Graph, budget: float) -> float:
    """Exhaustive: Dijkstra over (nodes done, nodes held); first computations in order."""
    n = len(graph.cost)
    queue: list[tuple[float, int, frozenset[int]]] = [(0.0, 0, frozenset())]
    seen: set[tuple[int, frozenset[int]]] = set()
    while queue:
        cost, done, held = heapq.heappop(queue)
        if done == n:
            return cost
        if (done, held) in seen:
            continue
        seen.add((done, held))
        for u in held:
            heapq.heappush(queue, (cost, done, held - {u}))
        for v in range(min(done + 1, n)):
            if v in held or any(u not in held for u in graph.needs[v]):
                continue
            after = held | {v}
            if sum(graph.size[u] for u in after) <= budget + 1e-9:
                step = max(done, v + 1)
                heapq.heappush(queue, (cost + graph.cost[v], step, after))
    return float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.6, 0.8, 1.0])
def test_moccasin_finds_the_optimum_of_small_graphs(share):
    pytest.importorskip("ortools")
    for n in (3, 4, 5):
        graph = training_chain([1.0, 2.0, 1.0, 3.0, 1.0][:n], [2.0, 1.0, 3.0, 1.0, 2.0][:n])
        budget = float(round(keep_everything(graph).peak * share))
        best = cheapest(graph, budget)
        try:
            found = solve(graph, budget, copies=4, seconds=20)
        except DoesNotFit:
            assert best == float("inf")
            continue
        assert found.proven
        assert found.peak <= budget + 1e-9
        assert found.cost == pytest.approx(best)


def test_commands(capsys, tmp_path):
    main(["training", "schedules", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert all(r["total_s"] == pytest.approx(r["closed_form_s"]) for r in rows)
    main(["training", "failures", "--devices", "16384", "--days", "2", "--json"])
    out = json.loads(capsys.readouterr().out)
    assert out["rows"][1]["low"] <= out["rows"][1]["goodput"] + 0.02
    main(["training", "recompute", "--budget", "0.25"])
    assert "optimum within 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["schedules", "--forward", "0"], "positive number"),
        (["schedules", "--micro-batches", "6"], "multiple of 4"),
        (["failures", "--devices", "0"], "at least one device"),
        (["failures", "--devices", "8", "--checkpoint", "-1"], "positive number of seconds"),
        (["recompute", "--budget", "2"], "at most 1"),
        (["recompute", "--layers", "1"], "at least two layers"),
    ],
)
def test_bad_input_is_a_sentence(capsys, arguments, says):
    assert says in fails(capsys, "training", *arguments)
