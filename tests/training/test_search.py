import json
import math

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.cli import main
from isoflop.errors import DoesNotFit, InvalidPlan
from isoflop.hardware import load_accelerator, load_fleet
from isoflop.models import FeedForward, LayerGroup, Mixer, ModelSpec, load_model
from isoflop.training.memory import (
    CONTEXT_BYTES,
    FRAGMENTATION,
    least_bytes,
    memory_parts,
    stage_layers,
    total_bytes,
    usable_bytes,
)
from isoflop.training.plan import OPEN, PLACEMENTS, Plans, Recipe, TrainingJob
from isoflop.training.report import MEMORY_ERROR, plan_run
from isoflop.training.search import search_plans
from isoflop.training.space import BATCH_TOLERANCE, SpaceLimits, enumerate_plans, well_divided
from isoflop.training.time import StepPricer

ALL = SpaceLimits(schedules=("gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe"))


def small(layers: int, heads: int, experts: int = 0) -> ModelSpec:
    hidden = heads * 64
    ffn = (
        FeedForward(kind="moe", inner=hidden, experts=experts, experts_per_token=2)
        if experts
        else FeedForward(kind="gated", inner=4 * hidden)
    )
    mixer = Mixer(kind="attention", heads=heads, kv_heads=heads, head_dim=64)
    return ModelSpec(
        id="s", name="small", hidden=hidden, vocab=32000, max_context=4096, source="test",
        layers=(LayerGroup(count=layers, mixer=mixer, ffn=ffn),),
    )  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(
    layers=st.sampled_from([4, 6, 8]), heads=st.sampled_from([4, 8, 16]),
    experts=st.sampled_from([0, 4]), count=st.sampled_from([2, 4, 8, 16]),
    batch=st.sampled_from([8, 24, 64]), device=st.sampled_from(["h100-sxm", "a100-80gb-sxm"]),
    fmt=st.sampled_from(["bf16", "fp8-e4m3"]), exchange=st.sampled_from(["", "8bit"]),
    context=st.sampled_from(["ring", "all-gather", "ulysses"]),
    placement=st.sampled_from(["any", "data-inside", "pipeline-inside"]), overlap=st.booleans(),
)  # fmt: skip
def test_optimum_equals_brute_force_and_the_bound_holds(
    layers, heads, experts, count, batch, device, fmt, exchange, context, placement, overlap
):
    if device.startswith("a100"):
        fmt = "bf16"
    job = TrainingJob(model=small(layers, heads, experts), global_batch=batch, sequence_tokens=1024)
    accelerator = load_accelerator(device)
    recipe = Recipe(format=fmt, exchange=exchange, context=context, placement=placement,
                    overlap_tensor=overlap, overlap_expert=overlap)  # fmt: skip
    quick = search_plans(job, recipe, accelerator, count, limits=ALL)
    full = search_plans(job, recipe, accelerator, count, limits=ALL, prune=False)
    assert quick.seconds[0] == full.seconds.min()
    assert quick.considered == quick.too_large + quick.outbid + quick.priced
    # An offer nobody can beat rules out everything, one slightly dearer leaves the optimum.
    none = search_plans(job, recipe, accelerator, count, limits=ALL, under_s=quick.seconds[0] / 2)
    assert none.priced == 0
    assert none.considered == quick.considered
    near = search_plans(
        job, recipe, accelerator, count, limits=ALL, under_s=quick.seconds[0] * 1.01
    )
    assert near.seconds[0] == quick.seconds[0]
    pricer = StepPricer(job=job, recipe=recipe, device=accelerator)
    root = evolve(full.plans, recompute=np.zeros_like(full.plans.zero))
    assert np.all(pricer.floor_s(full.plans) <= full.seconds)
    assert np.all(pricer.floor_s(root) <= pricer.floor_s(full.plans) * (1 + 1e-9))
    least = least_bytes(job, recipe, full.plans, 3)
    assert np.all(least <= full.memory_bytes * (1 + 1e-12))


@given(count=st.sampled_from([8, 48, 96]), batch=st.sampled_from([96, 192]))
@settings(max_examples=6, deadline=None)
def test_every_plan_divides(count, batch):
    job = TrainingJob(model=small(12, 12), global_batch=batch, sequence_tokens=2048)
    p = enumerate_plans(job, count, evolve(ALL, placement="any"))
    assert np.all(p.tensor * p.pipeline * p.data * p.context == count)
    assert np.all(batch % (p.data * p.micro_batch) == 0)
    assert np.all(12 % p.tensor == 0)
    assert np.all(p.data * p.context % p.shard == 0)
    rows = np.stack([getattr(p, n) for n in (
        "tensor", "pipeline", "context", "data", "expert", "micro_batch", "virtual", "schedule",
        "zero", "recompute", "sequence_parallel", "shard", "first", "last", "placement",
    )], axis=1)  # fmt: skip
    assert len(np.unique(rows, axis=0)) == len(rows)


