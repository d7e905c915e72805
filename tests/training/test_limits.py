"""Published verdicts on memory, the mechanisms they brought to light, and how they are judged."""

import json

import numpy as np
import pytest
from attrs import evolve

from isoflop.cli import main
from isoflop.errors import InvalidInput
from isoflop.models import load_model
from isoflop.training import limits
from isoflop.training.activations import kept_bytes
from isoflop.training.limits import (
    Limit,
    Shape,
    find_limits,
    judge,
    judge_size,
    largest_size,
    published_limits,
    question,
    tally,
    textbook_bytes,
)
from isoflop.training.memory import CONTEXT_BYTES, memory_parts, total_bytes
from isoflop.training.offload import away_parts
from isoflop.training.plan import Plans, Recipe, TrainingJob
from isoflop.training.plan_text import parse_training_plan

KNOWN_MISSES = {
    # Something grows with the number of micro-batches, 512 of them a step.
    ("nanotron-2024", "tp2, pp4", 2), ("nanotron-2024", "dp2, pp4", 1),
    # 4% below the limit: what an allocator's fragments may take.
    ("nanotron-2024", "dp2, tp2, pp2", 16),
    # Loading holds the whole model beside its shard.
    ("litgpt-2023", "Llama 2 13B, LoRA, 2 devices", 1),
    ("litgpt-2023", "Falcon 40B, LoRA, 4 devices", 1),
    # Ran, and is 2 to 7% too large here.
    ("alst-2025", "fused loss, 8 H100", 160000),
    ("deepspeed-tutorials", "GPT-2 10B, ZeRO-Offload, 1 V100", 10),
    ("eight-bit-optimizers-2021", "GPT-2 1.5B, 8-bit Adam, 24 GB", 1),
    ("superoffload-2025", "gpt-oss 20B, 1 GH200", 4),
}  # fmt: skip


def plans(text):
    return Plans.of([parse_training_plan(text)])


@pytest.fixture(scope="module")
def judged():
    return {s.id: [judge(limit) for limit in s.limits] for s in published_limits()}


def test_every_source_is_named_with_its_place():
    sources = published_limits()
    assert len(sources) >= 10
    for s in sources:
        for limit in s.limits:
            assert "https://" in s.citation(limit)
            assert s.sources[limit.source].date
            assert limit.assumed, limit.name
            assert all(size > 0 for size in limit.fits + limit.fails)
            question(limit, (limit.fits + limit.fails)[0])
    # A source of each size scale, and both sides of the limit.
    assert {limit.scale for s in sources for limit in s.limits} == set(limits.WORDS)


def test_the_planner_agrees_but_for_what_is_known(judged):
    misses = {(name, j.limit.name, v.size)
              for name, found in judged.items() for j in found for v in j.verdicts
              if not v.met}  # fmt: skip
    assert misses <= KNOWN_MISSES
    whole = tally("all", [j for found in judged.values() for j in found])
    assert whole.ran[1] >= 71
    assert whole.failed[1] >= 27
    assert whole.ran[0] >= 0.94 * whole.ran[1]
    assert whole.failed[0] >= 0.8 * whole.failed[1]
    assert whole.implied[0] == whole.implied[1]
    assert whole.ratio == pytest.approx(1.1, abs=0.15)


def test_sixteen_bytes_per_parameter_see_hardly_a_failure(judged):
    whole = tally("all", [j for found in judged.values() for j in found])
    assert whole.textbook_ran == whole.ran[1]
    assert whole.textbook_failed < 0.2 * whole.failed[1]
    assert whole.textbook_ratio > 1.4 * whole.ratio


def test_memory_grows_with_size():
    for s in published_limits():
        for limit in s.limits:
            start = max(limit.fits + limit.fails)
            needed = [judge_size(limit, m * start) for m in (1, 2, 3)]
            assert [n[1] for n in needed if n[0] == "device"] == sorted(
                n[1] for n in needed if n[0] == "device"
            )


@pytest.mark.parametrize(("source", "at"), [("nanotron-2024", 6), ("llm-foundry-2023", 0),
                                            ("llm-foundry-2023", 1)])  # fmt: skip
def test_the_largest_micro_batch_is_that_of_a_walk(source, at):
    limit = find_limits(source).limits[at]
    walked = 0
    while judge_size(limit, walked + 1)[1] <= judge_size(limit, walked + 1)[2]:
        walked += 1
    assert largest_size(limit) == walked


