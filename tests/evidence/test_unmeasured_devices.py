"""Predictions on devices of families that no kernel table measured."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop import catalog
from isoflop.cost.features import Batch
from isoflop.cost.step import StepModel
from isoflop.evidence.predict import predict_cases
from isoflop.evidence.published import published_cases
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan

LARGE = 20e9
"""Memory above which a device holds 8 billion parameters in 16 bits."""


@pytest.mark.parametrize("name", catalog.paths("accelerators"))
def test_a_step_stays_within_sight_of_the_roofline(name):
    # A device whose units are counted wrongly is off by ten times, not by two.
    device = load_accelerator(name)
    if not {"bf16", "fp16", "fp32"} & set(device.rates.dense_flop_per_s):
        pytest.skip("no 16-bit rate")
    model = "llama-3.1-8b" if device.memory.capacity_bytes > LARGE else "llama-3.2-1b"
    step = StepModel(model=load_model(model), plan=Plan(), device=device)
    decode = Batch(decode_sequences=1.0, decode_context=2048.0)
    prompt = Batch(prefill_sequences=1.0, prefill_tokens=2048.0)
    for batch, most in ((decode, 2.2), (prompt, 3.0)):
        assert 1.0 <= float(step.step_s(batch)) / float(step.ideal_s(batch)) * (1 + 1e-9) < most


def test_published_gaudi_throughput():
    # Vendor's tables, no parameter fitted on the family: 41 figures of static batches.
    cases = [c for c in published_cases() if "Gaudi" in c.source]
    found = [p for p in predict_cases(cases) if p.predicted]
    assert len(found) == len(cases) > 40
    error = np.array([abs(p.predicted / p.case.measured - 1) for p in found])
    measured = np.array([p.case.measured for p in found])
    assert np.median(error) < 0.22
    newer = np.array([p.case.device == "gaudi-3" for p in found])
    assert np.median(error[newer]) < 0.25
    flat = np.abs(np.median(measured) / measured - 1)
    assert np.mean(error) < 0.4 * np.mean(flat)
