"""The plain loop: one step at a time, one object per request, nothing clever.

It says what the jumping loop must do. Every step it walks over every request; context, pages and
queue are recomputed from scratch where the fast loop keeps counters and heaps. Tests require both
to agree on every first token and finish.
"""

from __future__ import annotations

import math

import numpy as np
from attrs import Factory, define

from ..cost.features import Array
from .loop import times
from .server import Server
from .traffic import Trace


@define(eq=False)
class Request:
    """A request on one instance: what it asks for and how far it has got."""

    index: int
    arrival: float
    prompt: int
    output: int
    key: float
    user: int
    units: list[int]
    row: int  # order of arrival on this replica, which breaks ties
    computed: int = 0  # prompt tokens whose cache arrives with it
    done: int = 0
    ready: int = 0
    target: int = 0
    context: float = 0.0
    private: int = 0
    held: int = 0  # leading prefix units referenced
    since: int = 0  # order of admission
    first: float = math.nan
    finish: float = math.nan
    last: float = math.nan
    swapped: bool = False
    at_once: bool = False  # ended as its prompt was done


@define
class _Cache:
    """Pages: private ones by count, prefix units by name in order of last use."""

    blocks: int
    unit_blocks: int
    private: int = 0
    refs: dict[int, int] = Factory(dict)
    idle: list[int] = Factory(list)
    host_units: int = 0
    host: list[int] = Factory(list)

    @property
    def used(self) -> int:
        return self.private + self.unit_blocks * sum(1 for n in self.refs.values() if n > 0)

    def has(self, unit: int) -> bool:
        return unit in self.refs

    def evict_for(self, blocks: int) -> None:
        while self.blocks - self.used - len(self.idle) * self.unit_blocks < blocks and self.idle:
            unit = self.idle.pop(0)
            del self.refs[unit]
            if self.host_units:
                if len(self.host) == self.host_units:
                    del self.host[0]
                self.host.append(unit)


