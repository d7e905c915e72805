"""One step over time: what every stage does, and the memory of a stage while it does it.

The schedule is simulated event by event with the seconds of the plan's own layers. A forward adds
a micro-batch's activations as it goes, a backward (or the weight gradient that was put off) frees
them; the last stage holds logits from a forward to its backward. Weights, gradients and optimizer
state stand; what is gathered or computed again lives as long as the task that needs it. The most
of the fullest stage is the closed form of `isoflop.training.memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from attrs import field, frozen

from ..cost.features import Array
from .chunks import chunk_list, flying_at
from .memory import gathered_bytes, logit_bytes, micro_batches, stage_parts
from .plan import Plans, Recipe, TrainingJob, TrainingPlan
from .schedule import Slot, StageTimes, Task, Timeline, find_schedule, held_until, weights_apart
from .stages import stage_list
from .time import StepTime

STANDING = ("weights", "gradients", "optimizer")
MOST_POINTS = 400


@frozen(kw_only=True, eq=False)
class MemoryTimeline:
    """Memory of one stage's device over a step; straight lines between points.

    Attributes
    ----------
    stage : int
    times_s : array, shape (points,)
        Not falling; two points at one time are a jump.
    parts : dict of str to array, shape (points,)
        Bytes by part.
    """

    stage: int
    times_s: Array
    parts: dict[str, Array]

    @property
    def total_bytes(self) -> Array:
        """Bytes of all parts at every point."""
        return np.sum(list(self.parts.values()), axis=0)

    @property
    def peak_bytes(self) -> float:
        """The most at any time."""
        return float(self.total_bytes.max())

    @property
    def peak_s(self) -> float:
        """When that is first so."""
        total = self.total_bytes
        return float(self.times_s[np.argmax(total >= total.max() * (1 - 1e-12))])

    def thinned(self, points: int = MOST_POINTS) -> MemoryTimeline:
        """At most about `points` points, the highest and the lowest of every piece kept."""
        count = len(self.times_s)
        if count <= points:
            return self
        total = self.total_bytes
        edges = np.linspace(0, count, points // 2 + 1).astype(int)
        keep = {0, count - 1}
        for a, b in pairwise(edges):
            keep |= {a + int(np.argmax(total[a:b])), a + int(np.argmin(total[a:b]))}
        at = np.array(sorted(keep))
        return MemoryTimeline(
            stage=self.stage, times_s=self.times_s[at],
            parts={k: v[at] for k, v in self.parts.items()},
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Thinned points, for JSON."""
        few = self.thinned()
        return {
            "stage": self.stage, "peak_bytes": self.peak_bytes, "peak_s": self.peak_s,
            "standing_bytes": {k: float(self.parts[k][0]) for k in STANDING},
            "time_s": few.times_s.tolist(), "total_bytes": few.total_bytes.tolist(),
            "parts_bytes": {
                k: v.tolist() for k, v in few.parts.items() if k not in STANDING and v.any()
            },
        }  # fmt: skip


@frozen(kw_only=True, eq=False)
class StepTimeline:
    """A plan's step, simulated.

    Attributes
    ----------
    pipeline : Timeline
        Tasks of every stage.
    phases : tuple of (name, start, end)
        Pipeline, exposed gradient exchange, optimizer, host; seconds.
    layers : tuple of int
        Layers of every stage.
    """

    job: TrainingJob
    recipe: Recipe
    plan: TrainingPlan
    pipeline: Timeline
    phases: tuple[tuple[str, float, float], ...]
    layers: tuple[int, ...]
    _slots: dict[int, list[Slot]] = field(factory=dict, repr=False)

    @property
    def end_s(self) -> float:
        """When the step ends."""
        return self.phases[-1][2]

    def memory(self, stage: int) -> MemoryTimeline:
        """Memory of a stage's device over the step."""
        return _Memory(self, stage).run()

    def slots(self, stage: int) -> list[Slot]:
        """Tasks of one stage in order of time."""
        if not self._slots:
            for slot in self.pipeline.slots:
                self._slots.setdefault(slot.stage, []).append(slot)
        return sorted(self._slots[stage], key=lambda s: s.start_s)

    def fullest(self) -> MemoryTimeline:
        """Memory of the stage that needs most.

        Activations weigh most on the stages that hold most, logits on the last: those are looked
        at, all of them where stages differ.
        """
        p = self.plan.pipeline
        looked = range(p) if self.plan.uneven else sorted({0, p - 1})
        return max((self.memory(s) for s in looked), key=lambda m: m.peak_bytes)