def test_largest_sizes_lie_on_their_grid_at_the_edge():
    for name in ("alst-2025", "zero-2019"):
        limit = find_limits(name).limits[0]
        best = largest_size(limit)
        assert judge_size(limit, best)[1] <= judge_size(limit, best)[2]
        step = 128 if limit.scale == "sequence" else limits.model_of(limit, 2e9).parameters - (
            limits.model_of(limit, 2e9 - 5e7).parameters)  # fmt: skip
        beyond = judge_size(limit, best + step)
        assert beyond[1] > beyond[2]


def test_a_host_too_small_is_named():
    limit = find_limits("zero3-offload-2021").limits[1]
    place, needed, room = judge_size(limit, 80e9)
    assert place == "host memory"
    # Weights, gradients, master weights and two moments of every parameter.
    assert needed == pytest.approx(80e9 * 16, rel=0.01)
    assert room == pytest.approx(0.8 * 1.5e12)


@pytest.mark.parametrize(("plan", "each"), [
    ("mb1,zero0", 16.0), ("dp4,mb1,zero1", 2 + 2 + 12 / 4), ("dp4,mb1,zero2", 2 + 14 / 4),
    ("dp4,mb1,zero3", 4.0), ("tp4,mb1,zero0", 4.0),
])  # fmt: skip
def test_the_textbook_by_hand(plan, each):
    job = TrainingJob(model=load_model("gpt2-xl"), global_batch=4, sequence_tokens=1024)
    found = textbook_bytes(job, Recipe(), parse_training_plan(plan))
    assert found == pytest.approx(each * job.model.parameters, rel=1e-3)


def test_measured_peaks_that_no_constant_was_fitted_on():
    # nanotron, log_metrics.csv of dp-2_tp-4_pp-1_mbz-8: 25,808.34 MiB allocated at most, 3,279.84
    # at the start of a step, with gradients in fp32.
    limit = find_limits("nanotron-2024").limits[4]
    job, plan = question(limit, 8)
    parts = memory_parts(job, limit.recipe, Plans.of([plan]))
    assert total_bytes(parts)[0] - CONTEXT_BYTES == pytest.approx(25808.34 * 2**20, rel=0.03)
    held = sum(parts[k][0] for k in ("weights", "gradients", "optimizer"))
    assert held == pytest.approx(3279.84 * 2**20, rel=0.05)
    # LitGPT, the table's greatest memory in 1e9 bytes.
    tables = find_limits("litgpt-2023").limits
    for limit, size, measured in ((tables[0], 1, 21.30e9), (tables[0], 2, 29.07e9),
                                  (tables[1], 1, 38.12e9)):  # fmt: skip
        assert judge_size(limit, size)[1] - CONTEXT_BYTES == pytest.approx(measured, rel=0.1)


JOB = TrainingJob(model=load_model("gpt3-13b"), global_batch=32, sequence_tokens=2048)


def test_offloaded_gradients_leave_layer_by_layer():
    n = JOB.model.parameters
    recipe = Recipe(offload="cpu", gradient_bytes=2.0)
    for text, leaves in (
        ("dp1,mb1,zero0,full", True),
        ("dp8,mb1,zero2,full", True),
        ("dp8,mb1,zero1,full", False),
        ("pp4,dp2,mb1,zero2,full", False),
    ):
        plan = plans(text)
        here = memory_parts(JOB, recipe, plan)["gradients"][0]
        assert (here == 0.0) == leaves
        host = away_parts(JOB, recipe, plan)[0]["gradients"][0]
        shards = 1 if plan.zero[0] == 0 else plan.data[0]
        assert host == pytest.approx(2.0 * n / shards / plan.pipeline[0], rel=0.1)
    # On drives with the state, gradients still wait in memory.
    on_drives = away_parts(JOB, evolve(recipe, offload="nvme"), plans("dp8,mb1,zero2,full"))
    assert on_drives[0]["gradients"][0] == pytest.approx(2.0 * n / 8, rel=0.01)
    assert on_drives[1]["gradients"][0] == 0.0
    # 13 billion parameters in 16 bits leave room on 32 GB, their gradients beside them would not.
    kept = evolve(recipe, offload="none", master_bytes=0.0, optimizer="adafactor")
    one = plans("mb1,zero0,full")
    assert total_bytes(memory_parts(JOB, recipe, one))[0] < 31e9
    assert total_bytes(memory_parts(JOB, kept, one))[0] > 50e9


