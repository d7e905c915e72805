"""Attention over chosen tokens, as DeepSeek-V3.2 and GLM-5 have it."""

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from isoflop.cost.engines import load_engine
from isoflop.cost.features import Batch, pairs
from isoflop.cost.memory import cache_layers
from isoflop.cost.operators import forward_operators
from isoflop.cost.operators.base import IndexShape
from isoflop.cost.step import StepModel
from isoflop.cost.timing import linear
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Formats, Plan
from isoflop.serving.steptimes import StepTimes

TP8 = Plan(tensor=8, formats=Formats(weights="fp8-block", kv="fp8-e4m3"))


def step(model, device="h200"):
    return StepModel(model=load_model(model), device=load_accelerator(device), plan=TP8,
                     engine=load_engine("default"))  # fmt: skip


def operators(model="deepseek-v3.2", plan=TP8):
    return {op.name: op for op in forward_operators(load_model(model), plan)}


def decoding(sequences, context):
    return Batch(decode_sequences=sequences, decode_context=context)


@given(st.integers(1, 5000), st.integers(0, 9000))
def test_flop_of_a_prompt_are_those_of_its_scores_and_of_the_chosen_tokens(new, prior):
    """Counted query by query."""
    ops, batch = operators(), Batch(prefill_sequences=1.0, prefill_tokens=float(new),
                                    prefill_prior=float(prior))  # fmt: skip
    seen = np.arange(prior + 1, prior + new + 1)
    scores = 2.0 * 64 * 128 * seen.sum()
    chosen = 2.0 * (128 / 8) * (576 + 512) * np.minimum(seen, 2048).sum()
    index = ops["index scores and selection (prefill)"]
    assert linear(index.flop, batch) == pytest.approx(scores)
    assert linear(ops["attention (prefill)"].flop, batch) == pytest.approx(chosen)
    assert scores == pytest.approx(2.0 * 64 * 128 * float(pairs(new, prior)))


def test_the_indexer_is_whole_on_every_tensor_rank_and_attention_is_not():
    one, eight = operators(plan=evolve(TP8, tensor=1)), operators()
    index = "index scores and selection (decode)"
    assert isinstance(one[index].shape, IndexShape)
    assert one[index].flop == eight[index].flop
    assert one["attention (decode)"].flop["pairs_decode:2048"] == pytest.approx(
        8 * eight["attention (decode)"].flop["pairs_decode:2048"]
    )


def test_cached_bytes_per_token_are_those_of_the_kernels():
    """656 of the latent in 8 bits, 132 of the index key; twice the values in 16 bits."""
    model = load_model("deepseek-v3.2")
    narrow = cache_layers(model, TP8)
    assert {layer.token_bytes for layer in narrow} == {656.0 + 132.0}
    wide = cache_layers(model, evolve(TP8, formats=evolve(TP8.formats, kv="bf16")))
    assert {layer.token_bytes for layer in wide} == {1152.0 + 132.0}
    dense = cache_layers(load_model("deepseek-v3"), TP8)
    assert {layer.token_bytes for layer in dense} == {576.0}


def test_choosing_pays_on_long_contexts_and_costs_on_short_ones():
    sparse, dense = step("deepseek-v3.2"), step("deepseek-v3")
    at = decoding(16.0, np.array([1024.0, 131072.0]))
    ratio = sparse.interval(at).seconds / dense.interval(at).seconds
    assert ratio[0] > 1.0
    assert ratio[1] < 0.6
    # Attention itself stops growing where every query has as many tokens as it may choose.
    names = [op.name for op in sparse.operators]
    grown = sparse.operator_s(decoding(16.0, np.array([4096.0, 131072.0])))
    grown = grown[names.index("attention (decode)")]
    assert grown[0] == pytest.approx(grown[1])


def test_prompts_grow_by_the_scores_alone():
    """Twice the prompt: four times the scores, twice the rest."""
    sparse = step("deepseek-v3.2")
    at = Batch(prefill_sequences=1.0, prefill_tokens=np.array([16384.0, 32768.0, 65536.0]))
    seconds = dict(zip((op.name for op in sparse.operators), sparse.operator_s(at)))
    scores = seconds["index scores and selection (prefill)"]
    chosen = seconds["attention (prefill)"]
    assert np.allclose(scores[1:] / scores[:-1], 4.0, rtol=0.03)
    assert np.allclose(chosen[1:] / chosen[:-1], 2.0, rtol=0.03)


def test_answers_say_that_no_such_kernel_was_measured_on_the_device():
    at = decoding(16.0, 131072.0)
    sparse, dense = step("deepseek-v3.2").interval(at), step("deepseek-v3").interval(at)
    assert (sparse.label, dense.label) == ("analytic", "interpolated")
    assert sparse.high_s / sparse.seconds > dense.high_s / dense.seconds


@pytest.mark.parametrize("model", ["deepseek-v3.2", "glm-5"])
def test_simulated_steps_are_the_priced_ones(model):
    """The simulator's tables hold prompts and decoding apart; both have their kernels."""
    priced = step(model, "b200")
    times = StepTimes.build(priced, max_sequences=8, max_tokens=4096, max_context=65536)
    at = decoding(4.0, 30000.0)
    assert times.decode_s(4, 30000.0) == pytest.approx(float(priced.interval(at).seconds), rel=0.05)