def step_timeline(
    job: TrainingJob, recipe: Recipe, plan: TrainingPlan, step: StepTime, most: int = 0
) -> StepTimeline:  # fmt: skip
    """Simulate a plan's step from what `StepPricer` says of it alone.

    Parameters
    ----------
    most : int
        Simulate this many micro-batches where the step has more, for drawing; 0: all.

    Raises
    ------
    InvalidPlan
        If the schedule does not exist for the plan's numbers, or its layers do not add up.
    """
    layers = tuple(stage_list(plan, job.model.depth))
    times = _stage_times(plan, step, layers, job.model.depth)
    whole = int(step.micro_batches[0])
    count = min(whole, most) if most else whole
    waits = 2.0 * whole * plan.virtual * plan.pipeline
    pipeline = find_schedule(plan.schedule).run(
        times, count, chunks=plan.virtual,
        transfer_s=float(step.parts["transfer"][0]) / waits if plan.pipeline > 1 else 0.0,
    )  # fmt: skip
    phases, now = [("pipeline", 0.0, pipeline.total_s)], pipeline.total_s
    for name in ("gradients", "optimizer", "host"):
        took = float(step.parts[name][0])
        phases.append((name, now, now + took))
        now += took
    return StepTimeline(job=job, recipe=recipe, plan=plan, pipeline=pipeline,
                        phases=tuple(phases), layers=layers)  # fmt: skip


def _stage_times(
    plan: TrainingPlan, step: StepTime, layers: Sequence[int], depth: int
) -> list[StageTimes | list[StageTimes]]:  # fmt: skip
    """Seconds of every stage, or of each of its chunks where the plan says what they hold."""
    each = {k: float(v[0]) for k, v in step.layer.items()}

    def held(n: int, last: bool) -> StageTimes:
        parts = {k: n * each[k] + last * each["head"] / 3.0
                 for k in ("forward", "backward", "weight")}  # fmt: skip
        return StageTimes(**{f"{k}_s": v for k, v in parts.items()})

    p, v = plan.pipeline, plan.virtual
    if not plan.uneven or v == 1:
        return [held(n, s == p - 1) for s, n in enumerate(layers)]
    chunks = chunk_list(plan, depth)
    return [[held(chunks[s + c * p], s + c * p == p * v - 1) for c in range(v)] for s in range(p)]


class _Memory:
    """Walks one stage's tasks and notes its memory."""

    def __init__(self, step: StepTimeline, stage: int):
        plan, job, recipe = step.plan, step.job, step.recipe
        one, at = Plans.of([plan]), np.array([stage])
        parts = stage_parts(job, recipe, one, at)
        count = micro_batches(job, one)
        flying = flying_at(one, job.model.depth, count, at)
        self.step, self.stage = step, stage
        self.standing = {k: float(parts[k][0]) for k in STANDING}
        # Bytes of a micro-batch by chunk.
        whole, v = float(parts["activations"][0] / flying[0]), plan.virtual
        self.each = [whole / v] * v
        if plan.uneven and v > 1:
            mine = chunk_list(plan, job.model.depth)[stage :: plan.pipeline]
            self.each = [whole * n / sum(mine) for n in mine]
        held = count if plan.schedule == "gpipe" and plan.pipeline > 1 else np.ones(1)
        self.logits = float((logit_bytes(job, recipe, one, count) / held)[0])
        self.back = float(parts["transient"][0])
        self.front = float(gathered_bytes(job, recipe, one)[0])
        self.points: list[tuple[float, float, float, float]] = []
        self.held = self.outputs = 0.0

    def run(self) -> MemoryTimeline:
        slots = self.step.slots(self.stage)
        apart = weights_apart([s.task for s in slots])
        self._note(0.0, 0.0)
        for (start, end), group in groupby(slots, key=lambda s: (s.start_s, s.end_s)):
            tasks = [s.task for s in group]
            self._note(start, 0.0)
            self._task(start, end, tasks, apart)
            self._note(end, 0.0)
        self._note(self.step.end_s, 0.0)
        times, held, outputs, passing = np.array(self.points).T
        parts = {k: np.full(len(times), v) for k, v in self.standing.items()}
        parts |= {"activations": held, "logits": outputs, "transient": passing}
        return MemoryTimeline(stage=self.stage, times_s=times, parts=parts)

    def _task(self, start: float, end: float, tasks: list[Task], apart: set) -> None:
        """One slot: a task, or a forward and a backward beside each other."""
        added = sum(self.each[t.chunk] for t in tasks if t.kind == "F")
        freed = sum(self.each[t.chunk] for t in tasks if held_until(t, apart))
        passing = self.front if all(t.kind == "F" for t in tasks) else self.back
        pair = len(tasks) > 1
        # Beside a backward the activations of both are there; alone they grow and shrink evenly.
        self.held += added if pair else 0.0
        self._note(start, passing)
        self.held += 0.0 if pair else added - freed
        self._note(end, passing)
        self.held = max(self.held - (freed if pair else 0.0), 0.0)
        for t in tasks:
            if self._is_last(t):
                self.outputs += self.logits * ((t.kind == "F") - (t.kind == "B"))

    def _is_last(self, task: Task) -> bool:
        """Whether a task is of the model's last layers, where the logits are."""
        plan = self.step.plan
        end = 0 if task.direction else plan.pipeline - 1
        return self.stage == end and task.chunk == plan.virtual - 1

    def _note(self, time_s: float, passing: float) -> None:
        self.points.append((time_s, self.held, max(self.outputs, 0.0), passing))
