"""Uneven chunks against schedules simulated event by event and walked task by task."""

import re
from itertools import product

import numpy as np
import pytest
from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidPlan
from isoflop.models import load_model
from isoflop.training.checks import check_plan
from isoflop.training.chunks import (
    MOST_ROUNDS,
    balanced_chunks,
    bubble_s,
    chunk_layers,
    chunk_list,
    flying_at,
    interleaved_unevenly,
)
from isoflop.training.emit import emit
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.plan_text import parse_training_plan
from isoflop.training.schedule import StageTimes, find_schedule
from isoflop.training.stages import layers_at, stage_list

F, B, W = 1.0, 1.3, 0.9
INTERLEAVED = find_schedule("interleaved")


def plan_of(layers, p, v) -> TrainingPlan:
    return TrainingPlan(pipeline=p, virtual=v, schedule="interleaved", layers=tuple(layers))


def simulated_and_priced(layers, p, v, m, head) -> tuple[float, float]:
    """Seconds of a step whose last chunk holds a head worth `head` layers, two ways."""
    each = F + B + W

    def held(k: int) -> StageTimes:
        extra = head * each / 3 if k == p * v - 1 else 0.0
        return StageTimes(forward_s=layers[k] * F + extra, backward_s=layers[k] * B + extra,
                          weight_s=layers[k] * W + extra)  # fmt: skip

    times = [[held(s + c * p) for c in range(v)] for s in range(p)]
    plans = Plans.of([plan_of(layers, p, v)])
    assert interleaved_unevenly(plans)[0]
    slowest = max(sum(t.forward_s + t.backward_s + t.weight_s for t in row) for row in times)
    one = (np.array([x]) for x in (F, each, head * each, float(m)))
    bubble = bubble_s(plans, sum(layers), *one)[0]
    return INTERLEAVED.run(times, m, chunks=v).total_s, m * slowest + bubble


sizes = {"p": st.sampled_from([2, 4, 8]), "v": st.integers(2, 4), "rounds": st.integers(1, 6)}


@settings(max_examples=40, deadline=None)
@given(**sizes, n=st.integers(1, 3))
def test_equal_chunks_are_the_closed_form(p, v, rounds, n):
    m = rounds * p
    run, closed = simulated_and_priced([n] * (p * v), p, v, m, 0.0)
    times = StageTimes(forward_s=n * v * F, backward_s=n * v * B, weight_s=n * v * W)
    assert closed == pytest.approx(run)
    assert closed == pytest.approx(INTERLEAVED.closed_form_s(p, m, v, times))


@settings(max_examples=60, deadline=None)
@given(**sizes, head=st.floats(0, 3), data=st.data())
def test_unequal_chunks_are_the_simulated_schedule(p, v, rounds, head, data):
    layers = data.draw(st.lists(st.integers(0, 4), min_size=p * v, max_size=p * v))
    assume(min(sum(layers[s::p]) for s in range(p)) > 0)
    run, priced = simulated_and_priced(layers, p, v, rounds * p, head)
    assert priced == pytest.approx(run)


@settings(max_examples=25, deadline=None)
@given(p=st.sampled_from([2, 4]), v=st.integers(2, 3), more=st.integers(1, 12),
       head=st.floats(0, 2), data=st.data())  # fmt: skip
