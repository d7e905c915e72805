"""Activations kept narrow, computed again by module, and kept in host memory."""

import json

import numpy as np
import pytest
from attrs import evolve

from isoflop.cli import main
from isoflop.errors import InvalidInput
from isoflop.hardware import load_accelerator, load_fleet
from isoflop.models import load_model
from isoflop.training.activations import activation_modules, kept_bytes
from isoflop.training.emit import emit
from isoflop.training.memory import (
    fewest_layers,
    memory_parts,
    total_bytes,
    usable_bytes,
    usable_host_bytes,
)
from isoflop.training.offload import host_bytes
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.plan_text import parse_training_plan
from isoflop.training.search import fill_memory, search_plans
from isoflop.training.space import SpaceLimits
from isoflop.training.time import StepPricer

LLAMA = load_model("llama-3.1-8b")
DEEPSEEK = load_model("deepseek-v3")
ONE = Plans.of([TrainingPlan()])


def job(model, sequence=4096, batch=8) -> TrainingJob:
    return TrainingJob(model=model, global_batch=batch, sequence_tokens=sequence)


def layer(model, recipe, plan=ONE) -> float:
    return float(kept_bytes(job(model), recipe, plan)[0][0]) / 4096


def test_inputs_of_8_bit_products_are_kept_in_8_bits():
    wide = Recipe(format="fp8-e4m3")
    narrow = evolve(wide, narrow_activations=True)
    # Norm outputs before both halves and the input of the down projection take a byte instead of
    # two; attention's output stays in 16 bits beside its 8-bit copy.
    saved = 2 * LLAMA.hidden + 14336 - 32 * 128
    assert layer(LLAMA, wide) - layer(LLAMA, narrow) == pytest.approx(saved)
    assert layer(LLAMA, evolve(narrow, format="bf16")) == layer(LLAMA, Recipe())


@pytest.mark.parametrize(
    ("module", "saved"),
    [
        ("layernorm", 2 * 2 * 4096), ("mlp", 2 * 3 * 14336), ("moe_act", 0), ("mla_up_proj", 0),
        ("shared_experts", 0),
    ],
)  # fmt: skip
def test_what_a_recomputed_module_frees_in_a_dense_model(module, saved):
    again = Recipe(recompute_modules=(module,))
    assert layer(LLAMA, Recipe()) - layer(LLAMA, again) == pytest.approx(saved)


def test_what_recomputed_modules_free_in_a_mixture_with_latent_attention():
    def freed(module: str) -> float:
        again = Recipe(recompute_modules=(module,))
        return (layer(DEEPSEEK, Recipe()) - layer(DEEPSEEK, again)) * DEEPSEEK.depth

    # 128 heads of 192 for queries and keys and 128 for values, of all 61 layers.
    assert freed("mla_up_proj") == pytest.approx(61 * 2 * 128 * (192 + 192 + 128))
    assert freed("moe_act") == pytest.approx(58 * 2 * 8 * 2048)
    assert freed("shared_experts") == pytest.approx(58 * 2 * 3 * 2048)


def test_modules_take_time_that_their_kernels_take():
    device = load_accelerator("h100-sxm")
    plan = Plans.of([TrainingPlan()])

    def seconds(*modules: str) -> float:
        recipe = Recipe(recompute_modules=modules)  # type: ignore[arg-type]
        step = StepPricer(job=job(DEEPSEEK), recipe=recipe, device=device).price(plan)
        return float(step.parts["recompute"][0])

    assert seconds() == 0.0
    parts = [seconds(m) for m in ("mla_up_proj", "moe_act", "shared_experts", "layernorm")]
    assert min(parts) > 0.0
    together = seconds("mla_up_proj", "moe_act", "shared_experts", "layernorm")
    assert together == pytest.approx(sum(parts))
    whole = Plans.of([TrainingPlan(recompute="full")])
    everything = StepPricer(job=job(DEEPSEEK), recipe=Recipe(), device=device).price(whole)
    assert together < float(everything.parts["recompute"][0])


def test_sequence_parallel_ranks_send_their_own_share_of_tokens():
    half = layer(DEEPSEEK, Recipe(), Plans.of([TrainingPlan(tensor=2, sequence_parallel=True)]))
    assert half == pytest.approx(layer(DEEPSEEK, Recipe()) / 2)


def test_modules_of_a_layer_add_up():
    plan = Plans.of([TrainingPlan(tensor=2, sequence_parallel=True)])
    recipe = Recipe(imbalance=1.5, format="fp8-e4m3", narrow_activations=True)
    rows = activation_modules(job(DEEPSEEK), recipe, plan)
    total = sum(
        r["layers"] * (r["attention_and_norms"] + r["feed_forward"] + r["routed_experts"])
        for r in rows
    )
    assert total == pytest.approx(float(kept_bytes(job(DEEPSEEK), recipe, plan)[0][0]) * 61)


def test_host_memory_holds_what_the_device_does_not():
    recipe = Recipe()
    plans = Plans.of([TrainingPlan(data=8, zero=3), TrainingPlan(data=8, zero=3, offload_layers=5)])
    parts = memory_parts(job(LLAMA), recipe, plans)["activations"]
    away = host_bytes(job(LLAMA), recipe, plans)
    assert away[0] == 0.0
    assert away[1] == pytest.approx(parts[0] * 5 / 32)
    assert parts[0] - parts[1] == pytest.approx(away[1])


