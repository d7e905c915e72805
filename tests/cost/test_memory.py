import pytest

from isoflop.cost.memory import (
    MemoryPolicy,
    cache_bytes,
    largest_batch,
    largest_context,
    memory_use,
    require_fit,
)
from isoflop.cost.operators import forward_operators
from isoflop.errors import DoesNotFit
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Formats, Plan, parse_plan


@pytest.mark.parametrize(
    ("model", "plan", "per_token"),
    [
        ("llama-3.1-8b", "", 131072),  # 32 layers x 8 heads x 2 x 128 x 2 bytes
        ("llama-2-7b", "", 524288),
        ("llama-3.1-8b", "tp8", 16384),
        ("deepseek-v3", "tp8", 61 * 576 * 2),  # the latent is not split
        ("llama-3.1-8b", "pp4", 32768),
    ],
)
def test_cache_per_token(model, plan, per_token):
    assert cache_bytes(load_model(model), parse_plan(plan), 1, 1.0) == per_token


def test_eight_bit_cache_is_half():
    model = load_model("llama-3.1-8b")
    half = Plan(formats=Formats(kv="fp8"))
    assert cache_bytes(model, half, 3, 500.0) * 2 == cache_bytes(model, Plan(), 3, 500.0)


def test_published_cache_capacity_of_vllm_on_a_64_gb_card():
    """Llama-2-7B leaves 90,624 tokens of cache at 0.9 of a 63.43 GiB card (measured)."""
    model, device = load_model("llama-2-7b"), load_accelerator("h100-64gb")
    operators = forward_operators(model, Plan())
    use = memory_use(model, Plan(), device, operators, sequences=0, context=0,
                     policy=MemoryPolicy(step_tokens=2048))  # fmt: skip
    tokens = (use.usable_bytes - use.total_bytes) / cache_bytes(model, Plan(), 1, 1.0)
    assert tokens == pytest.approx(90624, rel=0.05)


def test_largest_batch_and_context_are_tight():
    model, device, plan = load_model("llama-3.1-8b"), load_accelerator("h100"), Plan()
    ops = forward_operators(model, plan)
    batch = largest_batch(model, plan, device, ops, 4096)
    assert memory_use(model, plan, device, ops, sequences=batch, context=4096).fits
    assert not memory_use(model, plan, device, ops, sequences=batch + 1, context=4096).fits
    context = largest_context(model, plan, device, ops, 64)
    assert memory_use(model, plan, device, ops, sequences=64, context=context).fits
    assert not memory_use(model, plan, device, ops, sequences=64, context=context + 1).fits


def test_a_model_that_does_not_fit_says_needed_and_available():
    model, device = load_model("llama-3.1-70b"), load_accelerator("rtx-4090")
    use = memory_use(
        model, Plan(), device, forward_operators(model, Plan()), sequences=0, context=0
    )
    with pytest.raises(DoesNotFit, match=r"does not fit .*needs .*GiB.*can use .*GiB") as caught:
        require_fit(model, device, use, Plan())
    assert caught.value.needed_bytes > caught.value.available_bytes
