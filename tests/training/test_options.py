import pytest
from attrs import evolve

from isoflop.errors import InvalidInput, InvalidPlan
from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.training.activations import activation_modules, kept_bytes
from isoflop.training.memory import memory_parts
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.time import StepPricer

DEEPSEEK = load_model("deepseek-v3")
JOB = TrainingJob(model=DEEPSEEK, global_batch=1024, sequence_tokens=4096)
PLAN = Plans.of([TrainingPlan(pipeline=16, data=32, expert=32, recompute="full")])


def parts(recipe, plan=PLAN, job=JOB):
    device, _, cluster = load_fleet("512xdgx-h100")
    pricer = StepPricer(job=job, recipe=recipe, device=device, cluster=cluster)
    return {k: float(v[0]) for k, v in pricer.price(plan).parts.items()}


def test_pipelines_inside_nodes_send_cheaply_and_reduce_dearly():
    # 8 stages fill a node: transfers stay inside, and each data ring has one member per node.
    job = TrainingJob(model=load_model("gpt3-13b"), global_batch=512, sequence_tokens=2048)
    plan = TrainingPlan(pipeline=8, data=64)
    near = evolve(plan, placement="pipeline-inside")
    a, b = (parts(Recipe(overlap_data=False), Plans.of([p]), job) for p in (plan, near))
    assert b["transfer"] < a["transfer"] / 4
    assert b["gradients"] > 4 * a["gradients"]
    assert b["forward"] == a["forward"]


def test_imbalance_scales_what_routed_experts_compute_hold_and_receive():
    even, skewed = parts(Recipe()), parts(Recipe(imbalance=1.5))
    assert 1.4 < skewed["experts"] / even["experts"] < 1.51
    assert even["forward"] < skewed["forward"] < 1.5 * even["forward"]
    a, b = (memory_parts(JOB, r, PLAN) for r in (Recipe(), Recipe(imbalance=1.5)))
    assert b["transient"] > a["transient"]
    with pytest.raises(InvalidInput, match="imbalance"):
        Recipe(imbalance=0.5)


def test_a_learned_optimizer_holds_five_accumulators_and_runs_a_network():
    learned = Recipe(optimizer="learned")
    assert learned.state_bytes - Recipe().state_bytes == 12.0
    assert parts(learned)["optimizer"] > 5 * parts(Recipe())["optimizer"]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3"])
def test_modules_of_a_layer_add_up(name):
    job = TrainingJob(model=load_model(name), global_batch=8, sequence_tokens=4096)
    plan = Plans.of([TrainingPlan(tensor=2, sequence_parallel=True)])
    rows = activation_modules(job, Recipe(), plan)
    modules = ("attention_and_norms", "feed_forward", "routed_experts")
    total = sum(r["layers"] * sum(r[m] for m in modules) for r in rows)
    kept = kept_bytes(job, Recipe(), plan)[0][0] * job.model.depth
    assert total == pytest.approx(kept)


def test_an_unknown_placement_is_a_sentence():
    with pytest.raises(InvalidInput, match="placement"):
        Recipe(placement="anywhere")  # type: ignore[arg-type]
    with pytest.raises(InvalidPlan, match="the plan has one"):
        TrainingPlan(data=8, placement="pipeline-inside")
