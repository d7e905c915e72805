import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from isoflop.cost.features import Batch
from isoflop.cost.power import Load, at_clock, load_power, power_watts, step_load
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan

shares = st.floats(0.0, 1.0)


@given(compute=shares, memory=shares, more=st.floats(0.0, 0.5))
def test_power_lies_between_idle_and_board_and_grows_with_load(compute, memory, more):
    device = load_accelerator("h100-sxm")
    low = power_watts(device, Load(compute=compute, memory=memory))
    high = power_watts(device, Load(compute=compute + more, memory=memory, cache=more))
    assert device.power.idle_watts <= low <= high <= device.power.board_watts


def test_energy_of_a_copy_is_its_bytes():
    device, p = load_accelerator("h200"), load_power()
    still = power_watts(device, Load(compute=0.0, memory=0.0))
    half = power_watts(device, Load(compute=0.0, memory=0.5))
    per_byte = (half - still) / (0.5 * device.memory.bandwidth_bytes_per_s)
    assert per_byte == pytest.approx(p.joules_per_byte, rel=1e-12)


def test_pauses_between_steps_draw_power_in_proportion():
    # Measured on an H200: 525, 420, 317 and 211 W at 100, 74, 49 and 23% of the time in steps.
    step = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(),
                     device=load_accelerator("h200"))  # fmt: skip
    batch = Batch(decode_sequences=8.0, decode_context=2048.0)
    seconds = 5.9e-3
    for share, watts in ((1.0, 525.0), (0.739, 420.0), (0.493, 317.0), (0.229, 211.0)):
        load = step_load(step, batch, seconds / share)
        assert float(power_watts(step.device, load)) == pytest.approx(watts, rel=0.06)


def test_load_counts_each_operator_at_its_own_rate():
    device, model = load_accelerator("h100-sxm"), load_model("llama-3.1-8b")
    wide = StepModel(model=model, plan=Plan(), device=device)
    batch = Batch(prefill_sequences=1.0, prefill_tokens=2048.0)
    load = step_load(wide, batch, 1.0)
    flop = wide.matrix.total("flop", batch) / wide.timer.shape.bf16_flop_per_s
    assert float(load.compute) == pytest.approx(float(flop), rel=0.01)
    assert float(load.cache) == 0.0
    decode = step_load(wide, Batch(decode_sequences=8.0, decode_context=2048.0), 1.0)
    cache = 8 * 2048 * 2 * 32 * 8 * 128 * 2 / device.memory.bandwidth_bytes_per_s
    assert float(decode.cache) == pytest.approx(cache, rel=0.05)


def test_a_lower_clock_saves_energy_per_flop():
    load = at_clock(Load(compute=0.5, memory=0.2), 0.8, 2.0)
    assert float(np.asarray(load.compute)) == pytest.approx(0.4)
    assert load.memory == 0.2


def test_more_energy_per_cached_byte_means_more_watts():
    device, p = load_accelerator("a100-80gb-sxm"), load_power()
    load = Load(compute=0.05, memory=0.5, cache=0.4)
    twice = evolve(p, joules_per_cache_byte=2 * p.joules_per_cache_byte)
    assert power_watts(device, load, twice) > power_watts(device, load, p)
