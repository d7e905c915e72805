import json

import numpy as np
import pytest

from isoflop.cli import main
from isoflop.errors import InvalidInput, InvalidPlan
from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.training.compression import find_exchange, sent_bytes
from isoflop.training.memory import memory_parts
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.report import describe_plan
from isoflop.training.search import search_plans
from isoflop.training.time import StepPricer

MODEL = load_model("llama-3.1-8b")
JOB = TrainingJob(model=MODEL, global_batch=64, sequence_tokens=2048)
PLAN = TrainingPlan(tensor=8, data=64, zero=0)


def exchange_s(name: str, plan: TrainingPlan = PLAN) -> float:
    device, _, cluster = load_fleet("512xdgx-a100")
    recipe = Recipe(exchange=name, overlap_data=False)
    pricer = StepPricer(job=JOB, recipe=recipe, device=device, cluster=cluster)
    return float(pricer.price(Plans.of([plan])).parts["gradients"][0])


def test_fewer_bits_take_their_share_of_the_exchange_and_the_work():
    device = load_fleet("a100-80gb-sxm")[0]
    n = MODEL.parameters / 8
    plain = exchange_s("fp32")
    assert plain == pytest.approx(exchange_s(""))
    sent = {}
    for name in ("bf16", "8bit", "1bit"):
        work = find_exchange(name).traffic_bytes * n / (0.85 * device.memory.bandwidth_bytes_per_s)
        sent[name] = exchange_s(name) - work
    # A straight line in the bytes; where it meets zero bytes is the latency of the hops.
    slope = (plain - sent["bf16"]) / 2
    for name, size in (("8bit", 1.0), ("1bit", 1 / 8)):
        assert sent[name] == pytest.approx(plain - slope * (4.0 - size), rel=0.03)
    assert 0 < plain - 4 * slope < 0.3 * plain


def test_factors_are_the_sum_of_their_sides():
    hidden, wide, kv, inner = 4096, 4096, 1024, 14336
    values = hidden * (2 * wide + 2 * kv + 3 * inner)
    factors = 4 * (6 * hidden + 2 * wide + 2 * kv + 3 * inner + hidden)
    found = sent_bytes(find_exchange("powersgd4"), MODEL, np.array([1.0]))
    assert found[0] == pytest.approx(4 * factors / values, rel=1e-3)
    two = sent_bytes(find_exchange("powersgd8"), MODEL, np.array([1.0, 8.0]))
    assert two[0] == pytest.approx(2 * found[0])
    assert two[1] > two[0]


def test_error_feedback_is_kept_whole():
    plans = Plans.of([TrainingPlan(data=64, zero=1)])
    held = [float(memory_parts(JOB, Recipe(exchange=e), plans)["gradients"][0])
            for e in ("bf16", "1bit")]  # fmt: skip
    assert held[1] - held[0] == pytest.approx(4.0 * MODEL.parameters, rel=0.01)


def test_what_stays_whole_is_not_sharded():
    device, count, cluster = load_fleet("8xdgx-h100")
    recipe = Recipe(exchange="powersgd4")
    with pytest.raises(InvalidPlan, match="zero1"):
        describe_plan(JOB, recipe, device, count, TrainingPlan(data=8, zero=3), cluster)
    found = search_plans(JOB, recipe, device, count, cluster)
    assert found.plans.zero.max() <= 1
    with pytest.raises(InvalidInput, match="powersgd"):
        Recipe(exchange="7bit")


def test_a_slow_network_makes_compression_worth_its_work(capsys):
    def step(name: str) -> dict:
        main(["plan", "llama-3.2-1b", "--on", "64xa100-40gb-pcie", "--global-batch", "64",
              "--plan", "zero1", "--gradients", name, "--json"])  # fmt: skip
        return json.loads(capsys.readouterr().out)

    plain, half = step("fp32"), step("bf16")
    assert half["gradient_exchange"] == "bf16"
    assert half["step_parts_s"]["gradients"] < 0.8 * plain["step_parts_s"]["gradients"]
