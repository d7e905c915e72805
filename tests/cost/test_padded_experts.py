"""vLLM's DeepGEMM layout: published TPOT of one model does not depend on the batch."""

import pytest

from isoflop.cost.engines import engine_of, load_engine
from isoflop.cost.features import Batch
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Formats, Plan


def experts_s(engine, sequences, **plan):
    formats = Formats(weights="fp8", experts="fp8")
    step = StepModel(
        model=load_model("qwen3-235b-a22b"), plan=Plan(formats=formats, **plan),
        device=load_accelerator("h200"), engine=load_engine(engine),
    )  # fmt: skip
    batch = Batch(decode_sequences=float(sequences), decode_context=1000.0)
    times = step.operator_s(batch)
    return sum(float(t) for op, t in zip(step.operators, times) if op.kind == "moe")


@pytest.mark.parametrize(("version", "engine"), [
    ("0.6.3", "vllm-v0"), ("0.10.1", "vllm"), ("0.12.0", "vllm-padded"), ("v0.17.0", "vllm"),
    ("", "vllm"),
])  # fmt: skip
def test_releases_run_their_own_kernels(version, engine):
    assert engine_of("vLLM", version) == engine
    assert engine_of("sglang", version) == "sglang"


def test_padded_experts_cost_the_same_for_few_tokens_and_for_many():
    few, more = (experts_s("vllm-padded", b, tensor=2) for b in (4, 16))
    assert few == pytest.approx(more)
    assert few > 2.5 * experts_s("vllm", 4, tensor=2)
    # Every operand passes twice through the cache: 94 layers of 128 experts on two ranks.
    assert few == pytest.approx(94 * 2 * 3 * 4096 * 1536 / 2 * 128 / 6.0e12, rel=0.15)
    assert few == pytest.approx(2.0 * experts_s("vllm-padded", 4, tensor=4), rel=0.06)


def test_eight_ranks_run_the_other_kernel():
    assert experts_s("vllm-padded", 4, tensor=8) == experts_s("vllm", 4, tensor=8)
