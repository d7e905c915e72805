"""Routed experts in training: kernels around their products, launches, recomputation, presets."""

import numpy as np
import pytest

from isoflop.cost.features import Batch
from isoflop.cost.operators.training import training_operators
from isoflop.cost.timing import linear
from isoflop.errors import InvalidInput
from isoflop.evidence.bridge import preset_of
from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.training.emit import emit
from isoflop.training.memory import memory_parts, total_bytes
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.published import published_runs
from isoflop.training.search import search_plans
from isoflop.training.time import StepPricer
from isoflop.training.utilization import step_flop

JOB = TrainingJob(model=load_model("qwen3-30b-a3b"), global_batch=512, sequence_tokens=4096)
PLAN = TrainingPlan(data=16, expert=16, micro_batch=1)


def step(recipe: Recipe, plan: TrainingPlan = PLAN):
    device, _, cluster = load_fleet("16xdgx-h100")
    pricer = StepPricer(job=JOB, recipe=recipe, device=device, cluster=cluster)
    return pricer.price(Plans.of([plan]))


@pytest.mark.parametrize(("data", "expert"), [(1, 1), (8, 8)])
def test_kernels_around_experts_move_every_copy(data, expert):
    """k copies of a token are sorted, activated and summed; ranks compute as many as they send."""
    ops = training_operators(JOB.model, Plan(data=data, expert=expert))
    batch = Batch(prefill_sequences=1.0, prefill_tokens=100.0, sampled_rows=100.0)
    h, inner, k = 2048, 768, 8
    expected = {
        "permutation": (2 * k * h, 2 * k * h),
        "activation": (2 * k * 2 * inner, 2 * k * inner),
        "sum": (2 * k * h, 2 * h),
    }
    for name, (read, written) in expected.items():
        op = next(o for o in ops.forward if o.name == f"routed experts {name}")
        assert float(linear(op.read, batch)) == pytest.approx(100 * read)
        assert float(linear(op.written, batch)) == pytest.approx(100 * written)
    assert sum(o.name.startswith("routed experts") for o in ops.input_gradient) == 4


def test_graphs_take_launches_away():
    host = {g: step(Recipe(graphs=g)).parts["host"][0] for g in ("none", "layers", "iteration")}
    assert host["none"] > 1.5 * host["layers"] > 1.5 * host["iteration"]
    dense = step(Recipe(graphs="layers"), TrainingPlan(data=16))
    assert dense.seconds[0] <= step(Recipe(), TrainingPlan(data=16)).seconds[0]
    with pytest.raises(InvalidInput, match="replay none, layers, iteration"):
        Recipe(graphs="all")


def test_recomputing_experts_runs_and_sends_them_again():
    kept, again = step(Recipe()), step(Recipe(recompute_modules=("moe",)))
    assert again.parts["experts"][0] == pytest.approx(1.5 * kept.parts["experts"][0])
    assert kept.parts["recompute"][0] == 0.0
    assert 0.3 < again.parts["recompute"][0] / kept.parts["forward"][0] < 1.0
    recipes = [Recipe(recompute_modules=m) for m in ((), ("moe_act",), ("moe",))]
    held = [total_bytes(memory_parts(JOB, r, Plans.of([PLAN])))[0] for r in recipes]
    assert held[0] > held[1] > held[2]
    core = step(Recipe(recompute_modules=("core_attn",))).parts["recompute"][0]
    selective = TrainingPlan(data=16, expert=16, micro_batch=1, recompute="selective")
    assert core == pytest.approx(step(Recipe(), selective).parts["recompute"][0])


@pytest.mark.parametrize(
    ("name", "fleet", "run"),
    [
        ("mixtral-8x7b", "64xdgx-h100", "mixtral-8x7b-megatron"),
        ("mixtral-8x22b", "128xdgx-h100", "mixtral-8x22b-folding"),
    ],
)
def test_best_plans_of_mixtures_with_few_experts_reach_published_utilisation(name, fleet, run):
    """Runs that no fit has seen; their batches are not stated."""
    published = next(r for r in published_runs() if r.id == run).model_flop_utilization
    device, count, cluster = load_fleet(fleet)
    job = TrainingJob(model=load_model(name), global_batch=256, sequence_tokens=4096)
    found = search_plans(job, Recipe(fused_exchange=True), device, count, cluster)
    flop = step_flop(job) / (found.seconds[0] * count)
    reached = flop / device.rates.dense_flop_per_s["bf16"]
    assert reached == pytest.approx(published, rel=0.1)


@pytest.mark.parametrize(
    ("name", "gpu", "release", "columns", "graphs"),
    [
        ("Qwen3_30B_a3B", "gb200", "26.04", {}, "layers"),
        ("Qwen3_30B_a3B", "gb200", "26.06", {}, "iteration"),
        ("Qwen3_30B_a3B", "h100", "26.04", {}, "none"),
        ("GPT OSS 120B", "b300", "26.02", {"ep": "64"}, "layers"),
        ("DeepSeekV3", "b200", "26.04.01", {"pp": "8"}, "layers"),
        ("DeepSeekV3", "b200", "26.04", {"pp": "16"}, "none"),
        ("Qwen3_30B_a3B", "b200", "26.02", {"micro_batch": "1"}, None),
        ("Qwen3_30B_a3B", "gb200", "25.11", {}, None),
        ("Llama3.1 405B", "gb200", "26.04", {}, None),
    ],
)
def test_presets_go_by_model_device_release_and_plan(name, gpu, release, columns, graphs):
    row = {"model_name": name, "gpu": gpu, "note": "precision=MXFP8; dropless"}
    source = f"Megatron-Bridge performance-summary-archive.md {release}"
    preset = preset_of(row | columns | {"source": source})
    assert (preset and preset.graphs) == graphs


def test_balanced_experts_cost_as_much_whatever_ranks_share_them():
    """Rows per expert and experts per rank trade off but for what tiles round up."""
    device, _, cluster = load_fleet("16xdgx-h100")
    pricer = StepPricer(job=JOB, recipe=Recipe(), device=device, cluster=cluster)
    plans = [TrainingPlan(data=16, expert=e, micro_batch=1) for e in (1, 2, 4, 8, 16)]
    experts = pricer.table.columns(Plans.of(plans))["experts_f"]
    assert np.all(np.diff(experts) <= 1e-12)  # fewer, longer products
    assert experts[-1] > 0.2 * experts[0]


@pytest.mark.parametrize(
    ("model", "graphs", "expected"),
    [
        ("qwen3-30b-a3b", "layers", "--cuda-graph-scope attn moe_router moe_preprocess"),
        ("llama-3.1-8b", "layers", "--cuda-graph-scope attn mlp"),
        ("qwen3-30b-a3b", "iteration", "--cuda-graph-impl local --cuda-graph-scope full_iteration"),
    ],
)
def test_graphs_are_emitted_for_megatron_alone(model, graphs, expected):
    job = TrainingJob(model=load_model(model), global_batch=64, sequence_tokens=4096)
    plan, recipe = TrainingPlan(data=8, micro_batch=1), Recipe(graphs=graphs)
    assert expected in emit("megatron", job, recipe, plan)
    with pytest.raises(InvalidInput, match="leave --cuda-graphs out"):
        emit("torchtitan", job, recipe, plan)


def test_an_activation_is_computed_again_once():
    """Named alone and with the experts it stands in."""
    once, twice = (
        step(Recipe(recompute_modules=m)).parts["recompute"][0]
        for m in (("moe",), ("moe", "moe_act"))
    )
    assert once == twice > step(Recipe(recompute_modules=("moe_act",))).parts["recompute"][0] > 0.0
