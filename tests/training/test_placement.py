"""Placements against ranks listed one by one, and transfers against simulated schedules."""

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput, InvalidPlan
from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.training.calibration import load_training
from isoflop.training.checks import check_recipe
from isoflop.training.compute import Network
from isoflop.training.emit import emit
from isoflop.training.placement import data_stride, differs, owner_stride, stage_ranks
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.plan_text import parse_training_plan
from isoflop.training.rings import LAUNCH_S, Rings
from isoflop.training.schedule import StageTimes, find_schedule
from isoflop.training.time import StepPricer
from isoflop.training.transfers import crossing, transfer_s

NET = Network(node=8, inner_bytes_per_s=4e11, outer_bytes_per_s=4e10, inner_latency_s=1e-6,
              outer_latency_s=3e-6, in_switch=False)  # fmt: skip
CAL = load_training("hopper")[0]
powers = st.sampled_from([1, 2, 4, 8])


def ranks_of(plan: TrainingPlan) -> np.ndarray:
    """Global ranks by (pipeline, data, context, tensor)."""
    shape = {"data-inside": (plan.pipeline, plan.data, plan.context, plan.tensor),
             "pipeline-inside": (plan.data, plan.pipeline, plan.context, plan.tensor)}  # fmt: skip
    ranks = np.arange(plan.devices).reshape(shape[plan.placement])
    return ranks if plan.placement == "data-inside" else ranks.swapaxes(0, 1)


@given(tp=powers, cp=powers, pp=st.sampled_from([2, 4, 8]), dp=powers, group=powers,
       near=st.booleans(), node=st.sampled_from([4, 8, 64]), chunks=st.integers(1, 2))  # fmt: skip
