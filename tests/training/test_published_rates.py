"""Rates that NVIDIA published for NeMo, which no fit has read."""

import numpy as np
import pytest
from benchmarks.published_training import predicted, read


@pytest.fixture(scope="module")
def time_errors():
    rows = read()
    ratio = [float(r["tokens_per_s_per_device"]) / predicted(r)[0] for r in rows]
    return rows, np.array(ratio) - 1.0


@pytest.mark.parametrize(
    ("device", "mean", "worst"), [("h100", 0.08, 0.14), ("b200", 0.14, 0.25), ("gb200", 0.12, 0.35)]
)
def test_step_times_of_each_device(time_errors, device, mean, worst):
    rows, errors = time_errors
    mine = np.abs([e for r, e in zip(rows, errors, strict=True) if r["device"] == device])
    assert len(mine) >= 6
    assert mine.mean() <= mean
    assert mine.max() <= worst


def test_per_tensor_8_bit_rows_have_little_bias(time_errors):
    rows, errors = time_errors
    mine = [e for r, e in zip(rows, errors, strict=True) if r["format"] == "fp8-e4m3"]
    assert len(mine) == 24
    assert abs(np.mean(mine)) <= 0.05
