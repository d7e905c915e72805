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
    """Shares of the dynamic range (board - idle) that a busy device draws.

    Attributes
    ----------
    floor : float
        Drawn by any running kernel: clocks up, schedulers busy, caches active.
    compute : float
        At the datasheet's dense matrix rate; above 1 because the board limit throttles first.
    memory : float
        At the datasheet's memory bandwidth.
    median_error : float
        Of power on held-out measurements, as a share.
    """

    id: str
    floor: float
    compute: float
    memory: float
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
    parameters: PowerParameters | None = None,
) -> Array:
    """Board power in watts at achieved shares of peak compute and peak bandwidth.

    P = idle + (board - idle) min(1, floor + a compute + b memory): linear in both up to the board
    limit, where clocks throttle instead.
    """
    p = parameters or load_power()
    idle, board = device.power.idle_watts, device.power.board_watts
    busy = p.floor + p.compute * np.asarray(compute) + p.memory * np.asarray(memory)
    return idle + (board - idle) * np.minimum(1.0, busy)
