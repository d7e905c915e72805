"""The fastest plan of a space, exactly: memory first, then a bound, then the price of what is left.

The bound is the time of a plan's own FLOP at the highest rate the calibrated kernel models can
reach, plus the bubble its schedule cannot avoid. No model goes below it, so a plan whose bound
exceeds the best price found cannot be the best.
"""

from __future__ import annotations

import time

import numpy as np
from attrs import evolve, frozen

from ..cost.features import Array
from ..errors import DoesNotFit, InvalidPlan
from ..formats import load_format
from ..hardware import Accelerator, Cluster
from ..units import show_bytes
from .calibration import TrainingCalibration
from .memory import (
    ALTERNATE,
    FULL,
    SELECTIVE,
    fewest_full_layers,
    memory_parts,
    micro_batches,
    stage_layers,
    total_bytes,
    usable_bytes,
)
from .plan import SCHEDULES, Plans, Recipe, TrainingJob, TrainingPlan
from .space import SpaceLimits, enumerate_plans
from .time import StepPricer
from .utilization import step_flop

CHUNK = 1 << 16
"""Plans priced at a time, so that intermediate arrays stay in cache."""
ATTENTION_BEST = 1.15
"""Most by which the attention model exceeds its calibrated share of peak (wide heads)."""
BOUND_SHARE = 0.8
"""Safety on the bound: share of the time at peak rate that no model undercuts."""


@frozen(kw_only=True, eq=False)
class PlanSearch:
    """What a search found.

    Attributes
    ----------
    plans, seconds, memory_bytes
        Priced plans, fastest first.
    considered, too_large, outbid, priced : int
        Plans of the space; left out for memory; left out by the bound; priced.
    elapsed_s : float
    """

    plans: Plans
    seconds: Array
    memory_bytes: Array
    considered: int
    too_large: int
    outbid: int
    priced: int
    elapsed_s: float

    @property
    def best(self) -> TrainingPlan:
        """The fastest plan."""
        return self.plans.at(0)

    def pareto(self) -> Array:
        """Positions of plans that no other beats in both time and memory, fastest first."""
        lowest = np.minimum.accumulate(self.memory_bytes)
        keep = np.ones(len(self.seconds), bool)
        keep[1:] = self.memory_bytes[1:] < lowest[:-1]
        return np.flatnonzero(keep)

    def rows(self) -> list[dict[str, object]]:
        """The fastest plans as records."""
        return [
            {"plan": self.plans.at(i).describe(), "step_s": float(self.seconds[i]),
             "memory_bytes": float(self.memory_bytes[i])}
            for i in range(min(20, len(self.seconds)))
        ]  # fmt: skip


def search_plans(
    job: TrainingJob, recipe: Recipe, device: Accelerator, count: int,
    cluster: Cluster | None = None, *, limits: SpaceLimits | None = None, slack: float = 1.0,
    calibration: TrainingCalibration | None = None, prune: bool = True,
) -> PlanSearch:  # fmt: skip
    """Search all plans of a job on `count` devices.

    Parameters
    ----------
    slack : float
        Plans are priced while their bound is under `slack` times the best price: 1 finds the
        optimum, more keeps runners-up and the Pareto front up to that time.
    prune : bool
        False prices every plan that fits (for tests).

    Raises
    ------
    InvalidPlan
        If no plan divides the job and the fleet.
    DoesNotFit
        If none fits; the message names the leanest one and what it needs.
    """
    start = time.perf_counter()
    limits = limits or SpaceLimits()
    if not recipe.gradient_exchange.shards:
        limits = evolve(limits, zero=tuple(z for z in limits.zero if z < 2))
    plans = enumerate_plans(job, count, limits)
    considered = len(plans)
    usable = usable_bytes(device)
    plans, needed = _fill_memory(job, recipe, plans, usable if limits.mixes else 0.0)
    held = np.flatnonzero(needed <= usable)
    if len(held) == 0:
        larger = _smallest_fleet(job, recipe, count, usable, limits)
        _refuse(job, recipe, plans, needed, usable, device, count, larger)
    pricer = StepPricer(job=job, recipe=recipe, device=device, cluster=cluster,
                        calibration=calibration)  # type: ignore[arg-type]  # fmt: skip
    plans, needed = plans.take(held), needed[held]
    pricer.table.prepare(plans)
    bound = bound_s(pricer, plans)
    order = np.argsort(bound, kind="stable")
    seconds = np.full(len(plans), np.inf)
    best, at = np.inf, 0
    size = 1024  # the first chunk finds a good price cheaply
    while at < len(order):
        if prune and bound[order[at]] > best * slack:
            break
        part = order[at : at + size]
        if prune:
            part = part[bound[part] <= best * slack]
        seconds[part] = pricer.price(plans.take(part)).seconds
        best = min(best, float(seconds[part].min()))
        at, size = at + size, CHUNK
    priced = np.isfinite(seconds)
    final = np.flatnonzero(priced)
    final = final[np.argsort(seconds[final], kind="stable")]
    return PlanSearch(
        plans=plans.take(final), seconds=seconds[final], memory_bytes=needed[final],
        considered=considered, too_large=considered - len(held),
        outbid=len(held) - int(priced.sum()), priced=int(priced.sum()),
        elapsed_s=time.perf_counter() - start,
    )  # fmt: skip


