"""Offload of weights and state: an event-by-event oracle, capacities, the search, settings."""

import json

import numpy as np
import pytest
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isoflop.cli import main
from isoflop.errors import DoesNotFit, InvalidInput, InvalidPlan
from isoflop.hardware import Cluster, Host, load_accelerator, load_cluster, load_fleet
from isoflop.models import load_model
from isoflop.training.emit import emit
from isoflop.training.memory import (
    CONTEXT_BYTES,
    FRAGMENTATION,
    least_bytes,
    memory_parts,
    total_bytes,
    usable_bytes,
    usable_host_bytes,
)
from isoflop.training.method import Setting, find_training_method
from isoflop.training.offload import (
    HOST_LINK_SHARE,
    NVME_SHARE,
    away_parts,
    fits_away,
    host_link_bytes_per_s,
    layer_traffic,
    least_away_bytes,
    moving_s,
    outlasting_s,
    usable_nvme_bytes,
)
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.plan_text import parse_training_plan
from isoflop.training.report import describe_plan, explain_why_not
from isoflop.training.search import search_plans
from isoflop.training.space import SpaceLimits, enumerate_plans
from isoflop.training.time import StepPricer
from tests.training.test_search import small

JOB = TrainingJob(model=load_model("gpt3-13b"), global_batch=64, sequence_tokens=2048)
NVME = Recipe(offload="nvme", offload_weights="nvme")


def plans(text):
    return Plans.of([parse_training_plan(text)])


def node(host, devices=2):
    return Cluster(id="n", name="node", accelerator="h100-sxm", devices_per_node=devices,
                   tiers=load_cluster("dgx-h100").tiers, host=host)  # fmt: skip


def test_a_plan_says_where_its_weights_are():
    plan = parse_training_plan("dp8,mb2,zero3,weights=nvme")
    assert plan.offload_weights == "nvme"
    assert parse_training_plan(plan.describe()) == plan
    assert Plans.of([plan]).at(0) == plan


@pytest.mark.parametrize("text", ["dp8,zero2,weights=cpu", "pp2,zero3,weights=cpu"])
def test_weights_leave_as_shards_without_a_pipeline(text):
    with pytest.raises(InvalidPlan, match="ZeRO 3"):
        parse_training_plan(text)


def test_weights_stay_where_the_state_that_copies_them_does():
    with pytest.raises(InvalidInput, match="--offload cpu"):
        Recipe(offload_weights="cpu")
    device, count, cluster = load_fleet("8xdgx-a100")
    plan = parse_training_plan("dp8,mb1,zero3,weights=cpu")
    with pytest.raises(InvalidPlan, match="--offload cpu"):
        describe_plan(JOB, Recipe(), device, count, plan, cluster)
    assert Recipe(offload_weights="cpu", adapters=True).state_is_away


@pytest.mark.parametrize(("ranks", "place"), [(1, "cpu"), (8, "cpu"), (8, "nvme")])
def test_bytes_are_in_one_place_each(ranks, place):
    # 2 of weights, 4 of gradients and 12 of state per parameter, over the ranks.
    n = JOB.model.parameters
    recipe = Recipe(offload=place, offload_weights=place)
    host, drives = away_parts(JOB, recipe, plans(f"dp{ranks},zero3,weights={place}"))
    here = {k: float(v[0]) for k, v in (host if place == "cpu" else drives).items()}
    assert here["weights"] == pytest.approx(2.0 * n / ranks)
    assert here["gradients"] == pytest.approx(4.0 * n / ranks)
    assert here["optimizer"] == pytest.approx(12.0 * n / ranks)
    there = drives if place == "cpu" else {k: v for k, v in host.items() if k != "buffers"}
    assert sum(float(v[0]) for v in there.values()) == 0.0
    on_device = memory_parts(JOB, recipe, plans(f"dp{ranks},zero3,weights={place}"))
    for part in ("weights", "gradients", "optimizer"):
        assert on_device[part][0] == 0.0