@pytest.mark.parametrize("away", [False, True])
def test_the_fewest_layers_that_fit(away):
    task, recipe = job(LLAMA, 8192, 64), Recipe()
    plans = Plans.of([TrainingPlan(data=8, micro_batch=m, zero=3) for m in (2, 4)])
    available = 0.5 * total_bytes(memory_parts(task, recipe, plans))
    name = "offload_layers" if away else "full_layers"
    for i in range(len(plans)):
        one = plans.take(slice(i, i + 1))
        fewest = int(fewest_layers(task, recipe, one, float(available[i]), away=away)[0])
        fits = [
            float(total_bytes(memory_parts(task, recipe, evolve(one, **{name: np.array([n])})))[0])
            <= available[i]
            for n in range(1, 32)
        ]  # fmt: skip
        assert fewest == 1 + fits.index(True)


@pytest.mark.parametrize(("device", "published"), [("gb200", 40), ("gb300", 20)])
def test_published_runs_offload_about_as_many_layers(device, published):
    """Llama 3 70B, FP8, FSDP over 64, two sequences of 8,192: Megatron-Bridge's benchmark
    configurations give `cpu_offloading_num_layers`."""
    task = job(load_model("llama-3.1-70b"), 8192, 128)
    recipe = Recipe(format="fp8-e4m3", narrow_activations=True, gradient_bytes=2.0)
    plans = Plans.of([TrainingPlan(data=64, micro_batch=2, zero=3)])
    spec, _, cluster = load_fleet(f"64x{device}-nvl72")
    usable = usable_bytes(spec)
    filled, needed = fill_memory(task, recipe, plans, usable, host=usable_host_bytes(cluster))
    assert needed[0] <= usable
    assert abs(int(filled.offload_layers[0]) - published) <= 4


def test_copies_outlast_a_slow_link_only():
    task = job(load_model("llama-3.1-70b"), 8192, 128)
    plans = Plans.of([TrainingPlan(data=64, micro_batch=2, zero=3, offload_layers=42)])
    gb200, _, cluster = load_fleet("64xgb200-nvl72")
    slow = evolve(gb200, links=evolve(gb200.links, host_bytes_per_s=16e9))
    quick = StepPricer(job=task, recipe=Recipe(), device=gb200, cluster=cluster).price(plans)
    late = StepPricer(job=task, recipe=Recipe(), device=slow, cluster=cluster).price(plans)
    assert quick.parts["offload"][0] == 0.0
    assert late.parts["offload"][0] > 0.1 * late.seconds[0]


def test_a_search_takes_host_memory_where_it_is_quicker():
    """With a fast host link copies hide; the optimum equals that of all plans with all counts."""
    gb200, count, cluster = load_fleet("8xgb200-nvl72")
    small = evolve(gb200, memory=evolve(gb200.memory, capacity_bytes=40e9))
    task = job(LLAMA, 8192, 32)
    limits = SpaceLimits(zero=(3,), recompute=("none",), schedules=("1f1b",), pipeline=1)
    plain = search_plans(task, Recipe(), small, count, cluster, limits=limits)
    recipe = Recipe(offload_activations=True)
    found = search_plans(task, recipe, small, count, cluster, limits=limits)
    assert found.best.offload_layers > 0
    assert found.seconds[0] < plain.seconds[0]
    assert found.considered == found.too_large + found.outbid + found.priced
    pricer = StepPricer(job=task, recipe=recipe, device=small, cluster=cluster)
    every = search_plans(task, recipe, small, count, cluster, limits=limits, prune=False)
    best = np.inf
    for i in range(len(every.plans)):
        one = every.plans.take(slice(i, i + 1))
        for n in range(33):
            tried = evolve(one, full_layers=np.array([0]), offload_layers=np.array([n]))
            if total_bytes(memory_parts(task, recipe, tried))[0] <= usable_bytes(small):
                best = min(best, float(pricer.price(tried).seconds[0]))
    assert found.seconds[0] == pytest.approx(best)


def test_plans_with_offloaded_layers_read_back():
    plan = parse_training_plan("zero3,offload20,mb2")
    assert plan.offload_layers == 20
    assert parse_training_plan(plan.describe()) == plan


def test_what_cannot_be(capsys):
    with pytest.raises(InvalidInput, match="mla_up_proj"):
        Recipe(recompute_modules=("attention",))  # type: ignore[arg-type]
    for plan, word in (("zero3,offload40", "32 to spare"), ("zero3,full,offload1", "")):
        code = 0
        try:
            main(["plan", "llama-3.1-8b", "--on", "8xh100-sxm", "--plan", plan, "--json"])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out = capsys.readouterr()
        if word:
            assert code == 2
            assert word in out.err
        else:
            assert json.loads(out.out)["plan"].startswith("dp8,mb1,zero3")


def test_megatron_is_told_the_modules_and_the_moments():
    recipe = Recipe(recompute_modules=("mla_up_proj", "moe_act"), optimizer="adam16")
    text = emit("megatron", job(DEEPSEEK), recipe, TrainingPlan(data=8, recompute="selective"))
    assert "--recompute-granularity selective" in text
    assert "--recompute-modules core_attn mla_up_proj moe_act" in text
    assert "--optimizer adam \\\n" in text
    assert "--exp-avg-sq-dtype bf16" in text
    with pytest.raises(InvalidInput, match="whole layers or single modules"):
        emit("megatron", job(DEEPSEEK), recipe, TrainingPlan(data=8, recompute="full"))
    with pytest.raises(InvalidInput, match="mla_up_proj"):
        emit("torchtitan", job(DEEPSEEK), recipe, TrainingPlan(data=8))
    with pytest.raises(InvalidInput, match="cpu_offloading_num_layers"):
        emit("megatron", job(LLAMA), Recipe(), TrainingPlan(data=8, zero=3, offload_layers=4))
