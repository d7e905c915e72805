"""Pipeline schedules: what every stage does in which order, run event by event.

A schedule is a list of tasks per stage; the simulator starts each task when its stage is free and
what it needs has arrived. Closed forms say what that must come to for even stages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from attrs import frozen

from .. import registry
from ..errors import InvalidPlan

PACKAGE = "isoflop.training.schedules"

Kind = Literal["F", "B", "W"]
"""Forward; backward (of the inputs, and of the weights too where W is not apart); weights."""


@frozen
class Task:
    """One piece of work of a stage: `chunk` counts the model pieces the stage holds."""

    kind: Kind
    micro_batch: int
    chunk: int = 0


@frozen(kw_only=True)
class StageTimes:
    """Seconds of one micro-batch on one stage, all its chunks together.

    Attributes
    ----------
    forward_s, backward_s, weight_s : float
        Backward is that of the inputs; weight that of the weights.
    """

    forward_s: float
    backward_s: float
    weight_s: float


@frozen(kw_only=True)
class Slot:
    """A task with its start and end."""

    stage: int
    task: Task
    start_s: float
    end_s: float


@frozen(kw_only=True)
class Timeline:
    """A simulated step of a pipeline.

    Attributes
    ----------
    slots : tuple of Slot
    total_s : float
    peak_in_flight : tuple of float
        Most micro-batches whose activations a stage holds, in units of a whole stage.
    bubble : float
        Share of stage time without work.
    """

    slots: tuple[Slot, ...]
    total_s: float
    peak_in_flight: tuple[float, ...]
    bubble: float

    def rows(self) -> list[dict[str, Any]]:
        """One record per task."""
        return [{"stage": s.stage, "kind": s.task.kind, "micro_batch": s.task.micro_batch,
                 "chunk": s.task.chunk, "start_s": s.start_s, "end_s": s.end_s}
                for s in self.slots]  # fmt: skip


class Schedule(ABC):
    """A schedule, one file each in `isoflop/training/schedules/` defining `SCHEDULE`.

    Class attributes
    ----------------
    title, reference : str
    splits_weights : bool
        Whether the weights' gradient is a task of its own.
    """

    title: ClassVar[str]
    reference: ClassVar[str]
    splits_weights: ClassVar[bool] = False

    @abstractmethod
    def order(self, stage: int, stages: int, micro_batches: int, chunks: int) -> list[Task]:
        """Tasks of one stage in order."""

    @abstractmethod
    def closed_form_s(self, stages: int, micro_batches: int, chunks: int, t: StageTimes) -> float:
        """Seconds of a step with even stages and free transfers."""

    def check(self, stages: int, micro_batches: int, chunks: int) -> None:
        """Raise `InvalidPlan` where the schedule does not exist."""
        if stages < 1 or micro_batches < 1 or chunks < 1:
            raise InvalidPlan("A pipeline has at least one stage, micro-batch and chunk.")
        if chunks > 1:
            raise InvalidPlan(f"The schedule '{self.title}' holds one chunk per stage.")

    def run(
        self, times: Sequence[StageTimes], micro_batches: int, *, chunks: int = 1,
        transfer_s: float = 0.0,
    ) -> Timeline:  # fmt: skip
        """Simulate a step over `len(times)` stages, uneven ones too.

        Raises
        ------
        InvalidPlan
            If the schedule does not exist for these numbers, or waits for itself.
        """
        stages = len(times)
        self.check(stages, micro_batches, chunks)
        orders = [self.order(s, stages, micro_batches, chunks) for s in range(stages)]
        return _simulate(orders, times, chunks, transfer_s, self.splits_weights)


def _duration(task: Task, t: StageTimes, chunks: int, split: bool) -> float:
    whole = {"F": t.forward_s, "W": t.weight_s,
             "B": t.backward_s if split else t.backward_s + t.weight_s}  # fmt: skip
    return whole[task.kind] / chunks


def _needs(task: Task, stage: int, stages: int, chunks: int) -> tuple[int, Task] | None:
    """The task of another (or the same) stage that must have ended before."""
    m, c = task.micro_batch, task.chunk
    if task.kind == "F":
        if stage > 0:
            return stage - 1, Task("F", m, c)
        return (stages - 1, Task("F", m, c - 1)) if c > 0 else None
    if task.kind == "B":
        if stage < stages - 1:
            return stage + 1, Task("B", m, c)
        return (0, Task("B", m, c + 1)) if c < chunks - 1 else (stage, Task("F", m, c))
    return stage, Task("B", m, c)


def _simulate(
    orders: list[list[Task]], times: Sequence[StageTimes], chunks: int, transfer_s: float,
    split: bool,
) -> Timeline:  # fmt: skip
    stages = len(orders)
    ended: dict[tuple[int, Task], float] = {}
    free = [0.0] * stages
    place = [0] * stages
    slots: list[Slot] = []
    moved = True
    while moved:
        moved = False
        for s in range(stages):
            while place[s] < len(orders[s]):
                task = orders[s][place[s]]
                need = _needs(task, s, stages, chunks)
                ready = 0.0
                if need is not None:
                    if need not in ended:
                        break
                    ready = ended[need] + (transfer_s if need[0] != s else 0.0)
                start = max(free[s], ready)
                end = start + _duration(task, times[s], chunks, split)
                ended[(s, task)] = free[s] = end
                slots.append(Slot(stage=s, task=task, start_s=start, end_s=end))
                place[s] += 1
                moved = True
    if any(place[s] < len(orders[s]) for s in range(stages)):
        raise InvalidPlan("The schedule waits for itself: its orders contradict each other.")
    total = max(free)
    busy = sum(x.end_s - x.start_s for x in slots)
    return Timeline(
        slots=tuple(slots), total_s=total, bubble=1.0 - busy / (stages * total),
        peak_in_flight=tuple(_peak(order, chunks, split) for order in orders),
    )  # fmt: skip


def _peak(order: list[Task], chunks: int, split: bool) -> float:
    """Most forwards whose activations are still needed, as whole stages."""
    held = most = 0
    last = "W" if split else "B"
    for task in order:
        held += task.kind == "F"
        most = max(most, held)
        held -= task.kind == last
    return most / chunks


def find_schedule(name: str) -> Schedule:
    """The schedule called `name`; `UnknownName` with suggestions otherwise."""
    return registry.find(PACKAGE, name, "SCHEDULE", "pipeline schedule")


def schedule_names() -> tuple[str, ...]:
    """Names of every schedule."""
    return registry.names(PACKAGE)
