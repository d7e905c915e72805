"""Pipeline schedules: what every stage does in which order, run event by event.

A schedule is a list of tasks per stage; the simulator starts each task when its stage is free and
what it needs has arrived. Closed forms say what that must come to for even stages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from attrs import evolve, frozen

from .. import registry
from ..errors import InvalidPlan

PACKAGE = "isoflop.training.schedules"
FILES = {"1f1b": "one-f-one-b"}
"""Files of schedules whose name no file can have."""

Kind = Literal["F", "B", "W"]
"""Forward; backward (of the inputs, and of the weights too where W is not apart); weights."""


@frozen
class Task:
    """One piece of work of a stage: `chunk` counts the model pieces the stage holds.

    Attributes
    ----------
    direction : {0, 1}
        1: the micro-batch enters at the last stage and leaves at the first (bidirectional
        schedules, whose stages hold a piece of the model for either direction).
    beside : Task or None
        A backward that runs overlapped with this forward, in one slot of time: compute that
        shares a device takes the sum of both.
    """

    kind: Kind
    micro_batch: int
    chunk: int = 0
    direction: int = 0
    beside: Task | None = None


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
                 "chunk": s.task.chunk, "direction": s.task.direction, "start_s": s.start_s,
                 "end_s": s.end_s} for s in self.slots]  # fmt: skip


class Schedule(ABC):
    """A schedule, one file each in `isoflop/training/schedules/` defining `SCHEDULE`.

    Class attributes
    ----------------
    title, reference : str
    """

    title: ClassVar[str]
    reference: ClassVar[str]

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
        self, times: Sequence[StageTimes | Sequence[StageTimes]], micro_batches: int, *,
        chunks: int = 1,
        transfer_s: float | Sequence[float] = 0.0,
    ) -> Timeline:  # fmt: skip
        """Simulate a step over `len(times)` stages, uneven ones too.

        Parameters
        ----------
        times : sequence
            Of every stage: its times, which its chunks share evenly, or those of each chunk.
        transfer_s : float or sequence of float
            From a stage to the next and back: the same for all, or one each, the last between the
            last stage and the first.

        Raises
        ------
        InvalidPlan
            If the schedule does not exist for these numbers, or waits for itself.
        """
        stages = len(times)
        self.check(stages, micro_batches, chunks)
        orders = [self.order(s, stages, micro_batches, chunks) for s in range(stages)]
        if isinstance(transfer_s, int | float):
            transfer_s = [float(transfer_s)] * stages
        grid = [[evenly(t, chunks)] * chunks if isinstance(t, StageTimes) else t for t in times]
        return _simulate(orders, grid, chunks, list(transfer_s))


def evenly(t: StageTimes, chunks: int) -> StageTimes:
    """Times of one of several equal chunks."""
    return StageTimes(
        forward_s=t.forward_s / chunks, backward_s=t.backward_s / chunks,
        weight_s=t.weight_s / chunks,
    )  # fmt: skip


def weights_apart(order: Sequence[Task]) -> set[tuple[int, int, int]]:
    """Micro-batch, chunk and direction of backwards whose weight gradient is a task of its own."""
    return {(t.micro_batch, t.chunk, t.direction) for t in order if t.kind == "W"}


def held_until(task: Task, apart: set[tuple[int, int, int]]) -> bool:
    """Whether a task is the last that needs the activations of its micro-batch."""
    late = (task.micro_batch, task.chunk, task.direction) in apart
    return task.kind == ("W" if late else "B")


def _position(task: Task, stage: int, stages: int) -> int:
    """Which stage of the model a task of device `stage` belongs to; its own inverse."""
    return stages - 1 - stage if task.direction else stage


def _needs(task: Task, stage: int, stages: int, chunks: int) -> tuple[int, Task] | None:
    """The task of another (or the same) stage that must have ended before."""
    m, c, d = task.micro_batch, task.chunk, task.direction
    place = _position(task, stage, stages)

    def at(position: int, kind: Kind, chunk: int) -> tuple[int, Task]:
        other = Task(kind, m, chunk, d)
        return _position(other, position, stages), other

    if task.kind == "F":
        if place > 0:
            return at(place - 1, "F", c)
        return at(stages - 1, "F", c - 1) if c > 0 else None
    if task.kind == "B":
        if place < stages - 1:
            return at(place + 1, "B", c)
        return at(0, "B", c + 1) if c < chunks - 1 else at(place, "F", c)
    return at(place, "B", c)


def _simulate(
    orders: list[list[Task]], times: Sequence[Sequence[StageTimes]], chunks: int,
    borders: list[float],
) -> Timeline:  # fmt: skip
    stages = len(orders)
    ended: dict[tuple[int, Task], float] = {}
    free = [0.0] * stages
    place = [0] * stages
    slots: list[Slot] = []
    busy = 0.0
    apart = [weights_apart(order) for order in orders]

    def seconds(task: Task, s: int) -> float:
        t = times[_position(task, s, stages)][task.chunk]
        late = (task.micro_batch, task.chunk, task.direction) in apart[s]
        whole = {"F": t.forward_s, "W": t.weight_s,
                 "B": t.backward_s + (0.0 if late else t.weight_s)}  # fmt: skip
        return whole[task.kind]

    def ready(task: Task, s: int) -> float | None:
        """When the task's input is there; None where that is not known yet."""
        need = _needs(task, s, stages, chunks)
        if need is None:
            return 0.0
        end = ended.get(need)
        if end is None or need[0] == s:
            return end
        near = abs(need[0] - s) == 1
        return end + borders[min(need[0], s) if near else -1]

    moved = True
    while moved:
        moved = False
        for s in range(stages):
            while place[s] < len(orders[s]):
                task = orders[s][place[s]]
                pair = [task] if task.beside is None else [evolve(task, beside=None), task.beside]
                arrivals = [ready(x, s) for x in pair]
                if None in arrivals:
                    break
                start = max(free[s], *(a for a in arrivals if a is not None))
                took = sum(seconds(x, s) for x in pair)
                busy += took
                free[s] = start + took
                for x in pair:
                    ended[(s, x)] = free[s]
                    slots.append(Slot(stage=s, task=x, start_s=start, end_s=free[s]))
                place[s] += 1
                moved = True
    if any(place[s] < len(orders[s]) for s in range(stages)):
        raise InvalidPlan("The schedule waits for itself: its orders contradict each other.")
    total = max(free)
    return Timeline(
        slots=tuple(slots), total_s=total, bubble=1.0 - busy / (stages * total),
        peak_in_flight=tuple(_peak(order, chunks) for order in orders),
    )  # fmt: skip


def _peak(order: list[Task], chunks: int) -> float:
    """Most forwards whose activations are still needed, as whole stages."""
    held = most = 0
    apart = weights_apart(order)
    for task in order:
        held += task.kind == "F"
        most = max(most, held)
        held -= any(held_until(x, apart) for x in (task, task.beside) if x is not None)
    return most / chunks


def find_schedule(name: str) -> Schedule:
    """The schedule called `name`; `UnknownName` with suggestions otherwise."""
    return registry.find(PACKAGE, FILES.get(name, name), "SCHEDULE", "pipeline schedule")


def schedule_names() -> tuple[str, ...]:
    """Names of every schedule."""
    return registry.names(PACKAGE)
