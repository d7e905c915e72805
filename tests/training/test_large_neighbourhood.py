import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import DoesNotFit, InvalidInput
from isoflop.training.eviction import evict, retentions
from isoflop.training.moccasin import (
    Graph,
    Retention,
    keep_everything,
    replay,
    slot,
)


def random_graph(n, seed, inputs=2):
    rng = np.random.default_rng(seed)
    needs = tuple(
        tuple(sorted(set(rng.integers(max(0, v - 12), v, min(v, inputs)).tolist()))) if v else ()
        for v in range(n)
    )
    return Graph(cost=tuple(map(float, rng.integers(1, 9, n))),
                 size=tuple(map(float, rng.integers(1, 9, n))), needs=needs)  # fmt: skip


def layered(n, width=5):
    """Layers that read the one before them, and one node in five something long before."""
    rng = np.random.default_rng(0)
    needs = []
    for v in range(n):
        low = v // width * width
        reads = set() if low == 0 else set(rng.choice(range(low - width, low), 2).tolist())
        if low > 3 * width and rng.random() < 0.2:
            reads.add(int(rng.integers(0, low - width)))
        needs.append(tuple(sorted(reads)))
    return Graph(cost=tuple(map(float, rng.integers(1, 10, n))),
                 size=tuple(map(float, rng.integers(1, 10, n))), needs=tuple(needs))  # fmt: skip


def exhaustive(graph, budget):
    """The cheapest set of slots that fits, of all of them."""
    n = len(graph.cost)
    extra = [(i, j) for i in range(n) for j in range(i)]
    best = None
    for chosen in itertools.product((False, True), repeat=len(extra)):
        slots = [[slot(v, v)] for v in range(n)]
        for (i, j), c in zip(extra, chosen, strict=True):
            if c:
                slots[j].append(slot(i, j))
        cost = sum(c * len(at) for c, at in zip(graph.cost, slots, strict=True))
        if best is not None and cost >= best:
            continue
        if replay(graph, retentions(graph, slots))[1] <= budget:
            best = cost
    return best


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 40), seed=st.integers(0, 10_000), share=st.floats(0.4, 1.0))
def test_evicted_schedules_replay_within_budget(n, seed, share):
    graph = random_graph(n, seed)
    plain = keep_everything(graph)
    found = evict(graph, share * plain.peak)
    if found is None:
        return
    cost, peak = replay(graph, found.intervals)
    assert (cost, peak) == (found.cost, found.peak)
    assert peak <= share * plain.peak
    assert cost >= plain.cost


def test_a_budget_for_everything_evicts_nothing():
    graph = random_graph(200, 1)
    found = evict(graph, keep_everything(graph).peak)
    assert found is not None
    assert found.cost == sum(graph.cost)


def test_a_copy_takes_memory_while_it_is_computed():
    graph = Graph(cost=(1.0,), size=(1.0,), needs=((),))
    with pytest.raises(InvalidInput, match="not held"):
        replay(graph, [Retention(node=0, start=0, end=-1)])


def test_search_finds_the_optimum_of_small_graphs_and_a_bound_below_it():
    pytest.importorskip("ortools", reason="OR-tools is not installed")
    from isoflop.training.neighbourhood import search

    seen = 0
    for seed in range(12):
        graph = random_graph(5, seed)
        plain = keep_everything(graph)
        for budget in np.unique([np.floor(plain.peak * f) for f in (0.7, 0.85, 1.0)]):
            best = exhaustive(graph, budget)
            if best is None:
                with pytest.raises(DoesNotFit):
                    search(graph, float(budget), seconds=5)
                continue
            found = search(graph, float(budget), seconds=5)
            assert found.schedule.cost == best
            assert found.schedule.peak <= budget
            assert found.bound <= best
            seen += best > plain.cost
    assert seen > 0


def test_windows_on_part_of_a_graph_lie_between_the_start_and_the_optimum():
    pytest.importorskip("ortools", reason="OR-tools is not installed")
    from isoflop.training.neighbourhood import search

    graph = layered(50)
    budget = 0.85 * keep_everything(graph).peak
    whole = search(graph, budget, seconds=30)
    parts = search(graph, budget, seconds=10, window=35, window_seconds=1.0)
    assert whole.bound <= whole.schedule.cost < whole.start  # better than eviction alone
    assert whole.bound <= parts.schedule.cost <= parts.start
    assert parts.windows > 1
    assert replay(graph, parts.schedule.intervals)[1] <= budget


@pytest.mark.slow
def test_250_nodes_are_scheduled_within_a_minute():
    pytest.importorskip("ortools", reason="OR-tools is not installed")
    from isoflop.training.neighbourhood import search

    graph = layered(250)
    plain = keep_everything(graph)
    found = search(graph, 0.85 * plain.peak, seconds=20)
    cost, peak = replay(graph, found.schedule.intervals)
    assert peak <= 0.85 * plain.peak
    assert plain.cost < found.bound <= cost <= 1.02 * plain.cost
