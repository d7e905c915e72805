"""All operators at once against one by one."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.cost.features import Batch
from isoflop.cost.step import StepModel
from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.plans import Formats, parse_plan

CASES = [
    ("llama-3.1-8b", "h100-sxm", "", "bf16"),
    ("deepseek-v3", "8xh200", "tp4,dp2,ep8", "fp8"),
    ("mixtral-8x7b", "2xa100-80gb-sxm", "tp2", "bf16"),
    ("nemotron-h-8b", "2xh100-sxm", "tp2", "bf16"),
]


@pytest.mark.parametrize(("model", "fleet", "plan", "weights"), CASES)
def test_stacking_changes_nothing(model, fleet, plan, weights):
    device, _, cluster = load_fleet(fleet)
    step = StepModel(
        model=load_model(model), device=device, cluster=cluster,
        plan=parse_plan(plan, Formats(weights=weights)),
    )  # fmt: skip
    batch = Batch(
        decode_sequences=np.array([[0.0, 3.0, 64.0], [1.0, 1.0, 7.5]]), decode_context=700.0,
        prefill_sequences=np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]), prefill_tokens=333.0,
    )  # fmt: skip
    each = np.stack([step.timer.seconds(op, batch) for op in step.operators])
    np.testing.assert_allclose(step.timer.stacked(step.operators, batch), each, rtol=1e-12)
