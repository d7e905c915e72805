import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.training.moccasin import Graph, greedy, keep_everything, replay, training_chain


@st.composite
def graphs(draw):
    n = draw(st.integers(2, 14))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    needs = tuple(
        tuple(sorted(set(rng.integers(0, v, min(v, 2)).tolist()))) if v else () for v in range(n)
    )
    return Graph(cost=tuple(map(float, rng.integers(1, 9, n))),
                 size=tuple(map(float, rng.integers(1, 9, n))), needs=needs)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(graph=graphs(), share=st.floats(0.5, 1.0))
def test_greedy_schedules_are_valid_and_within_budget(graph, share):
    plain = keep_everything(graph)
    found = greedy(graph, share * plain.peak)
    if found is None:
        return
    cost, peak = replay(graph, found.intervals)  # raises where an input is missing
    assert peak <= share * plain.peak + 1e-9
    assert cost >= plain.cost
    assert cost == found.cost


def test_greedy_trades_recomputation_for_memory_on_a_chain():
    graph = training_chain([1.0] * 16, [1.0] * 16)
    plain = keep_everything(graph)
    found = greedy(graph, 0.7 * plain.peak)
    assert found is not None
    assert plain.cost < found.cost < 1.6 * plain.cost
    assert greedy(graph, plain.peak).cost == plain.cost
    assert greedy(graph, 1.0) is None
