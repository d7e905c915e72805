"""Korthikanti et al. 2022's activation formulas, exactly, and the other parts in closed form."""

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from isoflop.hardware import load_accelerator
from isoflop.models import FeedForward, LayerGroup, Mixer, ModelSpec, load_model
from isoflop.training.activations import layer_shape
from isoflop.training.memory import (
    in_flight,
    layer_activation_bytes,
    memory_parts,
    total_bytes,
    usable_bytes,
)
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan

EARLY = Recipe(fused_attention=False, dropout=True)


def gpt(layers: int, hidden: int, heads: int) -> ModelSpec:
    mixer = Mixer(kind="attention", heads=heads, kv_heads=heads, head_dim=hidden // heads)
    ffn = FeedForward(kind="plain", inner=4 * hidden)
    group = LayerGroup(count=layers, mixer=mixer, ffn=ffn)
    return ModelSpec(
        id="gpt", name="GPT", hidden=hidden, vocab=51200, layers=(group,), max_context=2048,
        tied_embeddings=True, source="test",
    )  # fmt: skip


def layer_bytes(job: TrainingJob, **plan: object) -> float:
    plans = Plans.of([TrainingPlan(**plan)])  # type: ignore[arg-type]
    return float(layer_activation_bytes(job, EARLY, plans)[0])


@given(
    heads=st.sampled_from([16, 64, 96]), width=st.sampled_from([64, 128]),
    b=st.integers(1, 8), s=st.sampled_from([512, 2048]), t=st.sampled_from([1, 2, 4, 8]),
)  # fmt: skip
def test_equations_1_to_6(heads, width, b, s, t):
    h, a = heads * width, heads
    job = TrainingJob(model=gpt(4, h, a), global_batch=b, sequence_tokens=s)
    plan = {"tensor": t, "micro_batch": b}
    sbh = s * b * h
    assert layer_bytes(job, micro_batch=b) == pytest.approx(sbh * (34 + 5 * a * s / h))
    assert layer_bytes(job, **plan) == pytest.approx(sbh * (10 + 24 / t + 5 * a * s / (h * t)))
    sp = plan | {"sequence_parallel": True}
    assert layer_bytes(job, **sp) == pytest.approx(sbh / t * (34 + 5 * a * s / h))
    assert layer_bytes(job, **sp, recompute="selective") == pytest.approx(34 * sbh / t)
    assert layer_bytes(job, **plan, recompute="selective") == pytest.approx(sbh * (10 + 24 / t))
    assert layer_bytes(job, **plan, recompute="full") == pytest.approx(2 * sbh)


@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "pp", "vpp", "mb", "batch", "plain", "both"),
    [
        # The paper's figure 1, in GiB: activations without recomputation, and with both techniques.
        (48, 6144, 64, 1, 1, 4, 4, 59.25, 9.5625),
        (96, 12288, 96, 8, 3, 1, 64, 66.84375, 12.3515625),
        (105, 20480, 128, 35, 3, 1, 280, 114.0234375, 23.076171875),
        (128, 25600, 160, 64, 1, 1, 512, 131.25, 26.5625),
    ],
)
def test_figure_1(layers, hidden, heads, pp, vpp, mb, batch, plain, both):
    job = TrainingJob(model=gpt(layers, hidden, heads), global_batch=batch, sequence_tokens=2048)
    kind = "interleaved" if vpp > 1 else "1f1b"
    plan = TrainingPlan(tensor=8, pipeline=pp, micro_batch=mb, virtual=vpp, schedule=kind)

    def activations(p: TrainingPlan) -> float:
        return float(memory_parts(job, EARLY, Plans.of([p]))["activations"][0]) / 2**30

    assert activations(plan) == pytest.approx(plain, rel=0.01)
    assert activations(
        evolve(plan, sequence_parallel=True, recompute="selective")
    ) == pytest.approx(both, rel=0.01)


