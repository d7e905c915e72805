import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop import catalog
from isoflop.cost.features import Batch
from isoflop.cost.matrix import Peaks, StepMatrix, bus_factor, roofline_s
from isoflop.cost.memory import weight_bytes
from isoflop.cost.operators import forward_operators
from isoflop.errors import InvalidPlan
from isoflop.models import load_model
from isoflop.plans import Plan, parse_plan

MODELS = sorted(catalog.paths("models"))


def matrix(name: str, plan: str = "") -> StepMatrix:
    return StepMatrix.compile(forward_operators(load_model(name), parse_plan(plan)))


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_the_operators_are_the_models_parameters(name):
    """Two independent sums over the architecture agree: GEMM shapes and the parameter count."""
    model = load_model(name)
    held = weight_bytes(model, Plan(), forward_operators(model, Plan()))
    assert held == pytest.approx(2.0 * model.parameters, rel=0.02)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-14b", "mistral-7b", "gpt2-xl"])
def test_a_decoded_token_costs_two_flop_per_matrix_parameter(name):
    model, m = load_model(name), matrix(name)
    flop = float(m.total("flop", Batch(decode_sequences=1.0, decode_context=0.0)))
    table = model.vocab * model.hidden
    in_matrices = model.parameters - (0 if model.tied_embeddings else table)
    assert flop == pytest.approx(2.0 * in_matrices, rel=0.01)


def test_mixture_of_experts_flop_follow_active_parameters():
    model, m = load_model("mixtral-8x7b"), matrix("mixtral-8x7b")
    flop = float(m.total("flop", Batch(decode_sequences=1.0)))
    assert flop == pytest.approx(
        2 * (model.active_parameters - model.vocab * model.hidden), rel=0.01
    )


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 64), st.integers(0, 4096))
def test_tensor_parallelism_splits_the_work_exactly(tp, sequences, context):
    batch = Batch(decode_sequences=float(sequences), decode_context=float(context))
    whole = _gemm_flop(matrix("llama-3.1-8b"), batch)
    assert tp * _gemm_flop(matrix("llama-3.1-8b", f"tp{tp}"), batch) == pytest.approx(whole)


def _gemm_flop(m: StepMatrix, batch: Batch) -> float:
    rows = [i for i, op in enumerate(m.operators) if op.kind == "gemm"]
    return float(m.cost(batch)["flop"][rows].sum())


@given(st.integers(1, 32), st.integers(1, 32), st.integers(1, 300))
def test_cost_is_linear_in_the_batch(a, b, length):
    m = matrix("llama-3.1-8b")

    def cost(n):
        return m.total("flop", Batch(prefill_sequences=float(n), prefill_tokens=float(length)))

    assert cost(a) + cost(b) == pytest.approx(cost(a + b))


def test_a_chunked_prompt_costs_what_the_whole_prompt_costs():
    m = matrix("llama-3.1-8b")
    rows = np.float64(1.0)
    whole = m.total("flop", Batch(prefill_sequences=1.0, prefill_tokens=1024.0, sampled_rows=rows))
    half = [
        m.total("flop", Batch(prefill_sequences=1.0, prefill_tokens=512.0, prefill_prior=p,
                              sampled_rows=rows * 0.5))
        for p in (0.0, 512.0)
    ]  # fmt: skip
    assert sum(half) == pytest.approx(float(whole))


def test_latent_attention_reads_576_values_per_token_and_layer():
    m = matrix("deepseek-v3")
    one, two = (
        m.total("read", Batch(decode_sequences=1.0, decode_context=c)) for c in (1000.0, 1001.0)
    )
    assert float(two - one) == pytest.approx(61 * 576 * 2)


def test_absorbed_attention_does_more_work_but_moves_less():
    model = load_model("deepseek-v3")
    batch = Batch(decode_sequences=8.0, decode_context=4096.0)
    absorbed, expanded = (
        StepMatrix.compile(forward_operators(model, Plan(absorbed_mla=flag)))
        for flag in (True, False)
    )
    assert absorbed.total("read", batch) < expanded.total("read", batch)


def test_sliding_windows_bound_the_cache_that_is_read():
    m = matrix("gpt-oss-120b")
    read = [
        float(m.total("read", Batch(decode_sequences=1.0, decode_context=c)))
        for c in (1000.0, 2000.0)
    ]
    per_token = 18 * 8 * (64 + 64) * 2.0  # only the full-attention half of the layers grows
    assert read[1] - read[0] == pytest.approx(1000 * per_token)


def test_mixture_of_depths_scales_the_block_by_its_capacity():
    ops = forward_operators(load_model("mod-study-1b"), Plan())
    up = [op for op in ops if op.name == "up projection"]
    batch = Batch(prefill_sequences=1.0, prefill_tokens=64.0)
    full, thin = (sum(v * batch.feature(k) for k, v in op.flop.items()) for op in up)
    assert float(thin / full) == pytest.approx(0.125)


def test_context_parallelism_splits_prompt_work():
    batch = Batch(prefill_sequences=1.0, prefill_tokens=4096.0)
    whole, split = (_gemm_flop(matrix("llama-3.1-8b", p), batch) for p in ("", "cp4"))
    assert whole / split == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize("plan", ["tp3", "tp5", "tp64", "pp99", "ep3"])
def test_plans_that_do_not_divide_the_model_say_so(plan):
    with pytest.raises(InvalidPlan, match=r"\d"):
        forward_operators(load_model("llama-3.1-8b"), parse_plan(plan))


def test_the_roofline_adds_up_by_hand():
    m = matrix("llama-3.1-8b", "tp2")
    n = len(m.operators)
    peaks = Peaks(flop_per_s=np.full(n, 1e12), bandwidth_bytes_per_s=1e11,
                  link_bytes_per_s=np.full(n, 1e10))  # fmt: skip
    batch = Batch(decode_sequences=4.0, decode_context=100.0)
    parts, cost = roofline_s(m, peaks, batch), m.cost(batch)
    assert parts["compute"].sum() == pytest.approx(cost["flop"].sum() / 1e12)
    sent = sum(c * bus_factor(op) for c, op in zip(cost["sent"], m.operators, strict=True))
    assert parts["network"].sum() == pytest.approx(sent / 1e10)
