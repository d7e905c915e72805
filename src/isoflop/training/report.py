"""The answer to "how should this run be laid out": the plan, what it costs, what would help."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from ..cost.power import Load, power_watts
from ..errors import DoesNotFit, InvalidPlan, IsoflopError
from ..hardware import Accelerator, Cluster
from ..units import show_bytes, show_s
from .activations import activation_modules
from .checks import check_plan, check_recipe
from .chunks import balanced_chunks
from .fleet import network_of
from .goodput import Goodput, goodput
from .memory import memory_parts, micro_batches, total_bytes, usable_bytes, usable_host_bytes
from .offload import away_parts, shortage, usable_nvme_bytes
from .plan import Plans, Recipe, TrainingJob, TrainingPlan
from .search import PlanSearch, search_plans
from .space import SpaceLimits
from .time import StepPricer, StepTime
from .timeline import StepTimeline, step_timeline
from .utilization import step_flop

MEMORY_BUSY = 0.4
"""Share of memory bandwidth a training step draws on average, for its power; estimate."""
MEMORY_ERROR = 0.1
"""How far the worst of 27 measured peaks lay from its prediction (9%), rounded up."""
LEAST_GAIN = 0.003
"""Share of speed from which a change is worth naming."""
WORTH_GRAPHS = 0.02
"""Share of a step that waits for launches from which on graphs are worth a try."""
OTHER_PLACEMENT = {"pipeline-inside": "pipeline stages inside nodes, data ranks across",
                   "data-inside": "data ranks inside nodes, pipeline stages across"}  # fmt: skip
BOUND_BY = {
    "forward": "compute", "backward": "compute", "recompute": "recomputation",
    "tensor": "tensor-parallel communication", "context": "context-parallel communication",
    "experts": "expert exchange", "weights": "gathering sharded weights",
    "offload": "offloading to the host",
    "bubble": "the pipeline bubble", "transfer": "stage transfers",
    "gradients": "gradient reduction", "optimizer": "the optimizer's memory traffic",
    "host": "the host",
}  # fmt: skip


@frozen(kw_only=True)
class Change:
    """One change to recipe, plan space or hardware, and what it would save."""

    name: str
    step_s: float
    gain: float
    plan: str


@frozen(kw_only=True)
class PlanReport:
    """Everything `isoflop plan` shows.

    Attributes
    ----------
    step_parts, memory : dict of str to float
        Seconds and bytes by part.
    host, drives : dict of str to float
        Bytes per device in host memory and on its node's drives, by part.
    model_flop_utilization, hardware_flop_utilization : float
        Of the dense 16-bit rate; causal attention at half the score matrix, the second with
        recomputation.
    days : float or None
        Of the whole run, goodput included.
    roomy : TrainingPlan or None
        Where the plan leaves less than `MEMORY_ERROR` of its memory free, the fastest one that
        leaves as much, and its seconds; None if none is nearly as fast.
    """

    job: TrainingJob
    recipe: Recipe
    device: Accelerator
    count: int
    plan: TrainingPlan
    step_s: float
    step_parts: dict[str, float]
    memory: dict[str, float]
    usable_bytes: float
    model_flop_utilization: float
    hardware_flop_utilization: float
    sigma: float
    measured_family: bool
    watts: float
    goodput: Goodput
    step: StepTime
    host: dict[str, float] = field(factory=dict)
    drives: dict[str, float] = field(factory=dict)
    usable_host_bytes: float = 0.0
    usable_drive_bytes: float = 0.0
    runner_up: TrainingPlan | None = None
    runner_up_s: float = 0.0
    roomy: TrainingPlan | None = None
    roomy_s: float = 0.0
    search: PlanSearch | None = None
    changes: tuple[Change, ...] = ()
    why_not: str = ""

    @property
    def tokens_per_s(self) -> float:
        """Of the whole fleet."""
        return self.job.step_tokens / self.step_s

    @property
    def days(self) -> float | None:
        """Wall-clock days of the run, failures included; None without a token count."""
        if not self.job.tokens:
            return None
        return self.job.tokens / self.tokens_per_s / max(self.goodput.useful, 1e-9) / 86400

    @property
    def usd(self) -> float | None:
        """At the catalog's on-demand price; None where device or run has none."""
        if self.days is None or self.device.price is None:
            return None
        return self.days * 24 * self.count * self.device.price.on_demand_usd_per_hour

    @property
    def energy_joules(self) -> float | None:
        """Of the devices alone, without host, network and cooling."""
        return None if self.days is None else self.days * 86400 * self.count * self.watts

    def timeline(self, most: int = 0) -> StepTimeline:
        """The step simulated event by event, with the memory of every stage over it.

        `most` cuts the step to that many micro-batches, for drawing.
        """
        return step_timeline(self.job, self.recipe, self.plan, self.step, most)

    @property
    def fits(self) -> bool:
        """Whether device, host memory and drives hold the plan."""
        return (
            sum(self.memory.values()) <= self.usable_bytes
            and sum(self.host.values()) <= self.usable_host_bytes
            and sum(self.drives.values()) <= self.usable_drive_bytes
        )

    @property
    def bound(self) -> str:
        """What takes most of the step, in words."""
        groups: dict[str, float] = {}
        for name, seconds in self.step_parts.items():
            groups[BOUND_BY[name]] = groups.get(BOUND_BY[name], 0.0) + seconds
        order = sorted(groups.items(), key=lambda kv: -kv[1])
        first = f"{order[0][0]} ({order[0][1] / self.step_s:.0%} of the step)"
        return f"{first}, then {order[1][0]} ({order[1][1] / self.step_s:.0%})"

    def rows(self) -> list[dict[str, Any]]:
        """Step parts as records, for tables and charts."""
        return [
            {"part": k, "seconds": v, "share": v / self.step_s}
            for k, v in self.step_parts.items() if v > 0
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        used = sum(self.memory.values())
        out: dict[str, Any] = {
            "model": self.job.model.id, "device": self.device.id, "devices": self.count,
            "global_batch": self.job.global_batch, "sequence_tokens": self.job.sequence_tokens,
            "gradient_exchange": self.recipe.gradient_exchange.name,
            "context_exchange": self.recipe.context, "placement": self.plan.placement,
            "cuda_graphs": self.recipe.graphs,
            "activation_modules_bytes": activation_modules(
                self.job, self.recipe, Plans.of([self.plan])
            ),
            "plan": self.plan.describe(), "fits": self.fits,
            "step_s": self.step_s, "step_parts_s": self.step_parts,
            "tokens_per_s": self.tokens_per_s, "memory_parts_bytes": self.memory,
            "memory_bytes": used, "usable_bytes": self.usable_bytes,
            "host_parts_bytes": self.host, "usable_host_bytes": self.usable_host_bytes,
            "drive_parts_bytes": self.drives, "usable_drive_bytes": self.usable_drive_bytes,
            "model_flop_utilization": self.model_flop_utilization,
            "hardware_flop_utilization": self.hardware_flop_utilization,
            "flop_convention": f"{self.recipe.rounds:g} x forward, causal attention at half the "
                               "score matrix",
            "bound_by": self.bound, "days": self.days, "usd": self.usd,
            "energy_joules": self.energy_joules, "goodput": self.goodput.useful,
            "checkpoint_interval_s": self.goodput.interval_s,
            "changes": [
                {"change": c.name, "step_s": c.step_s, "gain": c.gain, "plan": c.plan}
                for c in self.changes
            ],
            "runner_up": self.runner_up.describe() if self.runner_up else None,
            "runner_up_s": self.runner_up_s, "why_not": self.why_not,
            "roomy": self.roomy.describe() if self.roomy else None, "roomy_s": self.roomy_s,
        }  # fmt: skip
        line = self.timeline()
        out["stage_layers"] = list(line.layers)
        out["step_phases_s"] = {name: end - start for name, start, end in line.phases}
        out["memory_timeline"] = line.fullest().as_dict()
        if self.search is not None:
            s = self.search
            out["search"] = {
                "considered": s.considered, "too_large": s.too_large, "outbid": s.outbid,
                "priced": s.priced, "elapsed_s": s.elapsed_s, "fastest": s.rows(),
            }  # fmt: skip
        return out


def describe_plan(
    job: TrainingJob, recipe: Recipe, device: Accelerator, count: int, plan: TrainingPlan,
    cluster: Cluster | None = None,
) -> PlanReport:  # fmt: skip
    """Time, memory and cost of one plan.

    Raises
    ------
    InvalidPlan
        If the plan does not divide the job.
    """
    check_plan(job, plan, count)
    check_recipe(job, recipe, plan)
    pricer = StepPricer(job=job, recipe=recipe, device=device, cluster=cluster)
    plans = Plans.of([plan])
    step = pricer.price(plans)
    if plan.balanced:
        layer = sum(float(step.layer[k][0]) for k in ("forward", "backward", "weight"))
        head = float(step.layer["head"][0]) / layer
        layers = balanced_chunks(job.model.depth, plan.pipeline, plan.virtual, last=head)
        plan = evolve(plan, balanced=False, layers=layers)
        plans = Plans.of([plan])
        step = pricer.price(plans)
    seconds = float(step.seconds[0])
    rates = device.rates.dense_flop_per_s
    peak = rates.get("bf16") or rates.get("fp16") or max(rates.values())
    hardware = float(step.hardware_flop[0]) / seconds / peak
    watts = float(power_watts(device, Load(compute=min(1.0, hardware), memory=MEMORY_BUSY)))
    parts = [{k: float(v[0]) for k, v in p.items()} for p in away_parts(job, recipe, plans)]
    return PlanReport(
        job=job, recipe=recipe, device=device, count=count, plan=plan, step_s=seconds,
        step_parts={k: float(v[0]) for k, v in step.parts.items()},
        memory={k: float(v[0]) for k, v in memory_parts(job, recipe, plans).items()},
        usable_bytes=usable_bytes(device), host=parts[0], drives=parts[1],
        usable_host_bytes=usable_host_bytes(cluster), usable_drive_bytes=usable_nvme_bytes(cluster),
        model_flop_utilization=step_flop(job) * recipe.rounds / 3.0 / count / seconds / peak,
        hardware_flop_utilization=hardware, sigma=pricer.calibration.sigma,
        measured_family=pricer.calibration.family == device.family, watts=watts,
        goodput=goodput(count, job.model.parameters), step=step,
    )  # fmt: skip


def plan_run(
    job: TrainingJob, recipe: Recipe, device: Accelerator, count: int,
    cluster: Cluster | None = None, *, limits: SpaceLimits | None = None,
) -> PlanReport:  # fmt: skip
    """The fastest plan, its runner-up from another layout, and the changes that would help."""
    limits = limits or SpaceLimits(node=network_of(device, cluster, count).node)
    found = search_plans(job, recipe, device, count, cluster, limits=limits, slack=1.25)
    report = describe_plan(job, recipe, device, count, found.best, cluster)
    other, room = _runner_up(found), _roomy(found, report)
    return evolve(
        report, search=found,
        roomy=found.plans.at(room) if room else None,
        roomy_s=float(found.seconds[room]) if room else 0.0,
        runner_up=found.plans.at(other) if other else None,
        runner_up_s=float(found.seconds[other]) if other else 0.0,
        changes=tuple(_changes(report, cluster, limits))[:3],
    )  # fmt: skip


def _runner_up(found: PlanSearch) -> int:
    """The fastest plan whose degrees differ from the best one's; 0 for none."""
    p = found.plans
    differs = (p.tensor != p.tensor[0]) | (p.pipeline != p.pipeline[0])
    differs |= (p.context != p.context[0]) | (p.expert != p.expert[0])
    return int(np.argmax(differs)) if differs.any() else 0


def _roomy(found: PlanSearch, report: PlanReport) -> int:
    """The fastest plan that fits if its peak is as far off as a measured one was; 0 for none.

    Also 0 where the best plan itself does.
    """
    used = total_bytes(memory_parts(report.job, report.recipe, found.plans))
    fits = used * (1.0 + MEMORY_ERROR) <= report.usable_bytes
    return int(np.argmax(fits)) if fits.any() else 0


def what_helps(report: PlanReport, cluster: Cluster | None) -> tuple[Change, ...]:
    """The three changes that would help a named plan most: another plan, or the same otherwise."""
    limits = SpaceLimits(node=network_of(report.device, cluster, report.count).node)
    found = sorted(
        (*_changes(report, cluster, limits, keep=True), *_better_plan(report, cluster, limits)),
        key=lambda c: -c.gain,
    )
    return tuple(found[:3])


def _better_plan(
    report: PlanReport, cluster: Cluster | None, limits: SpaceLimits
) -> list[Change]:  # fmt: skip
    """The fastest plan of the same recipe, if it gains."""
    worth = report.step_s / (1.0 + LEAST_GAIN)
    try:
        found = search_plans(report.job, report.recipe, report.device, report.count, cluster,
                             limits=limits, under_s=worth)  # fmt: skip
    except IsoflopError:
        return []
    if not len(found.seconds) or found.seconds[0] >= worth:
        return []
    seconds = float(found.seconds[0])
    return [Change(name="another plan", step_s=seconds, gain=report.step_s / seconds - 1.0,
                   plan=found.best.describe())]  # fmt: skip


def _under(
    job: TrainingJob, recipe: Recipe, device: Accelerator, cluster: Cluster | None,
    report: PlanReport, limits: SpaceLimits, worth: float, kept: TrainingPlan | None,
) -> tuple[float, str] | None:  # fmt: skip
    """Step seconds under `worth` and the plan that reaches them: the one to keep, or any."""
    if kept is None:
        found = search_plans(job, recipe, device, report.count, cluster, limits=limits,
                             under_s=worth)  # fmt: skip
        fast = len(found.seconds) > 0 and found.seconds[0] < worth
        return (float(found.seconds[0]), found.best.describe()) if fast else None
    own = describe_plan(job, recipe, device, report.count, kept, cluster)
    require_fit(own, cluster)
    return (own.step_s, own.plan.describe()) if own.step_s < worth else None


def _changes(
    report: PlanReport, cluster: Cluster | None, limits: SpaceLimits, keep: bool = False
) -> Iterable[Change]:  # fmt: skip
    """What each change would gain, best first: of a new search, or of the plan as it is."""
    job, recipe, device = report.job, report.recipe, report.device
    tried: list[Change] = []

    def attempt(
        name: str, r: Recipe, d: Accelerator, c: Cluster | None, j: TrainingJob,
        plan: TrainingPlan = report.plan,
    ) -> None:  # fmt: skip
        # Seconds per the original step's tokens, so that batches compare.
        share = job.step_tokens / j.step_tokens
        worth = report.step_s / (1.0 + LEAST_GAIN) / share
        try:
            found = _under(j, r, d, c, report, limits, worth, plan if keep else None)
        except IsoflopError:
            return
        if found is not None:
            seconds = found[0] * share
            tried.append(Change(name=name, step_s=seconds, gain=report.step_s / seconds - 1.0,
                                plan=found[1]))  # fmt: skip

    for name, other in _other_recipes(report):
        attempt(name, other, device, cluster, job)
    more = evolve(device.memory, capacity_bytes=2 * device.memory.capacity_bytes)
    attempt("twice the device memory", recipe, evolve(device, memory=more), cluster, job)
    attempt("twice the global batch", recipe, device, cluster,
            evolve(job, global_batch=2 * job.global_batch))  # fmt: skip
    if cluster is not None and len(cluster.tiers) > 1:
        outer = cluster.tiers[-1]
        fast = evolve(outer, link_bytes_per_s=2 * outer.link_bytes_per_s)
        attempt("twice the network bandwidth", recipe, device,
                evolve(cluster, tiers=(*cluster.tiers[:-1], fast)), job)  # fmt: skip
    if keep and report.plan.pipeline > 1:
        inside = report.plan.placement == "pipeline-inside"
        other = evolve(report.plan, placement="data-inside" if inside else "pipeline-inside")
        attempt(OTHER_PLACEMENT[other.placement], evolve(recipe, placement="any"), device, cluster,
                job, other)  # fmt: skip
    elif recipe.placement != "any":
        attempt("any placement of ranks", evolve(recipe, placement="any"), device, cluster, job)
    return sorted(tried, key=lambda c: -c.gain)


def _other_recipes(report: PlanReport) -> Iterable[tuple[str, Recipe]]:
    """Choices that all plans share and that may be made otherwise, by name."""
    recipe, rates = report.recipe, report.device.rates.dense_flop_per_s
    if recipe.format in ("bf16", "fp16") and "fp8" in rates:
        yield "train in fp8 (e4m3)", evolve(recipe, format="fp8-e4m3")
    if "fp4" in rates and recipe.format != "nvfp4":
        yield "train in nvfp4", evolve(recipe, format="nvfp4")
    if not recipe.offload_activations:
        yield (
            "activations of some layers in host memory", evolve(recipe, offload_activations=True)
        )  # fmt: skip
    if recipe.state_is_away and recipe.offload_weights == "none":
        yield "weights in host memory", evolve(recipe, offload_weights="cpu")
    if recipe.optimizer == "adam":
        yield "8-bit Adam", evolve(recipe, optimizer="adam8bit")
    if not recipe.exchange and recipe.gradient_bytes > 2:
        yield "reduce gradients in bf16", evolve(recipe, exchange="bf16")
    if recipe.graphs == "none" and report.step_parts["host"] > WORTH_GRAPHS * report.step_s:
        yield "launches of layers in CUDA graphs", evolve(recipe, graphs="layers")
    if not recipe.overlap_tensor:
        yield "overlap tensor-parallel communication", evolve(recipe, overlap_tensor=True)
    if not recipe.overlap_expert and any(g.ffn.kind == "moe" for g in report.job.model.layers):
        yield "overlap the expert exchange", evolve(recipe, overlap_expert=True)


def explain_why_not(report: PlanReport, plan: TrainingPlan, cluster: Cluster | None) -> str:
    """Why a named plan was not chosen, in one or two sentences."""
    try:
        other = describe_plan(report.job, report.recipe, report.device, report.count, plan, cluster)
    except InvalidPlan as error:
        return f"{plan.describe()} is not possible: {error}"
    used = sum(other.memory.values())
    name = plan.describe()
    if used > other.usable_bytes:
        part = max(other.memory, key=lambda k: other.memory[k])
        return (
            f"{name} does not fit: it needs {show_bytes(used)} of {show_bytes(other.usable_bytes)} "
            f"per device, most of it {part} ({show_bytes(other.memory[part])})."
        )
    lack = shortage(report.job, report.recipe, Plans.of([other.plan]), cluster)
    if lack is not None:
        return f"{name} does not fit: it {lack.sentence}."
    ratio = other.step_s / report.step_s
    if ratio <= 1.0005:
        return f"{name} is as fast as the chosen plan: {show_s(other.step_s)} a step."
    worse = {k: other.step_parts[k] - report.step_parts[k] for k in report.step_parts}
    part = max(worse, key=lambda k: worse[k])
    return (
        f"{name} fits and takes {show_s(other.step_s)} a step, {ratio - 1:.1%} more. Most of the "
        f"difference is {BOUND_BY[part]} ({show_s(max(worse[part], 0.0))} more)."
    )


def require_fit(report: PlanReport, cluster: Cluster | None = None) -> None:
    """Raise `DoesNotFit`, with the numbers, if a report's plan exceeds memory."""
    used = float(total_bytes({k: np.array([v]) for k, v in report.memory.items()})[0])
    if used <= report.usable_bytes:
        lack = shortage(report.job, report.recipe, Plans.of([report.plan]), cluster)
        if lack is None:
            return
        raise DoesNotFit(
            f"The plan {report.plan.describe()} {lack.sentence}. Offload less, or recompute.",
            needed_bytes=lack.needed_bytes, available_bytes=lack.available_bytes,
        )  # fmt: skip
    part = max(report.memory, key=lambda k: report.memory[k])
    raise DoesNotFit(
        f"The plan {report.plan.describe()} needs {show_bytes(used)} per device and "
        f"{report.device.name} has {show_bytes(report.usable_bytes)} usable. The largest part is "
        f"{part} ({show_bytes(report.memory[part])}). Leave --plan out to find one that fits.",
        needed_bytes=used, available_bytes=report.usable_bytes,
    )  # fmt: skip


def steps_of(report: PlanReport) -> float:
    """Micro-batches per step of a report's plan."""
    return float(micro_batches(report.job, Plans.of([report.plan]))[0])
