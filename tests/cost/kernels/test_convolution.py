import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.cost.kernels.calibration import load_gemm
from isoflop.cost.kernels.convolution import (
    convolution_bytes,
    convolution_flop,
    convolution_time_s,
    load_convolutions,
)
from isoflop.cost.kernels.shape import DeviceShape
from isoflop.hardware import load_accelerator

MEASURED = Path(__file__).resolve().parents[3] / "benchmarks/data/h100-2026-11-27.jsonl"


def seconds(kind, pixels, channels, kernel, device="h100-sxm"):
    found = load_accelerator(device)
    return convolution_time_s(
        load_convolutions().parameters, load_gemm("hopper").gemm["bf16"], DeviceShape.of(found),
        kind, pixels, channels, kernel, rate_flop_per_s=found.rates.dense_flop_per_s["bf16"],
        vector_flop_per_s=found.rates.vector_flop_per_s,
    )  # fmt: skip


def test_a_device_never_fitted_is_met_within_what_the_file_says():
    rows = [json.loads(line) for line in MEASURED.read_text().splitlines()]
    rows = [r for r in rows if r["suite"] == "conv"]
    assert len(rows) == 74
    for kind, stated in load_convolutions().other_device_error.items():
        off = [
            abs(seconds(kind, r["images"] * r["side"] ** 2, r["channels"], r["kernel"])
                / r["seconds"] - 1)
            for r in rows if r["kind"] == kind
        ]  # fmt: skip
        assert np.median(off) == pytest.approx(stated, abs=0.002)
        assert stated < 0.15


@given(
    side=st.integers(4, 128), channels=st.sampled_from([32, 64, 128, 512]),
    kernel=st.sampled_from([3, 5, 7]),
)  # fmt: skip
def test_no_convolution_is_faster_than_its_flop_or_its_kernel(side, channels, kernel):
    pixels, device = 8.0 * side * side, load_accelerator("h100-sxm")
    flop = convolution_flop("dense", pixels, channels, kernel)
    assert (
        seconds("dense", pixels, channels, kernel) > flop / (device.rates.dense_flop_per_s["bf16"])
    )
    slow = convolution_flop("depthwise", pixels, channels, kernel)
    assert seconds("depthwise", pixels, channels, kernel) > slow / device.rates.vector_flop_per_s
    assert seconds("dense", pixels, 2 * channels, kernel) >= seconds(
        "dense", pixels, channels, kernel
    )


def test_a_partial_convolution_has_a_sixteenth_of_the_flop():
    assert convolution_flop("dense", 100.0, 64, 3) == 16 * convolution_flop("partial", 100.0, 64, 3)
    assert convolution_bytes("depthwise", 10.0, 64, 3) == 2 * (2 * 10 * 64 + 9 * 64)


def test_alpha_is_one_at_its_surface_and_falls_as_the_surface_grows():
    # Asperti et al. 2021: alpha_K(S) = ((S_K + beta_K (S - S_K)) / S) ** gamma_K.
    for c in load_convolutions().corrections:
        assert c.alpha(c.surface) == 1.0
        values = [c.alpha(s) for s in (49.0, 196.0, 784.0, 50176.0)]
        assert values == sorted(values, reverse=True)
        assert c.alpha(784.0) == pytest.approx(((49 + c.beta * 735) / 784) ** c.gamma)
