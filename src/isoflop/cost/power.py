"""Power and energy of a device from how busy its compute and memory are."""

from __future__ import annotations

import numpy as np
from attrs import field, frozen

from .. import catalog
from ..hardware import Accelerator
from ..provenance import Source
from .features import Array


@frozen(kw_only=True)
class PowerParameters:
    """What a running device draws above idle.

    Attributes
    ----------
    floor : float
        Share of the dynamic range (board - idle) drawn while any kernel runs: clocks up,
        schedulers and caches active.
    compute : float
        Share of it at the datasheet's dense matrix rate; above 1 because the board limit throttles
        first.
    joules_per_byte : float
        Energy of moving one byte to or from device memory.
    median_error : float
        Of power on held-out measurements, as a share.
    """

    id: str
    floor: float
    compute: float
    joules_per_byte: float = field(metadata={"plain": True})
    median_error: float
    rows: int
    source: str
    note: str = ""
    sources: dict[str, Source] = field(factory=dict)


def load_power() -> PowerParameters:
    """The fitted power parameters, shared by all devices (watts were measured on one)."""
    return catalog.load("calibrations", "power-default", PowerParameters, "calibration")


def power_watts(
    device: Accelerator,
    compute: Array | float,
    memory: Array | float,
    busy: Array | float = 1.0,
    parameters: PowerParameters | None = None,
) -> Array:
    """Board power in watts at achieved shares of peak compute and peak bandwidth.

    P = idle + min(board - idle, (board - idle) (floor busy + a compute) + e bytes/s): linear up to
    the board limit, where clocks throttle instead. `busy` is the share of time in which a kernel
    runs; the rest waits for the host.
    """
    p = parameters or load_power()
    idle, board = device.power.idle_watts, device.power.board_watts
    bytes_per_s = np.asarray(memory, float) * device.memory.bandwidth_bytes_per_s
    load = p.floor * np.asarray(busy, float) + p.compute * np.asarray(compute, float)
    drawn = (board - idle) * load + p.joules_per_byte * bytes_per_s
    return idle + np.minimum(board - idle, drawn)