def test_weights_that_stay_are_counted_where_no_master_copy_is():
    away = memory_parts(JOB, Recipe(offload="cpu"), plans("dp8,zero3"))
    assert away["weights"][0] == pytest.approx(2.0 * JOB.model.parameters / 8)
    # On the device the sharded master copies are the weights.
    assert memory_parts(JOB, Recipe(), plans("dp8,zero3"))["weights"][0] == 0.0


def prefetched(layers, fetch_s, compute_s):
    """Seconds of one pass, event by event: one fetch at a time, each a layer ahead of compute.

    The first layer is there, as the pass before fetched it beside its last one.
    """
    link = done = ready = 0.0
    for _ in range(layers):
        start = max(done, ready)
        # The next layer comes into the buffer that the last one left.
        ready = link = max(link, start) + fetch_s
        done = start + compute_s
    return max(done, ready)  # the next pass cannot start before its first layer is there


@settings(max_examples=40, deadline=None)
@given(ratio=st.floats(0.05, 20.0), gather=st.floats(0.0, 2.0), beside=st.booleans())
def test_exposed_fetching_equals_an_event_simulation(ratio, gather, beside):
    device, _, cluster = load_fleet("8xdgx-a100")
    recipe = Recipe(offload="cpu", offload_weights="cpu", overlap_data=beside)
    plan = plans("dp8,zero3,weights=cpu")
    moving = moving_s(layer_traffic(JOB, recipe, plan), device, cluster, 8)
    passes = moving[0] * ratio, moving[1] * ratio
    gathers = moving[0] * gather, moving[1] * gather
    exposed = outlasting_s(JOB, recipe, plan, device, cluster, 8, passes, gathers)
    depth = JOB.model.depth
    for fetch, compute, extra, shown in zip(moving, passes, gathers, exposed, strict=True):
        whole = float((compute + extra)[0])
        seconds = prefetched(depth, float(fetch[0]), whole) if beside else depth * (
            whole + float(fetch[0]))  # fmt: skip
        assert depth * (whole + float(shown[0])) == pytest.approx(seconds)


@settings(max_examples=30, deadline=None)
@given(
    link=st.floats(1e9, 1e11), memory=st.floats(1e10, 1e12), read=st.floats(1e9, 1e11),
    write=st.floats(1e9, 1e11), together=st.sampled_from([0.0, 5e9, 5e10]),
    state=st.sampled_from(["cpu", "nvme"]), place=st.sampled_from(["cpu", "nvme"]),
    micro=st.sampled_from([1, 2, 8]),
)  # fmt: skip
def test_traffic_of_a_layer_by_hand(link, memory, read, write, together, state, place, micro):
    model, ranks, devices = JOB.model, 8, 2
    host = Host(memory_bytes=1e12, memory_bandwidth_bytes_per_s=memory, link_bytes_per_s=together,
                nvme_read_bytes_per_s=read, nvme_write_bytes_per_s=write,
                source="test")  # fmt: skip
    device = load_accelerator("h100-sxm")
    device = evolve(device, links=evolve(device.links, host_bytes_per_s=link))
    recipe = Recipe(offload=state, offload_weights=place)
    plan = plans(f"dp{ranks},mb{micro},zero3,weights={place}")
    forward, backward = moving_s(layer_traffic(JOB, recipe, plan), device, node(host), devices)
    own = model.parameters / ranks / model.depth
    rate = HOST_LINK_SHARE * min(link, memory / devices, together / devices or link)
    batches = JOB.global_batch / ranks / micro
    weights, gradients = 2.0 * own, 4.0 * own
    f, b = [weights / rate], [weights / rate, gradients / rate]
    reading = 0.0
    if place == "nvme":
        f.append(weights / (read / devices))
        reading = weights
    if state == "nvme":
        # Of the step's micro-batches all but the first find gradients there to add to.
        reading += gradients * (batches - 1) / batches
    b.append(reading / (read / devices) + (state == "nvme") * gradients / (write / devices))
    assert forward[0] == pytest.approx(max(f))
    assert backward[0] == pytest.approx(max(b))