@settings(max_examples=12, deadline=None)
@given(
    heads=st.sampled_from([4, 8]), experts=st.sampled_from([0, 4]),
    count=st.sampled_from([8, 16, 32]), batch=st.sampled_from([32, 64]),
    links=st.sampled_from([0.02, 0.2, 1.0, 50.0]),
)  # fmt: skip
def test_a_search_over_placements_is_one_search_of_each(heads, experts, count, batch, links):
    """On slow networks and on such as are faster than the links of a node."""
    device, _, cluster = load_fleet("32xdgx-h100")
    outer = cluster.tiers[1]
    fast = evolve(outer, link_bytes_per_s=links * outer.link_bytes_per_s)
    cluster = evolve(cluster, tiers=(cluster.tiers[0], fast))
    job = TrainingJob(model=small(4, heads, experts), global_batch=batch, sequence_tokens=1024)

    def found(placement, **options):
        recipe = Recipe(placement=placement)
        return search_plans(job, recipe, device, count, cluster, limits=ALL, **options)

    both = found("any")
    assert both.seconds[0] == min(found(p).seconds[0] for p in PLACEMENTS)
    assert both.considered == both.too_large + both.outbid + both.priced
    every = found("any", prune=False)
    assert len(every.plans) == both.considered - every.too_large
    # One plan more for each whose stages and data ranks both lie in several places.
    apart = found("data-inside", prune=False).plans
    same = every.plans.take(every.plans.placement == 0)
    assert len(same) == len(apart)
    near = every.plans.take(every.plans.placement == 1)
    assert np.all((near.pipeline > 1) & (near.data > 1) & (near.tensor * near.context < 8))
    assert (len(near) == 0) == (count == 8)
    pricer = StepPricer(job=job, recipe=Recipe(), device=device, cluster=cluster)
    roots = evolve(every.plans, placement=np.full(len(every.plans), OPEN))
    assert np.all(pricer.floor_s(roots) <= every.seconds)


def test_pareto_holds_no_beaten_plan():
    device, count, cluster = load_fleet("64xdgx-h100")
    job = TrainingJob(model=load_model("llama-3.1-8b"), global_batch=256, sequence_tokens=4096)
    found = search_plans(job, Recipe(), device, count, cluster, slack=1.5)
    front = found.pareto()
    assert front[0] == 0
    for i in front:
        better = (found.seconds < found.seconds[i]) & (found.memory_bytes < found.memory_bytes[i])
        assert not better.any()


