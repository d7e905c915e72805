"""Tasks on streams: what runs beside what when each resource works in the order of issue.

A stream is a resource that does one thing at a time: the compute units of a device, a link in one
direction, a host's cores. Tasks start when their stream is free and all they wait for has ended,
as kernels and copies on CUDA streams with events do. Durations may be arrays: one pass then times
many cases.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
from attrs import define, field, frozen

from ..cost.features import Array


@frozen(kw_only=True, eq=False)
class Task:
    """One piece of work as it ran; `start_s` and `end_s` have the shape of the durations."""

    stream: str
    name: str
    start_s: Array
    end_s: Array


@define(slots=False)
class Streams:
    """A schedule as it grows, in issue order.

    Attributes
    ----------
    tasks : list of Task
        Everything issued so far; `add` returns places in it.
    """

    tasks: list[Task] = field(factory=list)
    _free: dict[str, Array] = field(factory=dict)

    def add(self, stream: str, name: str, seconds: Array | float, after: Iterable[int] = ()) -> int:
        """Issue a task of `seconds` that waits for the tasks at `after`; its place."""
        start = self._free.get(stream, np.zeros(()))
        for place in after:
            start = np.maximum(start, self.tasks[place].end_s)
        end = start + np.asarray(seconds, float)
        self._free[stream] = end
        self.tasks.append(Task(stream=stream, name=name, start_s=np.asarray(start), end_s=end))
        return len(self.tasks) - 1

    @property
    def total_s(self) -> Array:
        """When the last task ends."""
        return functools.reduce(np.maximum, self._free.values(), np.zeros(()))

    def busy_s(self) -> dict[str, Array]:
        """Seconds each stream works."""
        found: dict[str, Array] = {}
        for t in self.tasks:
            found[t.stream] = found.get(t.stream, np.zeros(())) + (t.end_s - t.start_s)
        return found