@pytest.mark.parametrize("text", ["dp8,mb2,zero3,weights=cpu", "dp8,zero3,full,weights=nvme"])
def test_the_peak_over_time_is_the_closed_form(text):
    device, count, cluster = load_fleet("8xdgx-a100")
    report = describe_plan(JOB, NVME, device, count, parse_training_plan(text), cluster)
    line = report.timeline().fullest()
    assert line.peak_bytes == pytest.approx(sum(report.memory.values()))


def priced(recipe, text, fleet="64xdgx-a100", job=JOB):
    device, _, cluster = load_fleet(fleet)
    pricer = StepPricer(job=job, recipe=recipe, device=device, cluster=cluster)
    return {k: float(v[0]) for k, v in pricer.price(plans(text)).parts.items()}


def test_large_micro_batches_hide_the_link_and_drives_show_before_memory():
    cpu = Recipe(offload="cpu", offload_weights="nvme")
    few, many = (priced(cpu, f"dp64,mb{n},zero3,full,weights=cpu", job=evolve(JOB, global_batch=b))
                 for n, b in ((1, 64), (16, 1024)))  # fmt: skip
    assert many["offload"] < 0.02 * sum(many.values())
    assert many["offload"] <= few["offload"]
    drives = priced(cpu, "mb1,zero3,full,weights=nvme", "workstation")
    memory = priced(cpu, "mb1,zero3,full,weights=cpu", "workstation")
    assert drives["offload"] > 2 * memory["offload"] > 0


def test_links_of_all_nodes_fetch_at_once():
    # Twice the ranks fetch half as much each: bandwidth grows with them (section 6.1).
    job = evolve(JOB, global_batch=1024)
    device, _, cluster = load_fleet("dgx-2")
    recipe = Recipe(offload="cpu", offload_weights="cpu")
    times = [
        float(moving_s(layer_traffic(job, recipe, plans(f"dp{n},zero3,weights=cpu")), device,
                       cluster, 16)[0][0])
        for n in (16, 32, 64)
    ]  # fmt: skip
    assert times == pytest.approx([times[0], times[0] / 2, times[0] / 4])
    # Sixteen GPUs of a DGX-2 share 48 GB/s, where one alone has more (ZeRO-Infinity).
    assert host_link_bytes_per_s(device, cluster) == pytest.approx(HOST_LINK_SHARE * 3e9)
    assert host_link_bytes_per_s(device, None) > HOST_LINK_SHARE * 12e9