def test_later_rounds_take_as_long_as_the_last_simulated_one(p, v, more, head, data):
    layers = data.draw(st.lists(st.integers(1, 4), min_size=p * v, max_size=p * v))
    run, priced = simulated_and_priced(layers, p, v, (MOST_ROUNDS + more) * p, head)
    assert priced == pytest.approx(run, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(p=st.sampled_from([2, 3, 4, 8]), v=st.integers(2, 4), rounds=st.integers(1, 5),
       data=st.data())  # fmt: skip
def test_what_a_stage_holds_is_what_its_tasks_hold(p, v, rounds, data):
    layers = data.draw(st.lists(st.integers(0, 4), min_size=p * v, max_size=p * v))
    assume(min(sum(layers[s::p]) for s in range(p)) > 0)
    plans, m = Plans.of([plan_of(layers, p, v)]), rounds * p
    for s in range(p):
        held = most = 0
        for task in INTERLEAVED.order(s, p, m, v):
            held += layers[s + task.chunk * p] * {"F": 1, "B": -1}[task.kind]
            most = max(most, held)
        flying = flying_at(plans, sum(layers), np.array([float(m)]), np.array([s]))[0]
        assert flying * sum(layers[s::p]) == pytest.approx(most)


@given(depth=st.integers(3, 9), p=st.integers(2, 3), v=st.integers(2, 3), head=st.floats(0, 4))
def test_balanced_chunks_make_the_slowest_stage_as_quick_as_any(depth, p, v, head):
    found = balanced_chunks(depth, p, v, last=head)
    assert sum(found) == depth

    def loads(totals) -> list[float]:
        return [*totals[:-1], totals[-1] + head]

    held = [sum(found[s::p]) for s in range(p)]
    every = (t for t in product(range(1, depth + 1), repeat=p) if sum(t) == depth)
    assert max(loads(held)) == pytest.approx(min(max(loads(t)) for t in every))
    for s in range(p - 1):
        assert max(found[s::p]) - min(found[s::p]) <= 1
    last = [*found[p - 1 :: p][:-1], found[-1] + head]
    assert held[-1] == 1 or max(last) <= max(head, min(last) + 1) + 1e-9


@given(depth=st.integers(16, 80), p=st.integers(2, 8), v=st.integers(1, 3),
       first=st.integers(0, 4), last=st.integers(0, 4))  # fmt: skip
def test_chunks_share_what_their_stage_holds(depth, p, v, first, last):
    assume((first or last) and (p > 2 or not (first and last)))
    plan = TrainingPlan(pipeline=p, virtual=v, first=first, last=last,
                        schedule="interleaved" if v > 1 else "1f1b")  # fmt: skip
    chunks, totals = chunk_list(plan, depth), stage_list(plan, depth)
    assert [sum(chunks[s::p]) for s in range(p)] == totals
    assert all(max(chunks[s::p]) - min(chunks[s::p]) <= 1 for s in range(p))
    listed = plan_of(chunks, p, v) if v > 1 else TrainingPlan(pipeline=p, layers=tuple(chunks))
    plans = Plans.of([plan, listed, plan])
    assert chunk_layers(plans, depth)[1].T.ravel().tolist() == chunks
    for s in range(p):
        assert layers_at(plans, depth, np.full(3, s)).tolist() == [totals[s]] * 3


def test_plans_list_the_layers_of_chunks():
    text = "pp2,vpp2,mb1,zero1,layers=5/4/4/3"
    plan = parse_training_plan(text)
    assert parse_training_plan(plan.describe()) == plan
    assert stage_list(plan, 16) == [9, 7]
    assert Plans.of([plan, TrainingPlan()]).at(0) == plan
    # The last chunk may hold the head alone.
    assert stage_list(parse_training_plan("pp2,vpp2,layers=5/6/5/0"), 16) == [10, 6]
    for wrong in ("pp2,vpp2,layers=8/8", "pp2,vpp2,layers=8/0/8/0"):
        with pytest.raises(InvalidPlan, match="2 stages of 2"):
            parse_training_plan(wrong)


def expanded(layout: str) -> list[str]:
    """Chunks of a layout, its products written out."""
    text = re.sub(r"\(([^)]+)\)\*(\d+)", lambda x: x.group(1) * int(x.group(2)), layout)
    return re.sub(r"(.)\*(\d+)", lambda x: x.group(1) * int(x.group(2)), text).split("|")


@given(p=st.integers(2, 5), v=st.integers(2, 4), data=st.data())
@settings(deadline=None)
def test_megatron_is_given_every_chunk(p, v, data):
    layers = data.draw(st.lists(st.integers(0, 4), min_size=p * v, max_size=p * v))
    assume(min(sum(layers[s::p]) for s in range(p)) > 0)
    assume(len(set(layers)) > 1)
    model = load_model("llama-3.1-8b")
    model = evolve(model, layers=(evolve(model.layers[0], count=sum(layers)),))
    job = TrainingJob(model=model, global_batch=8, sequence_tokens=4096)
    text = emit("megatron", job, Recipe(), plan_of(layers, p, v))
    found = re.search(r'--pipeline-model-parallel-layout "(.*)"', text)
    assert found is not None
    chunks = expanded(found.group(1))
    assert chunks[0][0] == "E"
    assert chunks[-1][-1] == "L"
    assert [c.count("t") for c in chunks] == layers
    assert "virtual-pipeline" not in text


@pytest.mark.parametrize(("model", "layout", "words"), [
    ("llama-3.1-8b", "pp4,vpp2,mb1", "--num-layers-per-virtual-pipeline-stage 4"),
    ("llama-3.1-8b", "pp4,first7,last7,mb1", "--decoder-first-pipeline-num-layers 7"),
    ("llama-3.1-405b", "pp16,vpp4,mb1", "--account-for-loss-in-pipeline-split"),
    ("deepseek-v3", "pp16,vpp2,mb1,layers=3" + 29 * "/2" + "/0/0", '"Et*3|(tt|)*29|L"'),
    ("llama-3.1-8b", "pp4,mb1,layers=8/9/8/7", '"Et*8|t*9|t*8|t*7L"'),
])  # fmt: skip
def test_megatron_settings_of_stages(model, layout, words):
    job = TrainingJob(model=load_model(model), global_batch=64, sequence_tokens=4096)
    assert words in emit("megatron", job, Recipe(), parse_training_plan(layout))


def test_embedding_and_head_may_stand_alone_in_their_chunks():
    """94 layers, embedding and head are 96 chunks of 16 stages."""
    model = load_model("qwen3-235b-a22b")
    job = TrainingJob(model=model, global_batch=1024, sequence_tokens=4096)
    alone = parse_training_plan("pp16,dp32,ep8,vpp6,mb1,zero1")
    check_plan(job, alone, 512)
    assert chunk_list(alone, model.depth) == [0, *[1] * 94, 0]
    with pytest.raises(InvalidPlan, match="94 layers"):
        check_plan(job, evolve(alone, virtual=7), 512)
