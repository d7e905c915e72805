import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from isoflop.cli import main
from isoflop.cost.features import Batch
from isoflop.cost.operators.base import CollectiveShape
from isoflop.cost.step import StepModel
from isoflop.cost.table import TOLERANCE, StepTable
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan

STEP = StepModel(model=load_model("llama-3.1-70b"), plan=Plan(tensor=8),
                 device=load_accelerator("h100-sxm"))  # fmt: skip
SENT = np.array([isinstance(op.shape, CollectiveShape) for op in STEP.operators])


@given(overlap=st.floats(0.0, 1.0), batch=st.integers(1, 512))
def test_overlap_hides_its_share_of_the_shorter_side(overlap, batch):
    b = Batch(decode_sequences=float(batch), decode_context=1024.0)
    plain, beside = STEP.operator_s(b), evolve(STEP, overlap=overlap).operator_s(b)
    network, work = plain[SENT].sum(), plain[~SENT].sum()
    assert beside.sum() == pytest.approx(plain.sum() - overlap * min(network, work), rel=1e-12)
    np.testing.assert_array_equal(beside[~SENT], plain[~SENT])


def test_full_overlap_is_no_faster_than_its_own_limit():
    for n in (1.0, 64.0, 256.0):
        b = Batch(decode_sequences=n, decode_context=2048.0)
        both = evolve(STEP, overlap=1.0)
        assert both.ideal_s(b) <= both.step_s(b) <= STEP.step_s(b)


def test_one_device_has_nothing_to_overlap():
    one = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(),
                    device=load_accelerator("h100-sxm"))  # fmt: skip
    b = Batch(decode_sequences=8.0, decode_context=512.0)
    assert evolve(one, overlap=1.0).step_s(b) == one.step_s(b)


def test_an_overlap_that_is_no_share_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["explain", "llama-3.1-8b", "--on", "h100-sxm", "--overlap", "1.5"])
    assert stop.value.code == 2
    assert "from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(("model", "device", "plan"), [
    ("llama-3.1-8b", "h100-sxm", {}), ("llama-3.1-70b", "a100-80gb-sxm", {"tensor": 4}),
    ("deepseek-v3", "h200", {"data": 8, "expert": 8}), ("gemma-3-12b", "l40s", {}),
    ("nemotron-h-8b", "h100-sxm", {}), ("llama-3.1-8b", "epyc-9654", {}),
])  # fmt: skip
def test_default_tables_hold_their_tolerance(model, device, plan):
    step = StepModel(model=load_model(model), plan=Plan(**plan), device=load_accelerator(device))
    table = StepTable.build(step, max_sequences=200)
    assert table.context[-1] == step.model.max_context
    assert table.error(step, points=1000, seed=5) < TOLERANCE
    # Without the added contexts it does not hold everywhere.
    coarse = StepTable.build(step, max_sequences=200, ratio=1.12)
    assert coarse.error(step, points=1000, seed=5) > table.error(step, points=1000, seed=5)


def test_a_table_at_given_contexts_has_those():
    step = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(),
                     device=load_accelerator("h100-sxm"))  # fmt: skip
    table = StepTable.build(step, max_sequences=4, context=[100.0, 50.0, 100.0])
    assert table.context.tolist() == [50.0, 100.0]
    assert table.seconds.shape == (4, 2)
    assert float(table.decode_s(3.0, 50.0)) == pytest.approx(float(step.decode_s(3.0, 50.0)))