@settings(max_examples=12, deadline=None)
@given(
    layers=st.sampled_from([4, 6]), heads=st.sampled_from([8, 16]), experts=st.sampled_from([0, 4]),
    count=st.sampled_from([1, 2, 4, 8]), batch=st.sampled_from([8, 32]),
    state=st.sampled_from(["cpu", "nvme"]), weights=st.sampled_from(["none", "cpu", "nvme"]),
    activations=st.booleans(), share=st.floats(0.05, 1.0), host=st.floats(0.02, 1.5),
    fast=st.booleans(),
)  # fmt: skip
@example(
    layers=4, heads=16, experts=0, count=1, batch=8, state="cpu", weights="none",
    activations=False, share=0.9999999999999999, host=1.5, fast=True,
)  # fmt: skip
def test_the_search_equals_brute_force_where_things_leave_the_device(
    layers, heads, experts, count, batch, state, weights, activations, share, host, fast
):
    job = TrainingJob(model=small(layers, heads, experts), global_batch=batch, sequence_tokens=1024)
    recipe = Recipe(offload=state, offload_weights=weights, offload_activations=activations)
    limits = SpaceLimits(micro_batch=8, mixes=False, weights=tuple(
        range(("none", "cpu", "nvme").index(weights) + 1)))  # fmt: skip
    space = enumerate_plans(job, count, limits)
    needed = total_bytes(memory_parts(job, recipe, space))
    device = load_accelerator("h100-sxm")
    # Beyond what rounding the capacity takes away, so that a plan that fills it fits.
    room = (needed.min() + share * (needed.max() - needed.min())) * (1.0 + 1e-9)
    device = evolve(device, memory=evolve(
        device.memory, capacity_bytes=(room + CONTEXT_BYTES) / (1.0 - FRAGMENTATION)))  # fmt: skip
    away = [sum(p.values()) for p in away_parts(job, recipe, space)]
    # A link so fast that crossing costs nothing, or one so slow that it is the step.
    device = evolve(device, links=evolve(device.links, host_bytes_per_s=1e12 if fast else 2e9))
    box = Host(memory_bytes=2 * host * away[0].max() + 1e6, memory_bandwidth_bytes_per_s=4e11,
               nvme_bytes=2 * host * away[1].max() + 1e6, nvme_read_bytes_per_s=2e10,
               nvme_write_bytes_per_s=1e10, source="test")  # fmt: skip
    cluster = node(box)
    fits = (needed <= usable_bytes(device)) & fits_away(job, recipe, space, cluster)
    pricer = StepPricer(job=job, recipe=recipe, device=device, cluster=cluster)
    if not fits.any():
        with pytest.raises(DoesNotFit):
            search_plans(job, recipe, device, count, cluster, limits=limits)
        return
    found = search_plans(job, recipe, device, count, cluster, limits=limits)
    best = pricer.price(space.take(fits)).seconds.min()
    assert found.seconds[0] == pytest.approx(best, rel=1e-12)
    assert found.considered == found.too_large + found.outbid + found.priced == len(space)
    full = search_plans(job, recipe, device, count, cluster, limits=limits, prune=False)
    assert len(full.seconds) == fits.sum()
    # Bounds: of time for every plan, of bytes on the device and away from it.
    assert np.all(pricer.floor_s(space) <= pricer.price(space).seconds)
    assert np.all(least_bytes(job, recipe, space, 3) <= needed * (1 + 1e-12))
    for least, used in zip(least_away_bytes(job, recipe, space), away, strict=True):
        assert np.all(least <= used * (1 + 1e-12))


def test_host_memory_and_drives_have_ends():
    device, count, cluster = load_fleet("8xdgx-a100")
    assert usable_nvme_bytes(cluster) == pytest.approx(NVME_SHARE * 30.72e12 / 8)
    job = TrainingJob(model=load_model("gpt3-175b"), global_batch=64, sequence_tokens=2048)
    cpu = Recipe(offload="cpu", offload_weights="cpu")
    with pytest.raises(DoesNotFit, match=r"in host memory.*optimizer state") as caught:
        search_plans(job, cpu, device, count, cluster)
    assert caught.value.available_bytes == usable_host_bytes(cluster)
    wide = evolve(job, model=load_model("mt-nlg-530b"))  # 16-bit weights alone exceed the devices
    found = search_plans(wide, NVME, device, count, cluster)
    assert found.best.offload_weights != "none"
    report = describe_plan(wide, NVME, device, count, found.best, cluster)
    assert report.fits
    # Seventeen times the model on the same drives.
    large = evolve(job, model=load_model("megatron-1008b"))
    with pytest.raises(DoesNotFit, match=r"on drives|usable per device"):
        search_plans(large, NVME, device, 1, cluster)


def test_why_not_names_the_memory_that_is_short():
    device, count, cluster = load_fleet("8xdgx-a100")
    job = TrainingJob(model=load_model("gpt3-175b"), global_batch=64, sequence_tokens=2048)
    recipe = Recipe(offload="cpu", offload_weights="cpu", master_bytes=0.0, optimizer="adam8bit")
    plan = parse_training_plan("dp8,mb1,zero3,full,weights=cpu")
    report = describe_plan(job, recipe, device, count, plan, cluster)
    other = parse_training_plan("dp8,mb1,zero2,full")
    assert "does not fit" in explain_why_not(report, other, cluster)
    more = evolve(report, recipe=Recipe(offload="cpu", offload_weights="cpu"))
    assert "in host memory" in explain_why_not(more, plan, cluster)