def test_a_plan_prices_the_same_alone_and_among_many():
    device, count, cluster = load_fleet("32xdgx-h100")
    job = TrainingJob(model=load_model("mixtral-8x7b"), global_batch=64, sequence_tokens=4096)
    found = search_plans(job, Recipe(), device, count, cluster)
    pricer = StepPricer(job=job, recipe=Recipe(), device=device, cluster=cluster)
    for i in (0, len(found.seconds) // 2, len(found.seconds) - 1):
        alone = pricer.price(Plans.of([found.plans.at(i)])).seconds[0]
        assert alone == pytest.approx(found.seconds[i], rel=1e-9)


def test_a_fleet_too_small_names_the_leanest_plan():
    device, _, cluster = load_fleet("h100-sxm")
    job = TrainingJob(model=load_model("llama-3.1-405b"), global_batch=16, sequence_tokens=4096)
    with pytest.raises(DoesNotFit, match="leanest") as caught:
        search_plans(job, Recipe(), device, 8, cluster)
    assert caught.value.needed_bytes > caught.value.available_bytes


def test_a_batch_that_divides_nothing_is_a_sentence():
    job = TrainingJob(model=small(4, 4), global_batch=3, sequence_tokens=1025)
    with pytest.raises(InvalidPlan, match="divide"):
        enumerate_plans(job, 64)


@settings(max_examples=8, deadline=None)
@given(
    layers=st.sampled_from([7, 8, 10]), count=st.sampled_from([2, 4, 8]),
    share=st.floats(0.3, 0.9), sequence=st.sampled_from([1024, 4096]),
)  # fmt: skip
def test_the_fewest_recomputed_layers_that_fit_are_as_fast_as_any(layers, count, share, sequence):
    job = TrainingJob(model=small(layers, 8), global_batch=16, sequence_tokens=sequence)
    device, recipe = load_accelerator("h100-sxm"), Recipe()
    limits = SpaceLimits(micro_batch=16, schedules=("gpipe", "1f1b", "interleaved"))
    plans = enumerate_plans(job, count, limits)
    needed = total_bytes(memory_parts(job, recipe, plans))
    # A device that holds some plans and not others.
    room = needed.min() + share * (np.quantile(needed, 0.9) - needed.min())
    capacity = (room + CONTEXT_BYTES) / (1.0 - FRAGMENTATION)
    tight = evolve(device, memory=evolve(device.memory, capacity_bytes=capacity))
    found = search_plans(job, recipe, tight, count, limits=limits)
    pricer = StepPricer(job=job, recipe=recipe, device=tight)
    best = np.inf
    for n in range(layers):
        mixed = evolve(plans, full_layers=np.full(len(plans), n))
        fits = total_bytes(memory_parts(job, recipe, mixed)) <= usable_bytes(tight)
        fits &= (plans.recompute < 2) & ((plans.first + plans.last == 0) | (n == 0)) | (n == 0)
        fits &= (n == 0) | (n < stage_layers(job, recipe, plans))
        if fits.any():
            best = min(best, float(pricer.price(mixed.take(fits)).seconds.min()))
    assert found.seconds[0] == pytest.approx(best, rel=1e-12)


def test_uneven_ends_are_searched_where_layers_do_not_divide():
    job = TrainingJob(model=small(13, 8), global_batch=64, sequence_tokens=1024)
    p = enumerate_plans(job, 4, SpaceLimits(tensor=1, schedules=("1f1b",)))
    four = p.take(p.pipeline == 4)
    assert set(zip(four.first.tolist(), four.last.tolist(), strict=True)) == {(3, 2)}
    pricer = StepPricer(job=job, recipe=Recipe(), device=load_accelerator("h100-sxm"))
    even = evolve(four, first=0 * four.first, last=0 * four.last)
    gain = pricer.price(even).seconds / pricer.price(four).seconds
    assert gain.min() >= 1.0 - 1e-9
    # With many micro-batches the last stage, which has the head, no longer holds the others up.
    assert gain[four.micro_batch == 1].min() > 1.05
    needed = [total_bytes(memory_parts(job, Recipe(), p)) for p in (four, even)]
    assert np.all(needed[0] <= needed[1] * (1 + 1e-12))


def test_the_roomy_plan_is_the_fastest_that_a_wrong_peak_would_still_fit():
    """Against a search of the same space on a device with so much less memory."""
    device, count, cluster = load_fleet("512xdgx-h100")
    job = TrainingJob(model=load_model("llama-3.1-70b"), global_batch=1024, sequence_tokens=4096)
    report = plan_run(job, Recipe(), device, count, cluster)
    assert sum(report.memory.values()) * (1 + MEMORY_ERROR) > report.usable_bytes
    assert report.roomy is not None
    held = usable_bytes(device) / (1 + MEMORY_ERROR)
    less = evolve(device.memory, capacity_bytes=_capacity(device, held))
    again = plan_run(job, Recipe(), evolve(device, memory=less), count, cluster)
    assert report.roomy_s == pytest.approx(again.step_s, rel=1e-9)
    assert again.roomy is None or again.roomy_s >= again.step_s


def _capacity(device, usable):
    """The capacity of which so much is usable, which is linear in it."""
    one, two = (usable_bytes(evolve(device, memory=evolve(device.memory, capacity_bytes=c)))
                for c in (1e11, 2e11))  # fmt: skip
    return 1e11 + (usable - one) / (two - one) * 1e11


@given(wanted=st.floats(0.6, 1e4))
def test_batches_in_tokens_divide_well(wanted):
    """No number of sequences as near is divided by a higher power of two."""
    found = well_divided(wanted)
    low, high = (1.0 - BATCH_TOLERANCE) * wanted, (1.0 + BATCH_TOLERANCE) * wanted
    near = [n for n in range(math.ceil(low), math.floor(high) + 1) if n > 0]
    if near:
        assert found in near
        assert found & -found == max(n & -n for n in near)
    else:
        assert found == max(1, round(wanted))


@pytest.mark.parametrize(
    ("tokens", "length", "sequences"),
    [("4M", 4096, 1024), ("60M", 4096, 14336), ("4194304", 4096, 1024), ("100K", 4096, 24)],
)
def test_the_command_moves_a_batch(capsys, tokens, length, sequences):
    main(["plan", "llama-3.1-8b", "--on", "64xdgx-h100", "--batch", tokens, "--seq", str(length),
          "--json"])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["global_batch"] == sequences