def _fill_memory(
    job: TrainingJob, recipe: Recipe, plans: Plans, available: float
) -> tuple[Plans, Array]:  # fmt: skip
    """Bytes every plan needs; one that needs too much recomputes the fewest layers that help."""
    needed = np.empty(len(plans))
    for i in range(0, len(plans), CHUNK):
        here = slice(i, i + CHUNK)
        part = plans.take(here)
        parts = memory_parts(job, recipe, part)
        needed[here] = total_bytes(parts)
        standing = sum(parts[k] for k in ("weights", "gradients", "optimizer"))
        mixed = (needed[here] > available) & (standing < available) & (part.recompute <= SELECTIVE)
        at = i + np.flatnonzero(mixed)
        if len(at):
            layers = fewest_full_layers(job, recipe, plans.take(at), available)
            at, layers = at[layers > 0], layers[layers > 0]
            plans.full_layers[at] = layers
            needed[at] = total_bytes(memory_parts(job, recipe, plans.take(at)))
    return plans, needed


def bound_s(pricer: StepPricer, plans: Plans) -> Array:
    """Seconds that no price of a plan falls below."""
    job, recipe, cal = pricer.job, pricer.recipe, pricer.calibration
    fmt = load_format(recipe.format)
    rate = pricer.device.matrix_rate(fmt)[0]
    narrow = 1.0 if fmt.bits > 8 else (cal.gemm_fp8 if fmt.bits > 6 else cal.gemm_fp4)
    share = min(1.0, cal.gemm * narrow, cal.attention / ATTENTION_BEST, cal.gemm)
    share *= BOUND_SHARE * min(1.0, cal.experts)
    forward = step_flop(job, "model-causal") / 3.0 / job.step_tokens
    m = job.model
    head = 2.0 * m.vocab * m.hidden if m.head else 0.0
    layer = max(forward - head, 0.0) / m.depth
    rounds = np.where(plans.recompute == FULL, 4.0, np.where(plans.recompute == ALTERNATE, 3.3, 3))
    layers = stage_layers(job, recipe, plans)
    rounds = rounds + np.minimum(plans.full_layers / layers, 1.0)
    rounds = rounds - (3.0 - recipe.rounds)
    tokens = plans.micro_batch * job.sequence_tokens / plans.context / plans.tensor
    stage = tokens * layer * layers * rounds / rate * share
    steps = micro_batches(job, plans)
    filled = np.isin(plans.schedule, [SCHEDULES.index(s) for s in ("gpipe", "1f1b", "interleaved")])
    mean = stage * np.minimum(1.0, job.model.depth / (plans.pipeline * layers))
    bubble = np.maximum((plans.pipeline - 1.0) * mean - (stage - mean), 0.0) / plans.virtual
    return steps * stage + np.where(filled, bubble, 0.0)


def _smallest_fleet(
    job: TrainingJob, recipe: Recipe, count: int, usable: float, limits: SpaceLimits
) -> int:
    """The first of 2, 4, ... 64 times as many devices that hold the job; 0 where none does."""
    for times in (2, 4, 8, 16, 32, 64):
        try:
            plans = enumerate_plans(job, count * times, limits)
        except InvalidPlan:
            continue
        for i in range(0, len(plans), CHUNK):
            part = plans.take(slice(i, i + CHUNK))
            if total_bytes(memory_parts(job, recipe, part)).min() <= usable:
                return count * times
    return 0


def _refuse(
    job: TrainingJob, recipe: Recipe, plans: Plans, needed: Array, usable: float,
    device: Accelerator, count: int, larger: int,
) -> None:  # fmt: skip
    more = f"{larger} of them hold it: use" if larger else "Use"
    least = int(np.argmin(needed))
    ways = ["more or larger devices"]
    if recipe.optimizer == "adam":
        ways.append("an optimizer with less state (--optimizer adam8bit)")
    if recipe.offload == "none":
        ways.append("offload (--offload cpu)")
    if not recipe.adapters:
        ways.append("low-rank adapters alone (--adapters)")
    advice = " or ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))
    raise DoesNotFit(
        f"{job.model.name} does not fit {count} x {device.name} with any of {len(plans)} plans. "
        f"The leanest, {plans.at(least).describe()}, needs {show_bytes(float(needed[least]))} of "
        f"{show_bytes(usable)} usable per device. {more} {advice}.",
        needed_bytes=float(needed[least]), available_bytes=usable,
    )  # fmt: skip
