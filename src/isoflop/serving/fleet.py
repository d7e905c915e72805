"""Fleets whose replicas differ, fail and are drained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np
from attrs import define, field

from ..cost.features import Array
from ..errors import InvalidInput
from .following import followers, furthest_behind, run_following
from .outages import Outage, check_outages, outage_summary
from .pool import Pool
from .report import Collected, ServingReport, make_report
from .router import find_router
from .server import Server
from .simulate import admissible
from .traffic import Trace


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
    check_outages(outages, len(servers))
    # A request must fit everywhere: the router does not look at lengths.
    dropped = 0
    for server in {id(s): s for s in servers}.values():
        trace, more = admissible(server, trace, drop_long)
        dropped += more
    pool = Pool(
        servers=servers, trace=trace, router=find_router(router), capacity=2 * len(trace) + 1,
        outages=outages, events=events,
    )  # fmt: skip
    run = _Fleet(pool=pool, trace=trace)
    run.run()
    lives = pool.lives
    collected = Collected.of(
        [x.running for x in lives], [np.array(x.requests, int) for x in lives], trace,
        [np.array([row not in x.lost for row in range(len(x.requests))], bool) for x in lives]
        if outages else (), run.came_s,
    )  # fmt: skip
    report = make_report(
        servers[0], trace, collected, [x.running for x in lives], replicas=len(servers),
        dropped=dropped, wall_s=time.perf_counter() - began, servers=servers,
    )  # fmt: skip
    report.summary.update(outage_summary(
        outages, len(servers), collected.first_s, collected.last_s, rerouted=run.rerouted,
        lost_tokens=run.lost_tokens,
    ))  # fmt: skip
    return report


@define(kw_only=True)
class _Fleet:
    """The run: arrivals, failures and returns in order of time."""

    pool: Pool
    trace: Trace
    rerouted: int = 0
    lost_tokens: float = 0.0
    came_s: Array = field(init=False)  # first arrival of every request, known as they come

    def __attrs_post_init__(self) -> None:
        self.came_s = self.trace.arrival_s.copy()

    def run(self) -> None:
        """Everything to its end."""
        pool, trace = self.pool, self.trace
        if pool.outages:
            self._run_among_outages([o for o in pool.outages if o.kind == "fail"])
        elif trace.follows is not None:
            parts = run_following([x.running for x in pool.alive], trace, pool.router.choose)
            for life, part in zip(pool.alive, parts, strict=True):
                life.requests = [int(i) for i in part]
        else:
            for i, at in enumerate(trace.arrival_s):
                pool.send(i, float(at))
            for life in pool.alive:
                life.running.advance()

    def _run_among_outages(self, failures: Sequence[Outage]) -> None:
        """Everything in the order of `following`, closed loops and conversations included.

        What a failed replica had not finished starts again elsewhere; what would have followed
        waits for that.
        """
        after = followers(self.trace)
        # (time, order, request, outage): failures before arrivals at one instant.
        events = [(float(t), 1, i, -1) for i, t in enumerate(self.trace.arrival_s)
                  if np.isfinite(t)]  # fmt: skip
        events += [(o.start_s, 0, -1, k) for k, o in enumerate(failures)]
        heapify(events)
        while True:
            # Where nobody follows anybody, no end has to be seen before the next arrival.
            until = events[0][0] if events else np.inf
            last = furthest_behind(self.pool.alive, until) if after else None
            if last is not None:
                for request, end_s in last.newly_ended():
                    for j, think_s in after.get(request, ()):
                        heappush(events, (end_s + think_s, 1, j, -1))
                continue
            if not events:
                for life in self.pool.alive:
                    life.running.advance()
                return
            at, _, request, outage = heappop(events)
            if outage < 0:
                self.came_s[request] = min(self.came_s[request], at)
                if self.pool.up(at):
                    self.pool.send(request, at)
                else:
                    heappush(events, (self.pool.next_return_s(at), 1, request, -1))
                continue
            lost = self._fail(failures[outage])
            # A step under way at the failure may have ended requests whose followers are due.
            early = {j for i in lost for j, _ in after.get(i, ())}
            events = [e for e in events if e[2] not in early]
            events += [(at, 1, i, -1) for i in lost]
            heapify(events)

    def _fail(self, outage: Outage) -> list[int]:
        """End the life of a replica; the requests it had not finished."""
        life = self.pool.fail(outage)
        r = life.running.requests
        for row, made in life.running.produced(life.lost, outage.start_s).items():
            # The prompt as far as computed, and every token produced.
            self.lost_tokens += float(r.prompt[row] if made > 0 else r.ready[row]) + made
        self.rerouted += len(life.lost)
        return [life.requests[row] for row in life.lost]
