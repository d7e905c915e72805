"""Fleets whose replicas differ, fail and are drained."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Literal

import numpy as np
from attrs import define, field, frozen

from ..cost.features import Array
from ..errors import InvalidInput
from .following import Member, followers, furthest_behind, run_following
from .loop.records import DONE, REFUSED
from .report import Collected, ServingReport, make_report
from .router import Router, find_router
from .running import Running
from .server import Server
from .simulate import admissible
from .traffic import Trace


@frozen(kw_only=True)
class Outage:
    """A time in which a replica takes no requests.

    Attributes
    ----------
    replica : int
    start_s, end_s : float
    kind : {"fail", "drain"}
        fail: what runs and waits there is lost and starts again elsewhere; the replica comes back
        with an empty cache. drain: what it has, it finishes.
    """

    replica: int
    start_s: float
    end_s: float
    kind: Literal["fail", "drain"]

    def __attrs_post_init__(self) -> None:
        if not (0.0 <= self.start_s < self.end_s < np.inf):
            raise InvalidInput(
                f"An outage from {self.start_s:g} s to {self.end_s:g} s is none: its end must be "
                "finite and after its start."
            )


_OUTAGE = re.compile(r"\s*(\d+)\s*@\s*([\d.]+)\s*s?\s*\+\s*([\d.]+)\s*s?\s*")


def parse_outages(text: str, kind: Literal["fail", "drain"]) -> list[Outage]:
    """`"0@60+120,2@300+30"`: replica 0 from second 60 for 120 s, replica 2 from 300 for 30."""
    outages = []
    for part in filter(None, text.split(",")):
        match = _OUTAGE.fullmatch(part)
        if not match:
            raise InvalidInput(
                f"'{part}' is not an outage. Write replica@start+seconds, such as 0@60+120."
            )
        replica, start, length = int(match[1]), float(match[2]), float(match[3])
        outages.append(Outage(replica=replica, start_s=start, end_s=start + length, kind=kind))
    return outages


@define(kw_only=True)
class _Life(Member):
    """One instance of a replica, from a start or restart to its failure or the end."""

    lost: set[int] = field(factory=set)  # rows whose requests went elsewhere


def simulate_fleet(
    servers: Sequence[Server], trace: Trace, *, router: str = "least-loaded",
    outages: Sequence[Outage] = (), drop_long: bool = False, events: int = 0,
) -> ServingReport:  # fmt: skip
    """Simulate replicas that need not be equal, nor up all the time.

    Parameters
    ----------
    servers : sequence of Server
        One per replica; the same object for equal ones.
    outages : sequence of Outage
        Of one replica they must not overlap. Requests that find every replica out wait for the
        first to return; latency counts from their arrival.
    events : int
        Records of the event log to keep, per replica.

    Returns
    -------
    ServingReport
        Its summary has besides: `outages`, `rerouted_requests`, `lost_tokens` (computed and
        thrown away), `available_share`.

    Raises
    ------
    InvalidInput
        If a request can run nowhere, or an outage names no replica.
    """
    began = time.perf_counter()
    if not servers:
        raise InvalidInput("A fleet needs at least one replica.")
    for o in outages:
        if o.replica >= len(servers):
            raise InvalidInput(
                f"An outage names replica {o.replica}, but there are {len(servers)}, counted "
                "from 0."
            )
    # A request must fit everywhere: the router does not look at lengths.
    dropped = 0
    for server in {id(s): s for s in servers}.values():
        trace, more = admissible(server, trace, drop_long)
        dropped += more
    run = _Fleet(servers=servers, trace=trace, router=find_router(router), outages=outages,
                 events=events)  # fmt: skip
    lives = run.run()
    collected = Collected.of(
        [x.running for x in lives], [np.array(x.requests, int) for x in lives], trace,
        [np.array([row not in x.lost for row in range(len(x.requests))], bool) for x in lives]
        if outages else (), run.came_s,
    )  # fmt: skip
    report = make_report(
        servers[0], trace, collected, [x.running for x in lives], replicas=len(servers),
        dropped=dropped, wall_s=time.perf_counter() - began, servers=servers,
    )  # fmt: skip
    span = max(collected.last_s - collected.first_s, 1e-12)
    out = sum(
        max(0.0, min(o.end_s, collected.last_s) - max(o.start_s, collected.first_s))
        for o in outages
    )
    report.summary.update(
        outages=len(outages), rerouted_requests=run.rerouted, lost_tokens=run.lost_tokens,
        available_share=1.0 - out / (span * len(servers)),
    )  # fmt: skip
    return report


@define(kw_only=True)
class _Fleet:
    """The run: arrivals, failures and returns in order of time."""

    servers: Sequence[Server]
    trace: Trace
    router: Router
    outages: Sequence[Outage]
    events: int = 0
    rerouted: int = 0
    lost_tokens: float = 0.0
    alive: list[_Life] = field(factory=list)
    ended: list[_Life] = field(factory=list)
    came_s: Array = field(init=False)  # first arrival of every request, known as they come

    def __attrs_post_init__(self) -> None:
        self.came_s = self.trace.arrival_s.copy()

    def run(self) -> list[_Life]:
        """Every life, the replicas' last ones first."""
        self.alive = [self._life(s) for s in self.servers]
        replicas = [x.running for x in self.alive]
        self.router.start(replicas, self.trace)
        if self.trace.follows is not None and self.outages:
            return self._run_following()
        if self.trace.follows is not None:
            parts = run_following(replicas, self.trace, self.router.choose)
            for life, part in zip(self.alive, parts, strict=True):
                life.requests = [int(i) for i in part]
            return self.alive
        # (time, order, request or -1, outage or None); failures before arrivals at one instant.
        events: list[tuple[float, int, int, Outage | None]] = [
            (float(t), 1, i, None) for i, t in enumerate(self.trace.arrival_s)
        ]
        events += [(o.start_s, 0, -1, o) for o in self.outages if o.kind == "fail"]
        events.sort(key=lambda e: (e[0], e[1], e[2]))
        for at, _, request, outage in events:
            if outage is None:
                self._send(request, at)
            else:
                for lost in self._fail(outage):
                    self._send(lost, at)
        for life in self.alive:
            life.running.advance()
        return [*self.alive, *self.ended]

    def _run_following(self) -> list[_Life]:
        """Closed loops and conversations among outages, in the order of `following`.

        What a failed replica had not finished starts again elsewhere; what would have followed
        waits for that.
        """
        after = followers(self.trace)
        # (time, order, request, outage): failures before arrivals at one instant.
        events = [(float(t), 1, i, -1) for i, t in enumerate(self.trace.arrival_s)
                  if np.isfinite(t)]  # fmt: skip
        events += [(o.start_s, 0, -1, k) for k, o in enumerate(self.outages) if o.kind == "fail"]
        heapify(events)
        while True:
            last = furthest_behind(self.alive, events[0][0] if events else np.inf)
            if last is not None:
                for request, end_s in last.newly_ended():
                    for j, think_s in after.get(request, ()):
                        heappush(events, (end_s + think_s, 1, j, -1))
                continue
            if not events:
                return [*self.alive, *self.ended]
            at, _, request, outage = heappop(events)
            if outage < 0:
                if self._anyone_up(at):
                    self._send(request, at)
                else:
                    self.came_s[request] = min(self.came_s[request], at)
                    heappush(events, (self._next_return_s(at), 1, request, -1))
                continue
            lost = self._fail(self.outages[outage])
            # A step under way at the failure may have ended requests whose followers are due.
            early = {j for i in lost for j, _ in after.get(i, ())}
            events = [e for e in events if e[2] not in early]
            events += [(at, 1, i, -1) for i in lost]
            heapify(events)

    def _anyone_up(self, at: float) -> bool:
        return any(self._up(j, at) for j in range(len(self.alive)))

    def _next_return_s(self, at: float) -> float:
        return min(o.end_s for o in self.outages if o.start_s <= at < o.end_s)

    def _life(self, server: Server) -> _Life:
        trace = self.trace
        units = int(trace.units.max()) + 1 if len(trace.units) else 0
        return _Life(
            running=Running(
                server, capacity=2 * len(trace) + 1, unit_tokens=trace.unit_tokens, units=units,
                users=int(trace.user.max()) + 1, events=self.events,
                unit_capacity=len(trace.units),
            )
        )  # fmt: skip

    def _up(self, replica: int, at: float) -> bool:
        return not any(o.replica == replica and o.start_s <= at < o.end_s for o in self.outages)

    def _send(self, request: int, at: float) -> None:
        """Route a request at `at`, or as soon as any replica is up."""
        self.came_s[request] = min(self.came_s[request], at)
        while not self._anyone_up(at):
            at = self._next_return_s(at)
        up = [j for j in range(len(self.alive)) if self._up(j, at)]
        for j in up:
            self.alive[j].running.advance(at)
        chosen = up[self.router.choose([self.alive[j].running for j in up], self.trace, request)]
        self.alive[chosen].take(self.trace, request, at)

    def _fail(self, outage: Outage) -> list[int]:
        """End the life of a replica; the requests it had not finished."""
        life = self.alive[outage.replica]
        life.running.advance(outage.start_s)
        r = life.running.requests
        n = len(life.requests)
        done = (r.state[:n] == DONE) | (r.state[:n] == REFUSED)
        late = done & (r.finish[:n] > outage.start_s)  # the step under way is lost too
        life.lost = {int(row) for row in np.nonzero(~done | late)[0]}
        for row in life.lost:
            # The prompt as far as computed, and every token produced.
            began = r.done[row] > 0
            self.lost_tokens += float(r.prompt[row] if began else r.ready[row])
            self.lost_tokens += float(r.done[row])
        self.rerouted += len(life.lost)
        self.ended.append(life)
        self.alive[outage.replica] = self._life(self.servers[outage.replica])
        return [life.requests[row] for row in sorted(life.lost)]