def test_state_per_parameter_is_18_bytes_and_zero_divides_it():
    model = gpt(24, 2048, 16)
    job = TrainingJob(model=model, global_batch=64, sequence_tokens=2048)
    s = layer_shape(model, Recipe())
    n = model.depth * (s.split + s.replicated) + s.embedding + s.head
    assert n == pytest.approx(model.parameters)
    for zero, per in ((0, 18), (1, 6 + 12 / 8), (2, 2 + 16 / 8), (3, 16 / 8)):
        parts = memory_parts(job, Recipe(), Plans.of([TrainingPlan(data=8, zero=zero)]))
        held = sum(float(parts[k][0]) for k in ("weights", "gradients", "optimizer"))
        assert held == pytest.approx(per * n)


def test_hybrid_shard_divides_by_the_shard_alone():
    job = TrainingJob(model=gpt(24, 2048, 16), global_batch=64, sequence_tokens=2048)
    both = Plans.of([TrainingPlan(data=64, zero=3), TrainingPlan(data=64, zero=3, shard=8)])
    state = memory_parts(job, Recipe(), both)["optimizer"]
    assert state[1] == pytest.approx(8 * state[0])


@pytest.mark.parametrize(
    ("plan", "m", "expected"),
    [
        (TrainingPlan(pipeline=8), 64, 8),
        (TrainingPlan(pipeline=8), 4, 4),
        (TrainingPlan(pipeline=8, schedule="gpipe"), 64, 64),
        (TrainingPlan(pipeline=8, virtual=2, schedule="interleaved"), 64, 8 * (1 + 7 / 16)),
        (TrainingPlan(pipeline=8, schedule="dualpipe"), 64, 9),
    ],
)
def test_micro_batches_in_flight(plan, m, expected):
    assert in_flight(Plans.of([plan]), np.array([float(m)]))[0] == pytest.approx(expected)


def test_experts_are_sharded_over_their_own_ranks():
    model = load_model("mixtral-8x7b")
    job = TrainingJob(model=model, global_batch=64, sequence_tokens=4096)
    plans = Plans.of([
        TrainingPlan(data=8, zero=0, expert=1), TrainingPlan(data=8, zero=0, expert=8)
    ])  # fmt: skip
    weights = memory_parts(job, Recipe(), plans)["weights"]
    experts = 2.0 * model.depth * layer_shape(model, Recipe()).experts
    assert weights[0] - weights[1] == pytest.approx(experts * 7 / 8)


def test_optimizers_and_offload():
    job = TrainingJob(model=gpt(24, 2048, 16), global_batch=8, sequence_tokens=2048)
    plan = Plans.of([TrainingPlan(zero=0)])
    n = job.model.parameters

    def state(**recipe: object) -> float:
        return float(memory_parts(job, Recipe(**recipe), plan)["optimizer"][0]) / n  # type: ignore[arg-type]

    assert state() == pytest.approx(12)
    assert state(optimizer="adam8bit") == pytest.approx(6)
    assert state(optimizer="muon") == pytest.approx(8)
    assert state(optimizer="adafactor") == pytest.approx(4)
    assert state(offload="cpu") == 0


@given(
    tp=st.sampled_from([1, 2, 4, 8]), mb=st.integers(1, 8), sp=st.booleans(),
    recompute=st.sampled_from(["none", "selective", "full"]),
)  # fmt: skip
def test_more_of_anything_never_lowers_activations(tp, mb, sp, recompute):
    job = TrainingJob(model=gpt(8, 2048, 16), global_batch=64, sequence_tokens=2048)

    def total(**change: object) -> float:
        base = {"tensor": tp, "micro_batch": mb, "sequence_parallel": sp, "recompute": recompute}
        plans = Plans.of([TrainingPlan(**(base | change))])  # type: ignore[arg-type]
        return float(layer_activation_bytes(job, EARLY, plans)[0])

    assert total(micro_batch=mb + 1) > total()
    assert total(recompute="none") >= total()
    assert total(sequence_parallel=True) <= total(sequence_parallel=False)


def test_usable_is_less_than_capacity():
    device = load_accelerator("h100-sxm")
    assert 0.9 < usable_bytes(device) / device.memory.capacity_bytes < 1.0
    parts = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}
    assert total_bytes(parts).tolist() == [4.0, 6.0]