class Reference:
    """Simulate `trace` on `server`, step by step; `first_s` and `finish_s` per request."""

    def __init__(self, server: Server, trace: Trace):
        self.server, self.trace = server, trace
        self.limits = server.limits(trace.unit_tokens, len(trace))
        self.tables = server.times.tables
        keys = server.scheduler.keys(trace)
        self.requests = [
            Request(
                i, float(trace.arrival_s[i]), int(trace.prompt_tokens[i]),
                int(trace.output_tokens[i]), float(keys[i]), int(trace.user[i]), self._units(i), i,
            )
            for i in range(len(trace))
        ]  # fmt: skip
        self.cache = _Cache(
            self.limits.blocks, self.limits.unit_blocks, host_units=self.limits.host_units
        )
        self.future = sorted(
            (r for r in self.requests if math.isfinite(r.arrival)), key=lambda r: r.arrival
        )
        self.waiting: list[Request] = []
        self.prefilling: list[Request] = []
        self.decoding: list[Request] = []
        self.now = 0.0
        self.owed = 0.0
        self.admissions = 0
        self.virtual = 0.0
        self.tags: dict[int, float] = {}

    def _units(self, i: int) -> list[int]:
        if not self.limits.unit_tokens or self.trace.unit_offsets is None:
            return []
        low, high = self.trace.unit_offsets[i], self.trace.unit_offsets[i + 1]
        return [int(u) for u in self.trace.units[low:high]]

    @property
    def busy(self) -> bool:
        """Whether any request that is known has not ended."""
        return bool(self.future or self.waiting or self.prefilling or self.decoding)

    @property
    def outstanding(self) -> int:
        """Requests that are known and have not ended."""
        return len(self.future) + len(self.waiting) + len(self.prefilling) + len(self.decoding)

    @property
    def next_s(self) -> float:
        """When the next step begins; infinity for never."""
        if self.waiting or self.prefilling or self.decoding:
            return self.now
        return max(self.now, self.future[0].arrival) if self.future else math.inf

    def cached_prefix(self, trace: Trace, request: int) -> float:
        """Prompt tokens of a request that the prefix cache holds."""
        units = self.requests[request].units
        held = next((n for n, u in enumerate(units) if not self.cache.has(u)), len(units))
        return float(held * self.limits.unit_tokens)

    def take(self, i: int, at: float, row: int) -> Request:
        """Let request `i` arrive at a time, after `row` others; it may have been here before."""
        known = self.requests[i]
        r = Request(i, at, known.prompt, known.output, known.key, known.user, known.units, row)
        self.future.append(r)
        return r

    def step(self) -> None:
        """One scheduling decision and one step."""
        self.now = self.next_s
        self._arrive()
        self._step()

    def run(self) -> tuple[Array, Array]:
        """Times of the first and last token of every request."""
        while self.busy:
            self.step()
        return (np.array([r.first for r in self.requests]),
                np.array([r.finish for r in self.requests]))  # fmt: skip

    def _arrive(self) -> None:
        while self.future and self.future[0].arrival <= self.now:
            r = self.future.pop(0)
            if self.limits.fair:
                start = max(self.virtual, self.tags.get(r.user, 0.0))
                self.tags[r.user] = start + r.prompt + 2.0 * r.output
                r.key = start
            elif self.limits.first_come:
                r.key = r.arrival
            self.waiting.append(r)

    def _pages(self, tokens: float) -> int:
        return math.ceil(tokens / self.limits.block_tokens) + self.limits.sequence_blocks

    def _next_pages(self) -> int:
        """Pages the decoding sequences open in their next step."""
        return sum(1 for r in self.decoding 
                   if r.context % self.limits.block_tokens == 0)  # fmt: skip

    def _step(self) -> None:
        limits = self.limits
        preempted = False
        if not limits.gang:
            while (
                self.decoding and len(self.decoding) + len(self.prefilling) > 1
                and self._next_pages() > limits.blocks - self.cache.used
            ):  # fmt: skip
                self._preempt()
                preempted = True
        budget = limits.tokens - (len(self.decoding) if limits.mixed else 0)
        budget -= sum(r.target - r.ready for r in self.prefilling)
        if not preempted and (not limits.gang or not self.decoding):
            self._admit(budget)
        if self.prefilling:
            self._prompts()
        elif self.decoding:
            self._decode()

    def _preempt(self) -> None:
        running = self.decoding + self.prefilling
        if self.limits.first_come:
            r = max(running, key=lambda x: x.since)
        else:
            r = max(running, key=lambda x: (x.key, x.since))
        if r in self.decoding:
            self.decoding.remove(r)
            r.last = self.now
            r.swapped = bool(self.limits.swap)
            if r.swapped:
                self.owed += self.server.swap_s_per_block() * r.private
        else:
            self.prefilling.remove(r)
        self._release(r)
        r.ready = 0
        self.waiting.append(r)

    def _release(self, r: Request) -> None:
        self.cache.private -= r.private
        r.private = 0
        for unit in reversed(r.units[: r.held]):
            self.cache.refs[unit] -= 1
            if self.cache.refs[unit] == 0:
                self.cache.idle.append(unit)
        r.held = 0

    def _admit(self, budget: int) -> None:
        limits, cache = self.limits, self.cache
        while self.waiting and budget > 0:
            if len(self.decoding) + len(self.prefilling) >= limits.sequences:
                return
            r = min(self.waiting, key=lambda x: (x.key, x.row))
            held = r.prompt + max(r.done - 1, 0)
            hits = 0
            if limits.unit_tokens:
                most = min(len(r.units), (r.prompt - 1) // limits.unit_tokens)
                while hits < most and cache.has(r.units[hits]):
                    hits += 1
            loaded = 0
            if limits.unit_tokens and limits.host_units and not r.swapped:
                most = min(len(r.units), (r.prompt - 1) // limits.unit_tokens)
                while hits + loaded < most and r.units[hits + loaded] in cache.host:
                    loaded += 1
            shared = hits + loaded
            ready = held if r.swapped else shared * limits.unit_tokens
            if r.done == 0:
                ready = max(ready, r.computed)
            if not limits.chunked and held - ready > budget and self.prefilling:
                return
            fresh = sum(1 for u in r.units[:hits] if cache.refs[u] == 0)
            booked = r.prompt + r.output - 1 if limits.gang else held
            private = self._pages(booked) - shared * limits.unit_blocks
            new = private + loaded * limits.unit_blocks
            growth = self._next_pages() if limits.mixed else 0
            if new > limits.blocks - cache.used - growth - fresh * limits.unit_blocks:
                return
            for u in r.units[:hits]:
                if cache.refs[u] == 0:
                    cache.idle.remove(u)
                cache.refs[u] += 1
            for u in r.units[hits:shared]:
                cache.host.remove(u)
            cache.evict_for(new)
            for u in r.units[hits:shared]:
                cache.refs[u] = 1
            self.owed += self.server.swap_s_per_block() * loaded * limits.unit_blocks
            cache.private += private
            r.private, r.held = private, shared
            self.waiting.remove(r)
            self.admissions += 1
            r.since = self.admissions
            self.virtual = max(self.virtual, r.key)
            if ready < held:
                r.ready, r.target = ready, held
                self.prefilling.append(r)
                budget -= held - ready
                continue
            if r.swapped:
                r.swapped = False
                self.owed += self.server.swap_s_per_block() * private
            else:  # its first token came along with its cache
                r.first, r.done = self.now, 1
            r.context = held
            self.decoding.append(r)

    def _prompts(self) -> None:
        limits, t = self.limits, self.tables
        decoding = self.decoding if limits.mixed else []
        budget = limits.tokens - len(decoding)
        chunks: list[tuple[Request, int, float]] = []
        for r in self.prefilling:
            take = r.target - r.ready
            if limits.chunked:
                take = min(take, budget)
            if take <= 0:
                break
            chunks.append((r, take, times.prompt_s(t, float(take), float(r.ready))))
            budget -= take
        completing = sum(1 for r, take, _ in chunks if r.ready + take == r.target)
        context = sum(r.context for r in decoding) / len(decoding) if decoding else 0.0
        seconds = self.owed + times.mixed_s(
            t, len(decoding), context, sum(c[1] for c in chunks), max(c[1] for c in chunks),
            sum(c[2] for c in chunks), max(c[2] for c in chunks), len(chunks),
            len(decoding) + completing,
        )  # fmt: skip
        self.owed = 0.0
        self._grow(decoding)
        self.now += seconds
        for r, take, _ in chunks:
            r.ready += take
            if r.ready == r.target:
                self.prefilling.remove(r)
                self._publish(r)
                if r.done == 0:
                    r.first = self.now
                r.done += 1
                r.at_once = r.done >= r.output
                r.context = r.prompt + r.done - 1
                self.decoding.append(r)
        self._retire()

    def _decode(self) -> None:
        t, n = self.tables, len(self.decoding)
        context = sum(r.context for r in self.decoding) / n
        attention, _ = times.attention_s(t, n, context)
        seconds = self.owed + float(t.decode[n]) + attention
        self.owed = 0.0
        self._grow(self.decoding)
        self.now += seconds
        self._retire()

    def _grow(self, decoding: list[Request]) -> None:
        """One token for each: a page where its context fills the last one."""
        for r in decoding:
            if r.context % self.limits.block_tokens == 0 and not self.limits.gang:
                self.cache.evict_for(1)
                self.cache.private += 1
                r.private += 1
            r.context += 1
            r.done += 1

    def _publish(self, r: Request) -> None:
        limits = self.limits
        if not limits.unit_tokens:
            return
        most = min(len(r.units), r.prompt // limits.unit_tokens)
        while r.held < most and not self.cache.has(r.units[r.held]):
            if r.private < limits.unit_blocks:
                break
            self.cache.refs[r.units[r.held]] = 1
            if r.units[r.held] in self.cache.host:
                self.cache.host.remove(r.units[r.held])
            self.cache.private -= limits.unit_blocks
            r.private -= limits.unit_blocks
            r.held += 1

    def _retire(self) -> None:
        unfinished = self.prefilling or any(r.done < r.output for r in self.decoding)
        if self.limits.gang and unfinished:
            return
        # The order in which pages return decides which ones the prefix cache drops first: prompts
        # that end with their first token, then the others; of a gang the shortest first.
        ended = [r for r in self.decoding if r.done >= r.output]
        if self.limits.gang:
            ended.sort(key=lambda r: (r.output, r.row))
        else:
            ended.sort(key=lambda r: (0, r.since) if r.at_once else (1, r.row))
        for r in ended:
            r.finish = self.now
            self.decoding.remove(r)
            self._release(r)
