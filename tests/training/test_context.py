from typing import get_args

import numpy as np
import pytest
from attrs import evolve

from isoflop.errors import InvalidInput, InvalidPlan
from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.training.emit import emit
from isoflop.training.memory import gathered_keys_bytes, memory_parts, total_bytes
from isoflop.training.plan import ContextExchange, Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.report import describe_plan
from isoflop.training.search import search_plans
from isoflop.training.space import SpaceLimits
from isoflop.training.time import StepPricer

LLAMA = load_model("llama-3.1-8b")
LONG = TrainingJob(model=LLAMA, global_batch=16, sequence_tokens=131072)
KINDS = get_args(ContextExchange)


def context_s(kind: ContextExchange, plan, job=LONG):
    device, _, cluster = load_fleet("64xdgx-h100")
    pricer = StepPricer(job=job, recipe=Recipe(context=kind), device=device, cluster=cluster)
    return float(pricer.price(Plans.of([plan])).parts["context"][0])


def test_nothing_is_exchanged_without_context_ranks():
    for kind in KINDS:
        assert context_s(kind, TrainingPlan(tensor=8, data=8)) == 0.0


def test_ulysses_sends_queries_keys_values_and_outputs_once():
    # 32 heads of 128 for queries and outputs, 8 for keys and values: 10,240 values of 2 bytes.
    plan = TrainingPlan(data=16, context=4)
    seconds = context_s("ulysses", plan)
    device, _, cluster = load_fleet("64xdgx-h100")
    pricer = StepPricer(job=LONG, recipe=Recipe(), device=device, cluster=cluster)
    speed = 450e9 * pricer.calibration.scale_up
    passes = 32 * 2.0  # layers, forward and backward
    wanted = passes * (2.0 * 131072 / 4 * 10240 * 0.75 / speed)
    slow = 1.0 + pricer.calibration.straggler * np.log2(64 / 8)
    assert seconds / slow == pytest.approx(wanted, rel=0.05)


def test_long_sequences_hide_a_ring_and_short_ones_show_it():
    plan = TrainingPlan(data=8, context=8)
    short = TrainingJob(model=LLAMA, global_batch=8, sequence_tokens=4096)
    device, _, cluster = load_fleet("64xdgx-h100")
    shares = []
    for job in (LONG, short):
        pricer = StepPricer(job=job, recipe=Recipe(), device=device, cluster=cluster)
        step = pricer.price(Plans.of([plan]))
        shares.append(float(step.parts["context"][0] / step.seconds[0]))
    assert shares[0] < 0.01
    assert shares[1] > 0.03


def test_gathered_keys_take_whole_sequences_but_not_beside_the_loss():
    plan = Plans.of([TrainingPlan(tensor=8, pipeline=8, context=8, recompute="full",
                                  sequence_parallel=True)])  # fmt: skip
    job = TrainingJob(model=load_model("llama-3.1-405b"), global_batch=8, sequence_tokens=262144)
    gather = Recipe(context="all-gather")
    bytes_ = gathered_keys_bytes(job, gather, plan)[0]
    assert bytes_ == 2 * 262144 * 2 * 128  # one of eight key heads, and its values
    repeated = gathered_keys_bytes(job, evolve(gather, repeated_keys=True), plan)[0]
    assert repeated == 16 * bytes_
    ring, whole = (total_bytes(memory_parts(job, r, plan))[0] for r in (Recipe(), gather))
    assert whole == pytest.approx(ring + bytes_)
    # One stage: the loss, whose logits are larger, decides.
    one = Plans.of([TrainingPlan(context=8, recompute="full")])
    small = TrainingJob(model=LLAMA, global_batch=8, sequence_tokens=32768)
    ring, whole = (total_bytes(memory_parts(small, r, one))[0] for r in (Recipe(), gather))
    assert whole == pytest.approx(ring)


def test_ulysses_needs_whole_heads():
    device, count, cluster = load_fleet("64xdgx-h100")
    recipe = Recipe(context="ulysses")
    with pytest.raises(InvalidPlan, match="32 heads do not divide"):
        describe_plan(LONG, recipe, device, count, TrainingPlan(tensor=8, context=8), cluster)
    found = search_plans(LONG, recipe, device, count, cluster, limits=SpaceLimits(context=64))
    assert np.all(32 % (found.plans.tensor * found.plans.context) == 0)
    assert found.plans.context.max() > 1


def test_frameworks_are_told_the_exchange():
    plan = TrainingPlan(context=2, data=32)
    for kind, name in zip(KINDS, ("p2p", "allgather", "a2a"), strict=True):
        text = emit("megatron", LONG, Recipe(context=kind), plan)
        assert f"--cp-comm-type {name}" in text
    assert 'rotate_method = "allgather"' in emit(
        "torchtitan", LONG, Recipe(context="all-gather"), plan
    )
    with pytest.raises(InvalidInput, match="by heads alone"):
        emit("deepspeed", LONG, Recipe(), plan)
    with pytest.raises(InvalidInput, match="torchtitan exchanges"):
        emit("torchtitan", LONG, Recipe(context="ulysses"), plan)


def test_megatron_formats_come_on_top_of_bf16():
    plan = TrainingPlan(data=64)
    text = emit("megatron", LONG, Recipe(format="mxfp8-e4m3", offload="cpu"), plan)
    for word in ("--bf16", "--fp8-format e4m3", "--fp8-recipe mxfp8", "--optimizer-cpu-offload"):
        assert word in text
    with pytest.raises(InvalidInput, match="nvfp4"):
        emit("megatron", LONG, Recipe(format="nvfp4"), plan)
    with pytest.raises(InvalidInput, match="adam8bit"):
        emit("megatron", LONG, Recipe(optimizer="adam8bit"), plan)


def test_an_unknown_exchange_is_a_sentence():
    with pytest.raises(InvalidInput, match="context exchange"):
        Recipe(context="tree")  # type: ignore[arg-type]
