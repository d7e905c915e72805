"""Instances behind one router, of which some may be out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import define, field

from .following import Member
from .loop.records import DONE, REFUSED
from .outages import Outage
from .router import Router
from .running import Running
from .server import Server
from .traffic import Trace


@define(kw_only=True, eq=False)
class Life(Member):
    """One instance, from a start or restart to its failure or the end.

    Attributes
    ----------
    lost : set of int
        Rows of requests that it had not finished when it failed.
    """

    lost: set[int] = field(factory=set)


@define(kw_only=True, eq=False)
class Pool:
    """Instances that share a router.

    Attributes
    ----------
    servers : sequence of Server
        One per instance.
    trace : Trace
        The requests as these instances see them.
    outages : sequence of Outage
        Of all instances of the simulation; `first` is the number of this pool's first one.
    capacity, expected : int
        Requests an instance can hold, and will see.
    events : int
        Records of the event log to keep, per instance.
    """

    servers: Sequence[Server]
    trace: Trace
    router: Router
    capacity: int
    expected: int | None = None
    outages: Sequence[Outage] = ()
    first: int = 0
    events: int = 0
    alive: list[Life] = field(init=False)
    ended: list[Life] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.alive = [self._life(s) for s in self.servers]
        self.router.start([x.running for x in self.alive], self.trace)

    @property
    def lives(self) -> list[Life]:
        """Every life, the instances' last ones first."""
        return [*self.alive, *self.ended]

    def has(self, replica: int) -> bool:
        """Whether an instance with that number is of this pool."""
        return self.first <= replica < self.first + len(self.servers)

    def up(self, at: float) -> list[int]:
        """Places of the instances that take requests at a time."""
        out = {o.replica - self.first for o in self.outages if o.covers(at)}
        return [j for j in range(len(self.servers)) if j not in out]

    def next_return_s(self, at: float) -> float:
        """When the next instance comes back, of those that are out at a time."""
        return min(o.end_s for o in self.outages if self.has(o.replica) and o.covers(at))

    def send(self, request: int, at: float, computed: int = 0) -> Life:
        """Route a request to an instance that is up at `at`; at least one must be."""
        up = self.up(at) if self.outages else range(len(self.alive))
        for j in up:
            self.alive[j].running.advance(at)
        running = [self.alive[j].running for j in up]
        life = self.alive[up[self.router.choose(running, self.trace, request)]]
        life.take(self.trace, request, at, computed)
        return life

    def fail(self, outage: Outage) -> Life:
        """End the life of an instance; what it had not finished is in `lost`."""
        j = outage.replica - self.first
        life = self.alive[j]
        life.running.advance(outage.start_s)
        r, n = life.running.requests, len(life.requests)
        done = (r.state[:n] == DONE) | (r.state[:n] == REFUSED)
        late = done & (r.finish[:n] > outage.start_s)  # the step under way is lost too
        life.lost = {int(row) for row in np.nonzero(~done | late)[0]}
        self.ended.append(life)
        self.alive[j] = self._life(self.servers[j])
        return life

    def _life(self, server: Server) -> Life:
        trace = self.trace
        units = int(trace.units.max()) + 1 if len(trace.units) else 0
        return Life(
            running=Running(
                server, capacity=self.capacity, expected=self.expected,
                unit_tokens=trace.unit_tokens, units=units, users=int(trace.user.max()) + 1,
                events=self.events, unit_capacity=len(trace.units),
            )
        )  # fmt: skip
