"""Prefill and decode on instances of their own, the cache sent from one to the other."""

from __future__ import annotations

import math
import time
from heapq import heapify, heappop, heappush

import numpy as np
from attrs import evolve

from ..cost.features import Array, Batch
from ..cost.power import settled
from .following import Member, followers, furthest_behind
from .loop.records import BIN_LOW, BIN_WIDTH, BUSY
from .report import Collected, ServingReport, make_report
from .running import Running
from .server import Server
from .simulate import admissible
from .traffic import Trace
from .transfer import transfer_s


def simulate_split(
    server: Server, trace: Trace, *, prefills: int, decodes: int, drop_long: bool = False,
    events: int = 0, brief: bool = False,
) -> ServingReport:  # fmt: skip
    """`prefills` instances compute prompts and first tokens, `decodes` the rest.

    Requests go to the prefill instances in turn, and to the decode instances in the order in
    which their caches arrive. Where arrivals are given, decoding never slows prompts and one pool
    is simulated after the other; where requests follow others, both go on together. Prompts one
    after another spend the board's power, so the prefill pool runs at the clock that its share of
    busy time allows.

    Parameters
    ----------
    events : int
        Records of the event log to keep, per instance.
    brief : bool
        Leave power, energy, clocks and bounds out of the report.

    References
    ----------
    Zhong et al. 2024, DistServe, arXiv 2401.09670; Patel et al. 2024, Splitwise, arXiv 2311.18677.
    """
    began = time.perf_counter()
    trace, dropped = admissible(server, trace, drop_long)
    if trace.follows is None:
        prompting = _at_settled_clock(server, trace, _busy_of_prompts(server, trace, prefills))
        pools = _Pools(prompting, server, trace, prefills, decodes, events)
        pools.run_one_after_the_other()
    else:
        prompting = server
        pools = _Pools(server, server, trace, prefills, decodes, events)
        pools.run_together()
        # The clock follows from the busy time, which is known only now.
        prompting = _at_settled_clock(server, trace, pools.busy_of_prompts())
        if prompting is not server:
            pools = _Pools(prompting, server, trace, prefills, decodes, events)
            pools.run_together()
    collected = pools.collected()
    report = make_report(
        server, trace, collected, [m.running for m in (*pools.prefills, *pools.decodes)],
        replicas=prefills + decodes, dropped=dropped, wall_s=time.perf_counter() - began,
        servers=[prompting] * prefills + [server] * decodes, brief=brief,
    )  # fmt: skip
    return evolve(report, summary={**report.summary, "split": {"prefill": prefills,
                                                                "decode": decodes}})  # fmt: skip