def test_deepspeed_reads_both_places():
    plan = parse_training_plan("dp8,mb2,zero3,weights=nvme")
    zero = json.loads(emit("deepspeed", JOB, NVME, plan))["zero_optimization"]
    assert zero["offload_param"] == {"device": "nvme", "pin_memory": True,
                                     "nvme_path": "/local_nvme"}  # fmt: skip
    assert zero["offload_optimizer"]["device"] == "nvme"
    stays = json.loads(emit("deepspeed", JOB, Recipe(offload="cpu"), TrainingPlan(data=8, zero=3)))
    assert "offload_param" not in stays["zero_optimization"]
    with pytest.raises(InvalidInput, match="ZeRO 3"):
        emit("deepspeed", JOB, Recipe(offload="nvme"), TrainingPlan(data=8, zero=2))
    with pytest.raises(InvalidInput, match="deepspeed"):
        emit("megatron", JOB, Recipe(offload="cpu", offload_weights="cpu"),
             parse_training_plan("dp8,zero3,weights=cpu"))  # fmt: skip


def test_the_screen_shows_host_and_drives(capsys):
    main(["plan", "gpt3-13b", "--on", "workstation", "--plan", "mb8,zero3,full,weights=nvme",
          "--offload", "nvme", "--global-batch", "8", "--seq", "2048"])  # fmt: skip
    out = capsys.readouterr().out
    assert "Drives" in out
    assert "Host memory" in out
    main(["plan", "gpt3-13b", "--on", "workstation", "--offload", "nvme", "--offload-weights",
          "nvme", "--global-batch", "8", "--seq", "2048", "--json"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert sum(found["drive_parts_bytes"].values()) <= found["usable_drive_bytes"]
    assert "weights=" in found["plan"]


@pytest.mark.parametrize("batch", [16, 32, 64])
def test_a_plan_and_fuyous_closed_form_price_the_same_machine_alike(batch):
    # Fuyou's synchronous way is ZeRO-Infinity's order: fetch and recompute, then the CPU's update.
    settings = find_training_method("fuyou").complete({"batch": float(batch)})
    device, _, _ = load_fleet("rtx-4090")
    setting = Setting(model=JOB.model, device=device, sequence_tokens=1024)
    row = find_training_method("fuyou").run(setting, settings).rows()[0]
    pcie = settings["pcie"] * 1e9 / HOST_LINK_SHARE
    device = evolve(device, links=evolve(device.links, host_bytes_per_s=pcie))
    # 12 bytes of state a parameter at its CPU's rate, of 34 that an update moves here.
    memory = settings["adam"] * 1e9 / 12.0 * 34.0 / 0.5
    drives = settings["ssds"] * 1e9
    box = Host(memory_bytes=768e9, memory_bandwidth_bytes_per_s=memory, nvme_bytes=40e12,
               nvme_read_bytes_per_s=drives * settings["ssd_read"],
               nvme_write_bytes_per_s=drives * settings["ssd_write"], source="test")  # fmt: skip
    job = TrainingJob(model=JOB.model, global_batch=batch, sequence_tokens=1024)
    pricer = StepPricer(job=job, recipe=evolve(NVME, gradient_bytes=2.0), device=device,
                        cluster=evolve(load_cluster("workstation"), host=box))  # fmt: skip
    step = pricer.price(plans(f"mb{batch},zero3,full,weights=nvme"))
    assert float(step.seconds[0]) == pytest.approx(row["step_s"], rel=0.12)
    assert float(step.parts["optimizer"][0]) == pytest.approx(row["optimizer_s"], rel=0.25)
