"""Power and energy of a device from how busy its matrix units and memory are, and its clock.

A board cannot draw more than its limit for long. Under a load that would, the clock falls until
what is drawn equals the limit: kernels bound by the compute units slow down with it, kernels bound
by memory hardly do. `settled_clock` solves for that clock; `settled` is the instance at it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve, field, frozen
from numpy.typing import ArrayLike

from .. import catalog
from ..hardware import Accelerator, load_accelerator
from ..provenance import Source
from .features import Array, Batch
from .matrix import roofline_s
from .sustained import JOULES_PER_FLOP

if TYPE_CHECKING:
    from .step import StepModel

CACHE_KINDS = ("decode", "mla_decode")
LEAST_CLOCK = 0.3
"""Share of the highest clock below which boards are not known to fall."""
SECOND_CLOCK = 0.6
"""Clock at which step times are evaluated besides the highest one; linear in 1 / clock between."""


@frozen(kw_only=True)
class PowerParameters:
    """What a device draws above idle.

    Attributes
    ----------
    awake : float
        Share of the dynamic range (board - idle) drawn with clocks up and nothing running: a
        server between requests.
    device : str
        The device measured.
    compute : float
        Share of its dynamic range at its dense matrix rate and full clock; above 1 because the
        board limit lowers the clock first.
    clock_exponent : float
        Energy per FLOP goes with the clock to this power, because voltage falls with the clock:
        2 would be voltage in proportion, 0 a voltage at its floor.
    joules_per_byte : float
        Energy of moving one byte to or from device memory.
    joules_per_cache_byte : float
        What a byte of cached keys and values costs besides: attention over a cache pads few
        queries to whole matrix tiles and takes exponentials.
    median_error : float
        Of power on measurements that no parameter was fitted on, as a share.
    """

    id: str
    device: str
    awake: float
    compute: float
    clock_exponent: float
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


def matrix_watts(device: Accelerator, parameters: PowerParameters | None = None) -> float:
    """Watts above idle of the matrix units at the dense rate and full clock, whatever the limit.

    A FLOP costs the energy that it costs on the measured device, times that of the family over
    the measured family's (`sustained.JOULES_PER_FLOP`). A family without a figure of its own takes
    the measured share of its board's dynamic range instead.
    """
    p = parameters or load_power()
    measured = load_accelerator(p.device)
    own, theirs = (JOULES_PER_FLOP.get(d.family, 0.0) for d in (device, measured))
    rates = [d.rates.dense_flop_per_s.get("bf16", 0.0) for d in (device, measured)]
    if own <= 0 or min(rates) <= 0:
        return p.compute * _range_watts(device)
    return p.compute * _range_watts(measured) * own / theirs * rates[0] / rates[1]


def _range_watts(device: Accelerator) -> float:
    return device.power.board_watts - device.power.idle_watts


def drawn_watts(
    device: Accelerator, load: Load, parameters: PowerParameters | None = None
) -> Array:
    """Watts under a load if the board had no limit; see `power_watts`."""
    p = parameters or load_power()
    bandwidth = device.memory.bandwidth_bytes_per_s
    return (
        device.power.idle_watts
        + _range_watts(device) * p.awake
        + matrix_watts(device, p) * np.asarray(load.compute, float)
        + bandwidth * p.joules_per_byte * np.asarray(load.memory, float)
        + bandwidth * p.joules_per_cache_byte * np.asarray(load.cache, float)
    )


def power_watts(
    device: Accelerator, load: Load, parameters: PowerParameters | None = None
) -> Array:
    """Board power in watts under a load.

    P = min(board, idle + (board - idle) awake + FLOP/s e_f + bytes/s e_b + cache bytes/s e_c):
    linear up to the board limit, where the clock falls instead. A share drawn whenever any kernel
    runs was tried too and fitted to nothing.
    """
    return np.minimum(device.power.board_watts, drawn_watts(device, load, parameters))


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


def at_clock(load: Load, clock: ArrayLike, parameters: PowerParameters | None = None) -> Load:
    """The load as it counts at a share of the clock: what the compute units do takes less energy.

    That is the products and what attention does to a cached byte; memory keeps its clock.
    """
    p = parameters or load_power()
    less = np.asarray(clock, float) ** p.clock_exponent
    return evolve(load, compute=load.compute * less, cache=load.cache * less)


def settled_clock(
    step: StepModel, batch: Batch, *, counts: ArrayLike = 1.0, busy: float = 1.0
) -> float:
    """Share of its highest clock at which a device's power equals its board's limit.

    The steps of `batch` follow each other over and over, each `counts` times in a round. With
    time a + b / r at a clock r (compute-bound kernels in b) and J joules of products at full
    clock, power is idle + awake + busy (J r^x + bytes) / (a + b / r), which grows with r.

    Parameters
    ----------
    counts : array, batch.shape
        How often each step occurs.
    busy : float
        Share of the time in which steps run, 0 to 1.

    Returns
    -------
    float
        1 where full clocks stay within the limit, or where it is not known what the family's
        products draw (`sustained.JOULES_PER_FLOP`); never below `LEAST_CLOCK`.
    """
    p, device = load_power(), step.device
    if device.family not in JOULES_PER_FLOP:
        return 1.0
    weight = np.broadcast_to(np.asarray(counts, float), batch.shape)
    once = step_load(step, batch, np.ones(batch.shape))
    work, bytes_, cache = (float((np.asarray(v) * weight).sum())
                           for v in (once.compute, once.memory, once.cache))  # fmt: skip
    full, low = (float((_held_s(step.at(c), batch) * weight).sum()) for c in (1.0, SECOND_CLOCK))
    slope = (low - full) / (1.0 / SECOND_CLOCK - 1.0)

    def excess(clock: Array) -> Array:
        share = busy / (full + slope * (1.0 / clock - 1.0))
        load = Load(compute=work * share, memory=bytes_ * share, cache=cache * share)
        return drawn_watts(device, at_clock(load, clock, p), p) - device.power.board_watts

    return 1.0 if full <= 0 else float(_largest_clock(excess, ()))


def compute_share(step: StepModel, batch: Batch) -> Array:
    """Share of a step's kernel time bound by compute: what a lower clock stretches."""
    parts = roofline_s(step.matrix, step.peaks, batch)
    times = step.operator_s(batch)
    bound = parts["compute"] > np.maximum(parts["memory"], parts["network"])
    return np.where(bound, times, 0.0).sum(axis=0) / times.sum(axis=0)