def test_without_look_ahead_one_matrix_is_gathered():
    wide = Shape(layers=8, hidden=25600, heads=256, vocab=50257).model(8)
    job = TrainingJob(model=wide, global_batch=64, sequence_tokens=1024)
    plan = plans("dp64,mb1,zero3,full")
    ahead, late = (memory_parts(job, Recipe(look_ahead=a), plan)["transient"][0]
                   for a in (True, False))  # fmt: skip
    layer, matrix = 12 * 25600**2, 4 * 25600**2
    table = wide.vocab * wide.hidden
    # Two layers and the tables of weights and one layer of gradients; one matrix of each.
    expected = 2 * (2 * layer + table + layer) - 2 * (matrix + matrix)
    assert ahead - late == pytest.approx(expected, rel=0.01)


def test_an_unfused_gate_keeps_its_activation():
    job = evolve(JOB, model=load_model("llama-2-7b"))
    plan = plans("tp4,mb2")
    eager = kept_bytes(job, Recipe(compiled=False), plan)[0][0]
    fused = kept_bytes(job, Recipe(), plan)[0][0]
    tokens = 2 * 2048
    # Besides the norms' 3 bytes per value.
    assert eager - fused == pytest.approx(tokens * (3 * 4096 + 2 * 11008 / 4))


def test_gradients_inside_a_feed_forward_count_where_logits_are_less():
    # Three of the width of Llama's gated network, split by tensor parallelism.
    job = evolve(JOB, model=load_model("llama-2-7b"))
    plan = plans("tp4,dp8,mb2,zero1")
    within = 2 * 2048 * 3 * 2.0 * 11008 / 4
    none, some, many = (
        sum(memory_parts(job, Recipe(logit_bytes=b), plan)[k][0] for k in ("logits", "transient"))
        for b in (0.0, 1.0, 14.0)
    )
    assert none == some  # 1 byte per logit is less
    assert many - none == pytest.approx(2 * 2048 * 14.0 * 32000 / 4 - within)


@pytest.mark.parametrize("t", [2, 8])
def test_products_may_keep_gathered_inputs(t):
    """Korthikanti et al. 2022, equation 4, with two of its inputs whole."""
    recipe = Recipe(dropout=True, fused_attention=False, gathered_inputs=True)
    job = evolve(JOB, model=load_model("gpt3-6.7b"))
    s, h, a = 2048, 4096, 32
    kept = kept_bytes(job, recipe, plans(f"tp{t},sp,mb1"))[0][0]
    assert kept == pytest.approx(s * h / t * (34 + 5 * a * s / h) + 4 * s * h * (1 - 1 / t))
    plain = evolve(recipe, gathered_inputs=False)
    whole = kept_bytes(job, recipe, plans(f"tp{t},mb1"))[0]
    assert np.array_equal(whole, kept_bytes(job, plain, plans(f"tp{t},mb1"))[0])


@pytest.mark.parametrize(("wrong", "says"), [
    ({"model": ""}, "one of the two"),
    ({"shape": Shape(hidden=64, heads=1, vocab=100)}, "one of the two"),
    ({"fits": ()}, "at least one size"),
    ({"fits": (), "fails": (1.0,), "largest": True}, "largest"),
    ({"scale": "parameters"}, "needs a shape"),
])  # fmt: skip
def test_entries_that_contradict_themselves(wrong, says):
    right = {"name": "x", "model": "gpt2", "device": "t4", "sequence_tokens": 8, "plan": "mb1",
             "scale": "micro_batch", "fits": (1.0,), "source": "x"}  # fmt: skip
    Limit(**right)
    with pytest.raises(InvalidInput, match=says):
        Limit(**right | wrong)


def test_the_command(capsys):
    main(["training", "limits"])
    out = capsys.readouterr().out
    assert "ZeRO 2019" in out
    assert "16 B" in out or "B/parameter" in out
    main(["training", "limits", "alst-2025"])
    out = capsys.readouterr().out
    assert "arXiv 2506.13996" in out
    assert "fails, implied" in out
    main(["training", "limits", "--json"])
    found = json.loads(capsys.readouterr().out)
    total = found["all"]["ran"]["of"] + found["all"]["failed"]["of"] + found["all"]["implied"]["of"]
    assert sum(len(s["verdicts"]) for s in found["sources"]) == total
    with pytest.raises(SystemExit) as stop:
        main(["training", "limits", "alst"])
    assert stop.value.code == 2
    assert "alst-2025" in capsys.readouterr().err
