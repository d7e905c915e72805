"""The fastest plan of a space, exactly: by the least memory and the least time of whole branches.

A root of the space stands for all placements, recomputations, ZeRO stages and shards of one layout.
Its bound is its own price without recomputation and without the traffic of gradients and sharded
weights, with the optimizer's state sharded over all data ranks: kernels, tensor, context and expert
collectives, bubble and stage transfers included, the last two as the better placement has each. No
plan of the root is quicker, so a root whose bound exceeds the best price found is never unfolded.
The same holds for a branch, one placement and kind of recomputation.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from attrs import evolve, frozen

from ..cost.features import Array
from ..errors import DoesNotFit, InvalidPlan
from ..hardware import Accelerator, Cluster
from ..units import show_bytes
from .activations import SELECTIVE
from .calibration import TrainingCalibration
from .fleet import network_of
from .memory import (
    fewest_layers,
    least_bytes,
    memory_parts,
    total_bytes,
    usable_bytes,
    usable_host_bytes,
)
from .offload import (
    away_parts,
    fits_away,
    host_bytes,
    least_away_bytes,
    shortage,
    usable_nvme_bytes,
)
from .plan import OFFLOAD, Plans, Recipe, TrainingJob, TrainingPlan
from .space import PlanSpace, SpaceLimits, enumerate_plans, plan_space
from .time import StepPricer

CHUNK = 1 << 14
"""Plans handled at a time, so that intermediate arrays stay in cache."""
FIRST_ROOTS, MOST_ROOTS = 64, 4096
"""Roots unfolded at first, and at most at a time; every turn takes twice as many."""


@frozen(kw_only=True, eq=False)
class PlanSearch:
    """What a search found.

    Attributes
    ----------
    plans, seconds, memory_bytes
        Priced plans, fastest first.
    considered, too_large, outbid, priced : int
        Plans of the space; left out for memory; left out by a bound, whether they would fit or
        not; priced.
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
    calibration: TrainingCalibration | None = None, prune: bool = True, under_s: float = np.inf,
) -> PlanSearch:  # fmt: skip
    """Search all plans of a job on `count` devices.

    Parameters
    ----------
    slack : float
        Plans are priced while their bound is under `slack` times the best price: 1 finds the
        optimum, more keeps runners-up and the Pareto front up to that time.
    prune : bool
        False prices every plan that fits (for tests).
    under_s : float
        A step time offered elsewhere: plans that cannot be quicker are outbid, perhaps all.

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
    places = tuple(range(OFFLOAD.index(recipe.offload_weights) + 1))
    limits = evolve(
        limits, by_heads=limits.by_heads or recipe.context == "ulysses", weights=places,
        placement=recipe.placement, fast=network_of(device, cluster, count).node,
    )  # fmt: skip
    space = plan_space(job, count, limits)
    usable = usable_bytes(device)
    pricer = StepPricer(job=job, recipe=recipe, device=device, cluster=cluster,
                        calibration=calibration)  # type: ignore[arg-type]  # fmt: skip
    walk = Walk(space, pricer, usable if limits.mixes else 0.0, usable)
    walk.run(slack if prune else np.inf, under_s)
    considered = len(space)
    if walk.too_large == considered:
        plans = enumerate_plans(job, count, limits)
        plans, needed = fill_memory(job, recipe, plans, usable if limits.mixes else 0.0)
        larger = _smallest_fleet(job, recipe, count, usable, cluster, limits)
        _refuse(job, recipe, plans, needed, usable, device, count, cluster, larger)
    plans, seconds, needed = walk.found()
    return PlanSearch(
        plans=plans, seconds=seconds, memory_bytes=needed, considered=considered,
        too_large=walk.too_large, outbid=considered - walk.too_large - len(seconds),
        priced=len(seconds), elapsed_s=time.perf_counter() - start,
    )  # fmt: skip


class Walk:
    """A walk through a space from roots over branches to leaves, the least bounds first.

    Roots whose leanest leaf cannot fit are dropped before anything is priced. What cannot be
    quicker than the best plan found is never unfolded, so neither its memory nor its time is
    worked out: it counts as outbid whether it would fit or not.

    Attributes
    ----------
    best : float
        Seconds of the fastest plan so far.
    too_large : int
        Plans that were looked at and do not fit.
    """

    def __init__(self, space: PlanSpace, pricer: StepPricer, available: float, usable: float):
        self.space, self.pricer = space, pricer
        self.available, self.usable = available, usable
        self.best, self.too_large = np.inf, 0
        none = space.roots.take(slice(0, 0))
        self._found: list[tuple[Plans, Array, Array]] = [(none, np.zeros(0), np.zeros(0))]

    def run(self, slack: float, under_s: float) -> None:
        """Price every plan whose bounds are under `slack` times the best, and under `under_s`."""
        roots = self._roomy()
        if not len(roots):
            return
        self.pricer.table.prepare(self.space.roots.take(roots))
        bound = self._in_chunks(self.pricer.floor_s, self.space.roots.take(roots))
        order = np.argsort(bound, kind="stable")
        at, size = 0, FIRST_ROOTS  # the first few find a good price cheaply
        while at < len(order):
            limit = min(self.best * slack, under_s)
            if bound[order[at]] > limit:
                break
            part = order[at : at + size]
            self._unfold(roots[part[bound[part] <= limit]], limit)
            at, size = at + size, min(2 * size, MOST_ROOTS)

    def found(self) -> tuple[Plans, Array, Array]:
        """Priced plans, their seconds and bytes; fastest first, of equals the leanest."""
        plans = Plans.concatenate([p for p, _, _ in self._found])
        seconds = np.concatenate([s for _, s, _ in self._found])
        needed = np.concatenate([n for _, _, n in self._found])
        order = np.lexsort((needed, seconds))
        return plans.take(order), seconds[order], needed[order]

    def _roomy(self) -> Array:
        """Roots with a leaf that may fit device, host memory and drives."""
        job, recipe, zero = self.pricer.job, self.pricer.recipe, max(self.space.zero)
        least = self._in_chunks(
            lambda plans: least_bytes(job, recipe, plans, zero), self.space.roots
        )
        fits = least <= self.usable
        if recipe.offload != "none":
            host, drives = least_away_bytes(job, recipe, self.space.roots)
            fits &= host <= usable_host_bytes(self.pricer.cluster)
            fits &= drives <= usable_nvme_bytes(self.pricer.cluster)
        self.too_large += int(self.space.counts()[~fits].sum())
        return np.flatnonzero(fits)

    def _unfold(self, roots: Array, limit: float) -> None:
        """Price the plans of some roots whose branches' bounds are under a limit."""
        branches, at = self.space.branches(roots)
        kept = self.pricer.floor_s(branches) <= limit
        leaves = self.space.leaves(branches.take(kept), at[kept])
        offload = self.pricer.recipe.offload_activations
        # Filling the memory changes its table in place: offloading starts from the plans before it.
        spare = leaves.take(np.arange(len(leaves))) if offload else leaves
        leaves, needed = fill_memory(self.pricer.job, self.pricer.recipe, leaves, self.available)
        held = self._holds(leaves, needed)
        some = leaves.take(held), needed[held]
        seconds = self._in_chunks(lambda plans: self.pricer.price(plans).seconds, some[0])
        if offload:
            held, some, seconds = self._or_offload(spare, held, some, seconds)
        self.too_large += int(len(held) - held.sum())
        if not held.any():
            return
        self._found.append((some[0], seconds, some[1]))
        self.best = min(self.best, float(seconds.min()))

    def _or_offload(
        self, leaves: Plans, held: Array, some: tuple[Plans, Array], seconds: Array
    ) -> tuple[Array, tuple[Plans, Array], Array]:
        """The quicker of each plan with layers computed again and with layers in host memory."""
        leaves, needed = fill_memory(
            self.pricer.job, self.pricer.recipe, leaves, self.available,
            host=usable_host_bytes(self.pricer.cluster),
        )  # fmt: skip
        mine = self._holds(leaves, needed) & (leaves.offload_layers > 0)
        if not mine.any():
            return held, some, seconds
        own = leaves.take(mine)
        times = self._in_chunks(lambda plans: self.pricer.price(plans).seconds, own)
        before = np.full(len(held), np.inf)
        before[held] = seconds
        after = np.full(len(held), np.inf)
        after[mine] = times
        quicker = after < before
        keep = ~quicker[held]
        both = Plans.concatenate([some[0].take(keep), own.take(quicker[mine])])
        return (
            held | quicker, (both, np.concatenate([some[1][keep], needed[quicker]])),
            np.concatenate([seconds[keep], times[quicker[mine]]]),
        )  # fmt: skip

    def _holds(self, plans: Plans, needed: Array) -> Array:
        """Which plans, needing so many bytes on the device, fit it, host memory and drives."""
        fits = needed <= self.usable
        recipe = self.pricer.recipe
        if recipe.offload == recipe.offload_weights == "none" and not recipe.offload_activations:
            return fits
        return fits & fits_away(self.pricer.job, recipe, plans, self.pricer.cluster)

    @staticmethod
    def _in_chunks(value: Callable[[Plans], Array], plans: Plans) -> Array:
        """A value of every plan, CHUNK at a time."""
        parts = [value(plans.take(slice(i, i + CHUNK))) for i in range(0, len(plans), CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)


def fill_memory(
    job: TrainingJob, recipe: Recipe, plans: Plans, available: float, host: float = 0.0
) -> tuple[Plans, Array]:  # fmt: skip
    """Bytes every plan needs; one that needs too much recomputes the fewest layers that help.

    With `host` bytes of host memory for each device, it keeps their activations there instead.
    """
    away = host > 0
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
            layers = fewest_layers(job, recipe, plans.take(at), available, away=away)
            at, layers = at[layers > 0], layers[layers > 0]
            if away:
                put = evolve(plans.take(at), offload_layers=layers)
                room = host_bytes(job, recipe, put) <= host
                at, layers = at[room], layers[room]
            (plans.offload_layers if away else plans.full_layers)[at] = layers
            needed[at] = total_bytes(memory_parts(job, recipe, plans.take(at)))
    return plans, needed


def _smallest_fleet(
    job: TrainingJob, recipe: Recipe, count: int, usable: float, cluster: Cluster | None,
    limits: SpaceLimits,
) -> int:  # fmt: skip
    """The first of 2, 4, ... 64 times as many devices that hold the job; 0 where none does."""
    for times in (2, 4, 8, 16, 32, 64):
        try:
            plans = enumerate_plans(job, count * times, limits)
        except InvalidPlan:
            continue
        for i in range(0, len(plans), CHUNK):
            part = plans.take(slice(i, i + CHUNK))
            held = total_bytes(memory_parts(job, recipe, part)) <= usable
            if (held & fits_away(job, recipe, part, cluster)).any():
                return count * times
    return 0


def _refuse(
    job: TrainingJob, recipe: Recipe, plans: Plans, needed: Array, usable: float,
    device: Accelerator, count: int, cluster: Cluster | None, larger: int,
) -> None:  # fmt: skip
    """Raise `DoesNotFit`, naming the leanest plan, what it lacks and what is left to try."""
    more = f"{larger} of them hold it: use" if larger else "Use"
    advice = f"{more} {_advice(recipe)}."
    none = f"{job.model.name} does not fit {count} x {device.name} with any of {len(plans)} plans."
    roomy = np.flatnonzero(needed <= usable)
    if len(roomy):
        host, drives = away_parts(job, recipe, plans.take(roomy))
        away = total_bytes(host) + total_bytes(drives)
        leanest = int(roomy[np.argmin(away)])
        lack = shortage(job, recipe, plans.take(slice(leanest, leanest + 1)), cluster)
        if lack is not None:
            raise DoesNotFit(
                f"{none} The devices hold {plans.at(leanest).describe()}, which {lack.sentence}. "
                f"{advice}",
                needed_bytes=lack.needed_bytes, available_bytes=lack.available_bytes,
            )  # fmt: skip
    least = int(np.argmin(needed))
    raise DoesNotFit(
        f"{none} The leanest, {plans.at(least).describe()}, needs "
        f"{show_bytes(float(needed[least]))} of {show_bytes(usable)} usable per device. {advice}",
        needed_bytes=float(needed[least]), available_bytes=usable,
    )  # fmt: skip


def _advice(recipe: Recipe) -> str:
    """What the recipe has not tried yet."""
    ways = ["more or larger devices"]
    if recipe.optimizer == "adam":
        ways.append("an optimizer with less state (--optimizer adam8bit)")
    if recipe.offload == "none":
        ways.append("offload (--offload cpu)")
    elif recipe.offload_weights == "none":
        ways.append(f"offload of weights (--offload-weights {recipe.offload})")
    elif recipe.offload == "cpu":
        ways.append("drives (--offload nvme --offload-weights nvme)")
    if not recipe.adapters:
        ways.append("low-rank adapters alone (--adapters)")
    return " or ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))