def sustained_clock(step: StepModel, batch: Batch, seconds: Array, share: Array) -> Array:
    """`settled_clock` of each step of `batch` where its time is known from elsewhere.

    At clock c the step takes seconds (1 - share + share / c), `share` of it bound by compute. The
    mean over the step counts: the limiter averages over milliseconds, a layer takes less.
    """
    p, device = load_power(), step.device

    def excess(clock: Array) -> Array:
        load = step_load(step, batch, seconds * (1.0 - share + share / clock))
        return drawn_watts(device, at_clock(load, clock, p), p) - device.power.board_watts

    return _largest_clock(excess, np.shape(seconds))


def _largest_clock(excess: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
    """Largest clocks at which `excess`, which grows with the clock, is not positive."""
    low, high = np.full(shape, LEAST_CLOCK), np.ones(shape)
    full = excess(high) <= 0
    for _ in range(30):
        middle = 0.5 * (low + high)
        fits = excess(middle) <= 0
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return np.where(full, 1.0, low)


def settled(
    step: StepModel, batch: Batch, *, counts: ArrayLike = 1.0, busy: float = 1.0
) -> StepModel:
    """The instance at the clock where its devices settle under steps that go on and on.

    `step` itself, at its short-run times, where power allows full clocks.
    """
    clock = settled_clock(step, batch, counts=counts, busy=busy)
    return step.at(None) if clock >= 1.0 else step.at(clock)


def _held_s(step: StepModel, batch: Batch) -> Array:
    """Seconds of steps at a clock alone."""
    counts = np.array([op.count for op in step.operators])
    counts = counts.reshape(-1, *(1,) * len(batch.shape))
    kernels = (counts * step.timer.held(step.operators, batch)).sum(axis=0)
    return step.engine.scale(step.device.family) * kernels + step.overhead_s(batch)