class _Pools:
    """The instances of both kinds, and which requests each of them got."""

    def __init__(
        self, prompting: Server, decoding: Server, trace: Trace, prefills: int, decodes: int,
        events: int,
    ):  # fmt: skip
        self.trace, self.sent_s = trace, transfer_s(decoding.step, trace.prompt_tokens)
        # An instance for prompts ends a request with its first token; one for decoding gets the
        # cache sent, and shares no prefixes.
        self.prompts = evolve(trace, output_tokens=np.ones(len(trace), np.int64))
        self.rest = evolve(trace, units=np.zeros(0, np.int64), unit_offsets=None, unit_tokens=0)
        each = [math.ceil(len(trace) / n) for n in (prefills, decodes)]  # requests go in turn
        self.prefills = [_member(prompting, self.prompts, each[0], events) for _ in range(prefills)]
        self.decodes = [_member(decoding, self.rest, each[1], events) for _ in range(decodes)]

    def run_one_after_the_other(self) -> None:
        """All prompts, then all decoding: exact while no arrival depends on an end."""
        n = len(self.trace)
        for j, member in enumerate(self.prefills):
            part = np.arange(j, n, len(self.prefills))
            if len(part):
                member.running.feed(self.prompts.take(part))
                member.running.advance()
                member.requests = part.tolist()
        first = self._times("first", self.prefills)
        arrival = first + np.where(self.trace.output_tokens > 1, self.sent_s, 0)
        order = np.argsort(arrival, kind="stable")
        decoding = order[self.trace.output_tokens[order] > 1]
        for j, member in enumerate(self.decodes):
            part = decoding[j :: len(self.decodes)]
            if len(part):
                mine = evolve(self.rest.take(part), arrival_s=arrival[part])
                member.running.feed(mine, computed=mine.prompt_tokens)
                member.running.advance()
                member.requests = part.tolist()

    def run_together(self) -> None:
        """Both pools in order of time, as requests arrive, move over and let others arrive."""
        after = followers(self.trace)
        events = [(float(t), i, False) for i, t in enumerate(self.trace.arrival_s)
                  if np.isfinite(t)]  # fmt: skip
        heapify(events)
        members = [*self.prefills, *self.decodes]
        prompts = {id(m) for m in self.prefills}
        begun = moved = 0
        while True:
            last = furthest_behind(members, events[0][0] if events else np.inf)
            if last is not None:
                for i, end_s in last.newly_ended():
                    if id(last) in prompts and self.trace.output_tokens[i] > 1:
                        heappush(events, (end_s + float(self.sent_s[i]), i, True))
                        continue
                    for j, think_s in after.get(i, ()):
                        heappush(events, (end_s + think_s, j, False))
                continue
            if not events:
                return
            at, i, computed = heappop(events)
            if computed:
                held = int(self.trace.prompt_tokens[i])
                self.decodes[moved % len(self.decodes)].take(self.rest, i, at, held)
                moved += 1
            else:
                self.prefills[begun % len(self.prefills)].take(self.prompts, i, at)
                begun += 1

    def busy_of_prompts(self) -> float:
        """Share of the prefill instances' time in steps."""
        busy = sum(m.running.real(BUSY) for m in self.prefills)
        span = float(self._times("first", self.prefills).max()
                     - self._times("arrival", self.prefills).min())  # fmt: skip
        return min(1.0, busy / max(span * len(self.prefills), 1e-12))

    def collected(self) -> Collected:
        """Times of every request over both pools."""
        parts = [np.array(m.requests, int) for m in self.prefills]
        base = Collected.of([m.running for m in self.prefills], parts, self.trace)
        first = self._times("first", self.prefills)
        finish = self._times("finish", self.decodes, first)
        self._note_moves(first)
        output = np.asarray(self.trace.output_tokens, float)
        extra = self.prefills[0].running.server.step.engine.arrival_s
        return evolve(
            base, e2e_s=finish - base.arrival_s + extra, finish_s=finish,
            tpot_s=np.where(output > 1, (finish - first) / np.maximum(output - 1, 1), np.nan),
            last_s=float(finish.max()),
        )  # fmt: skip

    def _note_moves(self, first_s: Array) -> None:
        """Count the time from a first token to the start of decoding as a gap between tokens."""
        for m in self.decodes:
            gaps = m.running.requests.first[: len(m.requests)] - first_s[m.requests]
            slots = (np.log(np.maximum(gaps, 1e-5)) - BIN_LOW) / BIN_WIDTH
            bins = m.running.state.histogram
            np.add.at(bins, np.clip(slots.astype(int), 0, len(bins) - 1), 1.0)

    def _times(self, name: str, pool: list[Member], start: Array | None = None) -> Array:
        """A column of the pool's requests, over `start` for those it has not seen."""
        found = np.full(len(self.trace), np.nan) if start is None else start.copy()
        for m in pool:
            found[m.requests] = getattr(m.running.requests, name)[: len(m.requests)]
        return found


def _busy_of_prompts(server: Server, trace: Trace, prefills: int) -> float:
    """Share of their time that the trace's prompts keep `prefills` instances busy."""
    step, prompt = server.step, float(np.mean(trace.prompt_tokens))
    each = float(step.prefill_s(np.array(float(step.plan.data)), np.array(prompt)))
    span = float(trace.arrival_s[-1] - trace.arrival_s[0])
    work = len(trace) * each / (step.plan.data * prefills)
    return min(1.0, work / max(span, 1e-12))


def _at_settled_clock(server: Server, trace: Trace, busy: float) -> Server:
    """What a prefill instance is while the trace's prompts keep it busy."""
    prompt = float(np.mean(trace.prompt_tokens))
    chunk = Batch(prefill_sequences=1.0, prefill_tokens=min(prompt, float(server.max_tokens)))
    held = settled(server.step, chunk, busy=busy)
    return server if held.clock is None else evolve(server, step=held)


def _member(server: Server, trace: Trace, capacity: int, events: int) -> Member:
    units = int(trace.units.max()) + 1 if len(trace.units) else 0
    return Member(
        running=Running(
            server, capacity=capacity, unit_tokens=trace.unit_tokens, units=units,
            users=int(trace.user.max()) + 1, events=events, unit_capacity=len(trace.units),
        )
    )  # fmt: skip
