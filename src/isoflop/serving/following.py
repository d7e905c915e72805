"""Closed loops and conversations over several replicas: who ends where decides who arrives when.

A request that follows another is routed when that one has ended, so the replicas cannot run one
after the other. The one whose clock is behind goes on, no further than the earliest time at which
any replica could end a request; what arrives then has been seen by nobody too late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush

import numpy as np
from attrs import define, field

from ..cost.features import Array
from .loop.records import DONE
from .running import Running
from .traffic import Trace


@define(kw_only=True)
class Member:
    """One replica: its requests in the order they came, and those under way."""

    running: Running
    requests: list[int] = field(factory=list)
    open_rows: list[int] = field(factory=list)
    ended: int = 0
    since_s: float = 0.0  # arrival of the newest request: an idle replica starts there

    @property
    def now_s(self) -> float:
        """How far this replica has got."""
        return max(self.running.clock_s, self.since_s)

    def take(self, trace: Trace, request: int, at: float) -> None:
        """Feed a request that arrives at a time."""
        self.running.feed_one(trace, request, at)
        self.open_rows.append(len(self.requests))
        self.requests.append(request)
        self.since_s = at

    def newly_ended(self) -> list[tuple[int, float]]:
        """Requests that ended since the last look, with the time."""
        if self.running.finished == self.ended:
            return []
        self.ended = self.running.finished
        r = self.running.requests
        gone = [row for row in self.open_rows if r.state[row] >= DONE]
        self.open_rows = [row for row in self.open_rows if r.state[row] < DONE]
        return [(self.requests[row], float(r.finish[row])) for row in gone]


def run_following(
    replicas: Sequence[Running], trace: Trace,
    choose: Callable[[Sequence[Running], Trace, int], int],
) -> list[Array]:  # fmt: skip
    """Route and simulate everything; the requests each replica got, in order.

    Parameters
    ----------
    replicas : sequence of Running
        New ones, each able to hold the whole trace.
    choose : callable
        A router's rule, asked when a request arrives: every replica is then past that time by
        less than a step.
    """
    members = [Member(running=r) for r in replicas]
    after = followers(trace)
    think = np.zeros(len(trace)) if trace.think_s is None else trace.think_s
    arrivals = [(float(t), i) for i, t in enumerate(trace.arrival_s) if np.isfinite(t)]
    heapify(arrivals)
    while True:
        at = arrivals[0][0] if arrivals else np.inf
        busy = [m for m in members if m.open_rows]
        last = min(busy, key=lambda m: m.now_s, default=None)
        if last is not None and last.now_s < at:
            bound = min(m.running.earliest_end_s() for m in busy)
            # At least one step: nothing that is still to come can arrive before its start.
            last.running.advance(max(min(at, bound), float(np.nextafter(last.now_s, np.inf))))
            for request, end_s in last.newly_ended():
                for j in after.get(request, ()) if np.isfinite(end_s) else ():
                    heappush(arrivals, (end_s + float(think[j]), j))
        elif arrivals:
            at, request = heappop(arrivals)
            members[choose(replicas, trace, request)].take(trace, request, at)
        else:
            return [np.array(m.requests, int) for m in members]


def followers(trace: Trace) -> dict[int, list[int]]:
    """Requests that each request of the trace lets arrive."""
    found: dict[int, list[int]] = {}
    if trace.follows is not None:
        for j, i in enumerate(trace.follows):
            if i >= 0:
                found.setdefault(int(i), []).append(j)
    return found
