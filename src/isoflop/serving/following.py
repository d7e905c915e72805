"""Closed loops and conversations over several replicas: who ends where decides who arrives when.

A request that follows another is routed when that one has ended, so the replicas cannot run one
after the other. The one whose clock is behind goes on, no further than the earliest time at which
any replica could end a request; what arrives then has been seen by nobody too late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeVar

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

    def take(self, trace: Trace, request: int, at: float, computed: int = 0) -> None:
        """Feed a request that arrives at a time, the cache of `computed` prompt tokens with it."""
        self.running.feed_one(trace, request, at, computed)
        self.open_rows.append(len(self.requests))
        self.requests.append(request)
        self.since_s = at

    def newly_ended(self) -> list[tuple[int, float]]:
        """Requests that ended since the last look, with the time; refused ones never end."""
        if self.running.finished == self.ended:
            return []
        self.ended = self.running.finished
        r = self.running.requests
        gone = [row for row in self.open_rows if r.state[row] >= DONE]
        self.open_rows = [row for row in self.open_rows if r.state[row] < DONE]
        return [(self.requests[row], float(r.finish[row])) for row in gone
                if np.isfinite(r.finish[row])]  # fmt: skip


AnyMember = TypeVar("AnyMember", bound=Member)


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
    arrivals = [(float(t), i) for i, t in enumerate(trace.arrival_s) if np.isfinite(t)]
    heapify(arrivals)
    while True:
        last = furthest_behind(members, arrivals[0][0] if arrivals else np.inf)
        if last is not None:
            for request, end_s in last.newly_ended():
                for j, think_s in after.get(request, ()):
                    heappush(arrivals, (end_s + think_s, j))
        elif arrivals:
            at, request = heappop(arrivals)
            members[choose(replicas, trace, request)].take(trace, request, at)
        else:
            return [np.array(m.requests, int) for m in members]


def furthest_behind(members: Sequence[AnyMember], at_s: float) -> AnyMember | None:
    """Let the busy replica whose clock is behind go on; None if all have reached `at_s`.

    It goes no further than `at_s` and the earliest time at which any of them could end a request.
    """
    busy = [m for m in members if m.open_rows]
    last = min(busy, key=lambda m: m.now_s, default=None)
    if last is None or last.now_s >= at_s:
        return None
    bound = min(m.running.earliest_end_s() for m in busy)
    # At least one step: nothing that is still to come can arrive before its start.
    last.running.advance(max(min(at_s, bound), float(np.nextafter(last.now_s, np.inf))))
    return last


def followers(trace: Trace) -> dict[int, list[tuple[int, float]]]:
    """Requests that each request of the trace lets arrive, with the seconds of thinking before."""
    found: dict[int, list[tuple[int, float]]] = {}
    if trace.follows is not None:
        for j, i in enumerate(trace.follows):
            if i >= 0:
                think = 0.0 if trace.think_s is None else float(trace.think_s[j])
                found.setdefault(int(i), []).append((j, think))
    return found
