"""Plans that share what they have in common price as they would alone."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve

from isoflop.cost.engines import load_engine
from isoflop.cost.features import Batch
from isoflop.cost.shared import KINDS, Shared
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Formats, Plan

MODEL, DEVICE = load_model("mixtral-8x7b"), load_accelerator("h100-sxm")
BATCHES = (
    Batch(decode_sequences=np.arange(1.0, 65.0), decode_context=900.0),
    Batch(prefill_sequences=1.0, prefill_tokens=np.array([7.0, 512.0, 4096.0])),
    Batch(prefill_sequences=1.0, prefill_tokens=np.array([7.0, 512.0, 4096.0]),
          sampled_rows=np.zeros(())),
)  # fmt: skip


def model(kv: str, expert: int, shared: Shared | None) -> StepModel:
    plan = Plan(tensor=4, expert=expert, formats=Formats.for_model(MODEL, "fp8", kv=kv))
    return StepModel(model=MODEL, plan=plan, device=DEVICE, engine=load_engine("vllm"),
                     shared=shared)  # fmt: skip


@pytest.mark.parametrize("clock", [None, 0.7])
def test_a_shared_row_is_what_pricing_it_alone_gives(clock):
    shared = Shared(device=DEVICE)
    for kv in ("bf16", "fp8"):
        for expert in (1, 4):
            alone = evolve(model(kv, expert, None), clock=clock)
            together = evolve(model(kv, expert, shared), clock=clock)
            for batch in BATCHES:
                np.testing.assert_array_equal(together.operator_s(batch), alone.operator_s(batch))


def test_plans_that_differ_in_the_cache_share_all_but_attention():
    shared = Shared(device=DEVICE)
    first, second = (model(kv, 1, shared).operators for kv in ("bf16", "fp8"))
    same = {a.name: a is b for a, b in zip(first, second, strict=True) if a.kind in KINDS}
    assert len(same) > 4
    assert all(same.values())
    assert {a.kind for a, b in zip(first, second, strict=True) if a != b} == {"decode", "prefill"}


def test_another_device_prices_by_itself():
    shared = Shared(device=DEVICE)
    model("fp8", 1, shared).operator_s(BATCHES[0])
    memory = evolve(DEVICE.memory, bandwidth_bytes_per_s=2 * DEVICE.memory.bandwidth_bytes_per_s)
    faster = evolve(DEVICE, memory=memory)
    moved = evolve(model("fp8", 1, shared), device=faster)
    alone = evolve(model("fp8", 1, None), device=faster)
    np.testing.assert_array_equal(moved.operator_s(BATCHES[0]), alone.operator_s(BATCHES[0]))
