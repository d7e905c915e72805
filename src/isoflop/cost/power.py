"""Power and energy of a device from how busy its matrix units and memory are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve, field, frozen

from .. import catalog
from ..hardware import Accelerator
from ..provenance import Source
from .features import Array, Batch
from .matrix import roofline_s

if TYPE_CHECKING:
    from .step import StepModel

CACHE_KINDS = ("decode", "mla_decode")


@frozen(kw_only=True)
class PowerParameters:
    """What a device draws above idle.

    Attributes
    ----------
    awake : float
        Share of the dynamic range (board - idle) drawn with clocks up and nothing running: a
        server between requests.
    compute : float
        Share of it at the datasheet's dense matrix rate; above 1 because the board limit throttles
        first.
    joules_per_byte : float
        Energy of moving one byte to or from device memory.
    joules_per_cache_byte : float
        What a byte of cached keys and values costs besides: attention over a cache pads few
        queries to whole matrix tiles and takes exponentials.
    median_error : float
        Of power on measurements that no parameter was fitted on, as a share.
    """

    id: str
    awake: float
    compute: float
    joules_per_byte: float = field(metadata={"plain": True})
    joules_per_cache_byte: float = field(metadata={"plain": True})
    median_error: float
    rows: int
    source: str
    note: str = ""
    sources: dict[str, Source] = field(factory=dict)


@frozen(kw_only=True, eq=False)
class Load:
    """How busy a device is over time: shares of its dense matrix rate and of peak bandwidth.

    Attributes
    ----------
    compute : array or float
        FLOP/s over the dense rate of each operator's own format.
    memory : array or float
        All bytes moved per second over peak bandwidth.
    cache : array or float
        The part of `memory` that decoding attention reads from the cache.
    """

    compute: Array | float
    memory: Array | float
    cache: Array | float = 0.0


def load_power() -> PowerParameters:
    """The fitted power parameters, shared by all devices (watts were measured on one)."""
    return catalog.load("calibrations", "power-default", PowerParameters, "calibration")


def demand_watts(
    device: Accelerator, load: Load, parameters: PowerParameters | None = None
) -> Array:
    """Board power in watts that a load asks for, whether or not the board limit allows it.

    P = idle + (board - idle) (awake + c compute) + bytes/s e_b + cache bytes/s e_c. A share drawn
    whenever any kernel runs was tried too and fitted to nothing.
    """
    p = parameters or load_power()
    idle, board = device.power.idle_watts, device.power.board_watts
    bandwidth = device.memory.bandwidth_bytes_per_s
    share = p.awake + p.compute * np.asarray(load.compute, float)
    return (
        idle
        + (board - idle) * share
        + bandwidth
        * (
            p.joules_per_byte * np.asarray(load.memory, float)
            + p.joules_per_cache_byte * np.asarray(load.cache, float)
        )
    )


def power_watts(
    device: Accelerator, load: Load, parameters: PowerParameters | None = None
) -> Array:
    """Board power in watts under a load: the demand up to the board limit, where clocks throttle
    instead.
    """
    return np.minimum(device.power.board_watts, demand_watts(device, load, parameters))


def step_load(step: StepModel, batch: Batch, seconds: Array | float | None = None) -> Load:
    """Load of one rank while steps of a batch follow each other, each taking `seconds`.

    `seconds` (shape batch.shape) is the model's own step time when left out.
    """
    cost = step.matrix.cost(batch)
    extra = (np.newaxis,) * len(batch.shape)
    matrix = np.array([op.rate is not None for op in step.operators])
    worth = np.where(matrix, 1.0 / step.peaks.flop_per_s, 0.0)[(..., *extra)]
    cached = np.array([op.kind in CACHE_KINDS for op in step.operators], float)[(..., *extra)]
    moved = cost["read"] + cost["written"]
    t = step.step_s(batch) if seconds is None else np.asarray(seconds, float)
    bytes_per_s = t * step.device.memory.bandwidth_bytes_per_s
    return Load(
        compute=(cost["flop"] * worth).sum(axis=0) / t,
        memory=moved.sum(axis=0) / bytes_per_s,
        cache=(moved * cached).sum(axis=0) / bytes_per_s,
    )


def at_clock(load: Load, clock: Array | float, energy_power: float) -> Load:
    """The load with compute weighed as at a share of the clock.

    Energy per FLOP falls with voltage, as clock ** (energy_power - 1) where power goes with
    clock ** energy_power at a constant load; memory keeps its clock.
    """
    return evolve(load, compute=load.compute * np.asarray(clock, float) ** (energy_power - 1.0))


CLOCK_POWER = 2.0
"""Exponent of dynamic power in the clock: voltage follows it, less than linearly near the top."""
LEAST_CLOCK = 0.5


def compute_share(step: StepModel, batch: Batch) -> Array:
    """Share of a step's kernel time bound by compute: what a lower clock stretches."""
    parts = roofline_s(step.matrix, step.peaks, batch)
    times = step.operator_s(batch)
    bound = parts["compute"] > np.maximum(parts["memory"], parts["network"])
    return np.where(bound, times, 0.0).sum(axis=0) / times.sum(axis=0)


def sustained_clock(step: StepModel, batch: Batch, seconds: Array, share: Array) -> Array:
    """Largest share of the clock at which steps of `seconds` stay within the board limit.

    At clock c the step takes seconds (1 - share + share / c), `share` of it bound by compute. The
    mean over the step counts: the limiter averages over milliseconds, a layer takes less.
    """
    low, high = np.full(np.shape(seconds), LEAST_CLOCK), np.ones(np.shape(seconds))
    clock = high
    for _ in range(20):
        stretched = seconds * (1.0 - share + share / clock)
        load = at_clock(step_load(step, batch, stretched), clock, CLOCK_POWER)
        fits = demand_watts(step.device, load) <= step.device.power.board_watts
        low, high = np.where(fits, clock, low), np.where(fits, high, clock)
        clock = np.where(low >= 1.0, 1.0, (low + high) / 2.0)
    return clock