def test_rings_and_borders_are_those_of_listed_ranks(tp, cp, pp, dp, group, near, node, chunks):
    if tp * cp * dp % group:
        return
    plan = TrainingPlan(tensor=tp, context=cp, pipeline=pp, data=dp, expert=group, virtual=chunks,
                        placement="pipeline-inside" if near else "data-inside")  # fmt: skip
    plans, rings = Plans.of([plan]), Rings(net=evolve(NET, node=node), cal=CAL)
    nodes = ranks_of(plan) // node
    data = nodes[0, :, :, 0].ravel()
    members = int(rings.inside(np.array([dp * cp]), data_stride(plans, node))[0])
    assert members == np.bincount(data).max()
    stage = nodes[0].ravel()
    if near and dp > 1:
        inside = stage_ranks(plans.tensor, plans.context, plans.pipeline, node, near=True)
        assert min(inside[0], len(stage)) == np.bincount(stage).max()
        # Ranks of a stage are numbered on; every group of them holds all experts once.
        owners = stage[::group]
        members = int(rings.inside(np.array([len(owners)]), owner_stride(plans, node))[0])
        assert members == np.bincount(owners).max()
        first = nodes[:, 0, 0, 0]
        crossed = np.append(first[1:] != first[:-1], [first[0] != first[-1]] * (chunks > 1))
        held = np.maximum(node // (plans.tensor * plans.context), 1)
        share = crossing(plans.pipeline, plans.virtual, held)
        assert share[0] == pytest.approx(crossed.mean())


@settings(max_examples=30, deadline=None)
@given(tp=powers, cp=powers, pp=powers, dp=powers, expert=powers, zero=st.sampled_from([1, 3]),
       fleet=st.sampled_from(["dgx-h100", "gb200-nvl72"]))  # fmt: skip
def test_orders_that_do_not_differ_price_the_same(tp, cp, pp, dp, expert, zero, fleet):
    count = tp * cp * pp * dp
    if pp == 1 or tp * cp * dp % expert or expert % tp or count > 576:
        return
    device, _, cluster = load_fleet(f"{count}x{fleet}")
    job = TrainingJob(model=load_model("mixtral-8x7b"), global_batch=dp * 8, sequence_tokens=4096)
    plan = TrainingPlan(tensor=tp, context=cp, pipeline=pp, data=dp, expert=expert, zero=zero)
    pricer = StepPricer(job=job, recipe=Recipe(), device=device, cluster=cluster)
    pair = Plans.of([plan, evolve(plan, placement="pipeline-inside")])
    node = cluster.tiers[0].devices
    apart, near = pricer.price(pair).seconds
    if not differs(pair.tensor, pair.context, pair.pipeline, pair.data, node, count)[0]:
        assert near == pytest.approx(apart, rel=1e-12)
    else:
        assert near != apart


@settings(max_examples=40, deadline=None)
@given(pp=st.sampled_from([2, 4, 8, 16]), held=st.sampled_from([1, 2, 4, 8]),
       slow=st.floats(1.0, 40.0), rounds=st.integers(4, 8))  # fmt: skip
def test_transfers_of_1f1b_are_nearly_those_of_the_simulated_schedule(pp, held, slow, rounds):
    """Within a sixth, and a period of the pipeline: cycles that end at the fill or drain."""
    tp, m = 8 // held, rounds * pp
    plan = TrainingPlan(tensor=tp, pipeline=pp, data=2, placement="pipeline-inside")
    net = evolve(NET, outer_bytes_per_s=NET.inner_bytes_per_s / slow, inner_latency_s=0.0,
                 outer_latency_s=0.0)  # fmt: skip
    cal = evolve(CAL, scale_up=1.0, network=1.0)
    size = np.array([1e8])
    priced = float(transfer_s(Plans.of([plan]), net, cal, size, np.array([float(m)]))[0])
    inner, outer = (size[0] / rate + LAUNCH_S
                    for rate in (net.inner_bytes_per_s, net.outer_bytes_per_s))  # fmt: skip
    borders = [outer if (b + 1) % held == 0 else inner for b in range(pp)]
    each = StageTimes(forward_s=1.0, backward_s=1.0, weight_s=1.0)
    schedule = find_schedule("1f1b")
    free, paid = (schedule.run([each] * pp, m, transfer_s=t).total_s for t in (0.0, borders))
    # A run of equal borders costs 2 (p - 1) / p of one and is priced as 2.
    exact = paid - free
    assert exact * (1 - 1 / 6) <= priced <= exact * pp / (pp - 1) * (1 + 1 / 6) + 2 * outer


def test_a_plan_says_where_its_stages_lie():
    plan = parse_training_plan("pp4,dp8,mb1,zero1,pipeline-inside")
    assert plan.placement == "pipeline-inside"
    assert parse_training_plan(plan.describe()) == plan
    assert Plans.of([TrainingPlan(), plan]).at(1) == plan
    # A restriction of the search holds for a text that says nothing.
    assert parse_training_plan("pp4,dp8", "pipeline-inside").placement == "pipeline-inside"
    assert parse_training_plan("dp8", "pipeline-inside").placement == "data-inside"
    contrary = parse_training_plan("pp4,data-inside", "pipeline-inside")
    job = TrainingJob(model=load_model("llama-3.1-8b"), global_batch=8, sequence_tokens=4096)
    with pytest.raises(InvalidPlan, match="allows pipeline-inside alone"):
        check_recipe(job, Recipe(placement="pipeline-inside"), contrary)


def test_frameworks_place_stages_inside_nodes_where_they_can():
    job = TrainingJob(model=load_model("mixtral-8x7b"), global_batch=64, sequence_tokens=4096)
    plan = TrainingPlan(tensor=2, pipeline=4, data=8, placement="pipeline-inside")
    flag = "--use-tp-pp-dp-mapping"
    assert flag in emit("megatron", job, Recipe(), plan)
    assert flag not in emit("megatron", job, Recipe(), evolve(plan, placement="data-inside"))
    assert flag in emit("megatron", job, Recipe(), evolve(plan, context=2, data=4, expert=4))
    for other in (evolve(plan, expert=8), evolve(plan, context=2, data=4)):
        with pytest.raises(InvalidInput, match="as many as tensor x context"):
            emit("megatron", job, Recipe(), other)
    with pytest.raises(InvalidInput, match="torchtitan's mesh"):
        emit("torchtitan", job, Recipe(), plan)
