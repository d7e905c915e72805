"""The clock that a board's power sustains in dense products, over its highest."""

from __future__ import annotations

from ..hardware import Accelerator

JOULES_PER_FLOP: dict[str, float] = {"ada": 1.20e-12, "hopper": 0.83e-12, "ampere": 1.22e-12}
"""Board energy above idle of one 16-bit FLOP in dense products at full clocks, by family: what
makes the device each family was fitted on sustain the share of its rate that its largest products
reach (L40S 0.88 at 350 W, H100 SXM 0.90 at 700 W, A100 SXM 0.96 at 400 W)."""

CLOCK_PER_POWER = 0.4
"""Clock as a power of dynamic power: P = f V^2 with voltage close to linear in clock."""
LEAST_VOLTAGE_POWER = 0.4
"""Share of full-clock power below which voltage falls no further, so clock goes as power."""


def clock_gain(device: Accelerator) -> float:
    """Highest clock over the one at which the datasheet's rates hold."""
    return (device.compute.load_clock_hz or device.compute.clock_hz) / device.compute.clock_hz


def sustained_share(device: Accelerator, joules_per_flop: float) -> float:
    """Share of the 16-bit rate that the board's power and its highest clock allow."""
    rate = device.rates.dense_flop_per_s.get("bf16", 0.0)
    power = device.power
    clock = clock_gain(device)
    if rate <= 0 or power.board_watts <= power.idle_watts:
        return clock
    given = (power.board_watts - power.idle_watts) / (joules_per_flop * rate)
    low = LEAST_VOLTAGE_POWER
    share = given**CLOCK_PER_POWER if given >= low else low**CLOCK_PER_POWER * given / low
    return min(clock, share)
