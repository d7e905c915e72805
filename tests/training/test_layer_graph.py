import itertools

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.training.graph_plans import recursive, segmented, sublinear
from isoflop.training.layer_graph import layer_graph
from isoflop.training.memory import layer_activation_bytes
from isoflop.training.moccasin import keep_everything
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan

H100 = load_accelerator("h100-sxm")


def graph_of(name, layers=0, tokens=2048, vocab=0):
    model = load_model(name)
    if vocab:
        model = evolve(model, vocab=vocab)
    if layers:
        model = evolve(model, layers=(evolve(model.layers[-1], count=layers),))
    return layer_graph(model, H100, sequence_tokens=tokens)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt3-1.3b", "mixtral-8x7b", "falcon-7b"])
def test_a_layer_holds_what_the_activation_formula_says(name):
    few, many = (keep_everything(graph_of(name, n).graph).peak for n in (8, 16))
    job = TrainingJob(model=load_model(name), global_batch=1, sequence_tokens=2048)
    formula = layer_activation_bytes(job, Recipe(), Plans.of([TrainingPlan()]))[0]
    assert (many - few) / 8 == pytest.approx(formula, rel=0.12)


def test_backward_costs_about_twice_the_forward_pass():
    step = graph_of("llama-3.1-8b")
    forward = sum(step.graph.cost[: step.forward])
    assert 1.9 < sum(step.graph.cost[step.forward :]) / forward < 2.3


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "gpt-j-6b", "nemotron-3-nano"])
def test_no_node_before_a_cut_is_read_after_it(name):
    step = graph_of(name, 3)
    for v in step.cuts:
        for w in range(v + 1, step.forward):
            assert all(u >= v for u in step.graph.needs[w])
    # Every layer ends in one at least.
    assert len(step.cuts) >= 3
    # All but the last node are read, and every forward node has a backward one that runs.
    read = set(itertools.chain.from_iterable(step.graph.needs))
    assert read >= set(range(step.forward - 1))


@settings(max_examples=10, deadline=None)
@given(layers=st.integers(1, 12), share=st.floats(0.0, 1.0))
def test_segments_of_any_size_compute_the_forward_pass_twice_at_most(layers, share):
    step = graph_of("llama-3.2-1b", layers, 1024)
    plain = keep_everything(step.graph)
    budget = share * sum(step.graph.size[: step.forward])
    found = segmented(step, budget)  # replayed by the checker
    forward = sum(step.graph.cost[: step.forward])
    assert plain.cost <= found.cost <= plain.cost + forward
    assert found.peak <= plain.peak * (1 + 1e-12)


def test_memory_of_segments_grows_with_the_root_and_of_recursion_with_the_logarithm():
    sizes = 16, 64
    steps = [graph_of("gpt3-1.3b", n, vocab=64) for n in sizes]
    plain, root, log = ([f(s).peak for s in steps] for f in (
        lambda s: keep_everything(s.graph), sublinear, recursive))  # fmt: skip
    assert plain[1] / plain[0] > 3.4
    assert 1.6 < root[1] / root[0] < 2.6
    assert log[1] / log[0] < 1.4
    assert log[1] < root[1] < plain[1]
    # One more forward pass, a third of a step, for segments; log2(n) / 2 of them for recursion.
    forward = sum(steps[1].graph.cost[: steps[1].forward])
    extra = [
        (f(steps[1]).cost - keep_everything(steps[1].graph).cost) / forward
        for f in (sublinear, recursive)
    ]
    assert extra[0] < 1.0
    assert 2.0 < extra[1] < 4.0
