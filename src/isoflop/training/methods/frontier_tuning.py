"""Frontier's tuning study: one parameter of the layout at a time, then all of them at once."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from attrs import evolve

from ...errors import InvalidInput, IsoflopError
from ...hardware import load_fleet
from ..checks import check_plan
from ..memory import memory_parts, total_bytes, usable_bytes
from ..method import MethodReport, Setting, TrainingMethod
from ..plan import Plans, Recipe, TrainingJob, TrainingPlan
from ..search import search_plans
from ..space import SpaceLimits, enumerate_plans
from ..time import StepPricer, StepTime
from ..utilization import step_flop

BASE = TrainingPlan(tensor=4, pipeline=16, data=16, micro_batch=1, recompute="full", zero=1)
"""Where single parameters are changed from: this method's own, as the abstract names no plan."""
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tensor 2", {"tensor": 2}), ("tensor 8", {"tensor": 8}), ("tensor 16", {"tensor": 16}),
    ("pipeline 8", {"pipeline": 8}), ("pipeline 32", {"pipeline": 32}),
    ("micro-batch 2", {"micro_batch": 2}), ("micro-batch 4", {"micro_batch": 4}),
    ("micro-batch 8", {"micro_batch": 8}), ("no shards", {"zero": 0}),
    ("weights in shards", {"zero": 3}), ("selective recompute", {"recompute": "selective"}),
    ("interleaved", {"virtual": 2, "schedule": "interleaved"}),
)  # fmt: skip
COMMUNICATION = ("tensor", "experts", "context", "weights", "transfer", "gradients")
LEAST_DEVICES = BASE.tensor * BASE.pipeline
TRIALS = 2000
"""Random searches that are averaged over."""


@final
class FrontierTuning(TrainingMethod):
    """What tensor, pipeline, sharded data parallelism and the micro-batch do to memory and rate.

    One parameter at a time changes around one plan (`plan`, in JSON), the data degree filling the
    fleet; the last row is the fastest plan of the whole space, exactly, beside which stands what a
    random search of the same space finds in `tries` runs on average. Of the machine the links
    and rates are datasheet facts; no MI250X kernel was measured.

    References
    ----------
    Dash et al. 2023, Optimizing Distributed Training on Frontier for Large Language Models, arXiv
    2312.12705 (abstract: the study's parameters; its runs were not at hand).
    """

    title: ClassVar[str] = "memory, communication and rate by tensor, pipeline, shards, micro-batch"
    reference: ClassVar[str] = "Frontier, arXiv 2312.12705"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "devices": (1024.0, "of the machine: a multiple of 64"),
        "batch": (2048.0, "sequences of a step"),
        "tries": (64.0, "runs of a random search"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        count = round(settings["devices"])
        if count % LEAST_DEVICES:
            raise InvalidInput(
                f"{count} devices are no multiple of {LEAST_DEVICES}, which the plan that "
                "parameters are changed from takes. Set devices to 512 or 1024."
            )
        device, _, cluster = load_fleet(f"{count}xfrontier")
        here = evolve(setting, device=device, count=count, cluster=cluster)
        job = TrainingJob(model=setting.model, global_batch=round(settings["batch"]),
                          sequence_tokens=setting.sequence_tokens)  # fmt: skip
        rows = [_row(here, job, "start", BASE)]
        rows += [_row(here, job, name, evolve(BASE, **change)) for name, change in CHANGES]
        recipe = Recipe(placement="data-inside")
        limits = SpaceLimits(context=1, mixes=False)
        found = search_plans(job, recipe, device, count, cluster, limits=limits)
        rows.append(_row(here, job, "all at once", found.best))
        start, best = rows[0], rows[-1]
        tries = max(1, round(settings["tries"]))
        expected, misses = _random_search(here, job, limits, tries)
        share = expected / float(found.seconds[0])
        return MethodReport(
            title=f"{job.model.name} on {count} x {device.name}, {job.global_batch} sequences",
            columns=("changed", "memory_bytes", "fits", "communication_s", "bubble_s",
                     "step_s", "model_share", "hardware_share"),
            records=rows,
            conclusion=f"Tuned exactly over {found.considered:,} plans, "
            f"{found.best.describe()} takes {best['step_s'] / start['step_s']:.2f} of the "
            f"time of the start; {tries} random tries end {share - 1:.0%} slower on average, "
            f"{misses:.0%} of all plans not fitting.",
        )  # fmt: skip


def _row(here: Setting, job: TrainingJob, name: str, plan: TrainingPlan) -> dict[str, Any]:
    """One plan, its data degree filling the fleet; without numbers where it does not divide."""
    data = max(1, here.count // (plan.tensor * plan.pipeline * plan.context))
    plan = evolve(plan, data=data)
    row = {"changed": name, "plan": plan.describe(), **dict.fromkeys(
        ("memory_bytes", "fits", "communication_s", "bubble_s", "step_s", "model_share",
         "hardware_share"))}  # fmt: skip
    try:
        check_plan(job, plan, here.count)
    except IsoflopError:
        return row
    recipe, plans = Recipe(), Plans.of([plan])
    step: StepTime = StepPricer(
        job=job, recipe=recipe, device=here.device, cluster=here.cluster
    ).price(plans)
    seconds = float(step.seconds[0])
    used = float(total_bytes(memory_parts(job, recipe, plans))[0])
    possible = here.count * seconds * here.peak_flop_per_s
    return row | {
        "memory_bytes": used, "fits": used <= usable_bytes(here.device),
        "communication_s": sum(float(step.parts[k][0]) for k in COMMUNICATION),
        "bubble_s": float(step.parts["bubble"][0]), "step_s": seconds,
        "model_share": step_flop(job) / possible,
        "hardware_share": float(step.hardware_flop[0]) / seconds / here.peak_flop_per_s,
    }  # fmt: skip


def _random_search(
    here: Setting, job: TrainingJob, limits: SpaceLimits, tries: int
) -> tuple[float, float]:
    """Mean step time of the best of `tries` plans drawn evenly, and the share that does not fit.

    A search that draws no plan that fits counts as the slowest plan that does.
    """
    recipe, plans = Recipe(), enumerate_plans(job, here.count, limits)
    fits = total_bytes(memory_parts(job, recipe, plans)) <= usable_bytes(here.device)
    pricer = StepPricer(job=job, recipe=recipe, device=here.device, cluster=here.cluster)
    seconds = np.full(len(plans), np.inf)
    seconds[fits] = pricer.price(plans.take(fits)).seconds
    worst = seconds[fits].max()
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(plans), (TRIALS, min(tries, len(plans))))
    return float(np.minimum(seconds[drawn].min(axis=1), worst).mean()), float(1.0 - fits.mean())


METHOD = FrontierTuning()
