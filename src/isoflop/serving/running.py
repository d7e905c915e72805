"""One simulated instance: requests go in, the clock advances, times come out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import ModuleType

import numpy as np

from ..cost.features import Array
from .kernel import engine_for
from .loop.cache import affordable
from .loop.records import (
    BLOCKED,
    CLOCK,
    CONTEXT,
    DECODING,
    FED,
    FINISHED,
    FOLLOWING,
    FUTURE,
    HOST_NEWEST,
    HOST_OLDEST,
    LOG_COLUMNS,
    N_DECODING,
    N_ENDING,
    N_PREFILLING,
    N_RUNNING,
    N_WAITING,
    NEWEST,
    NEXT,
    OLDEST,
    REAL_SIZE,
    STEP,
    SWAP_S_PER_BLOCK,
    WHOLE_SIZE,
    Requests,
    State,
)  # fmt: skip
from .loop.times import attention_s
from .server import Server
from .traffic import Trace

BINS = 3200
"""Histogram of gaps between tokens: 10 microseconds to half an hour in steps of 0.6%."""


class Running:
    """The state of one instance.

    Parameters
    ----------
    server : Server
    capacity : int
        Requests that can be in the ring at once.
    expected : int
        Requests it will see, which decides between the plain and the compiled loop.
    units : int
        Distinct prefix units; users : int, distinct users.
    events : int
        Records of the event log, 0 for none.
    """

    def __init__(
        self, server: Server, *, capacity: int, expected: int | None = None, unit_tokens: int = 0,
        units: int = 0, users: int = 1, events: int = 0, unit_capacity: int = 0,
    ):  # fmt: skip
        self.server = server
        self._keyed: tuple[Trace, Array] | None = None
        self.loop: ModuleType = engine_for(capacity if expected is None else expected)
        self.limits = server.limits(unit_tokens, capacity)
        self.tables = server.times.tables
        self.requests = _requests(capacity, unit_capacity)
        self.state = _state(capacity, server.max_sequences, self.limits.block_steps, units, users,
                            events)  # fmt: skip
        self.state.real[SWAP_S_PER_BLOCK] = server.swap_s_per_block()

    def feed(self, trace: Trace, computed: Array | int = 0) -> slice:
        """Add requests after those fed before; returns their rows.

        `computed` prompt tokens arrive with their cache.
        """
        n, r, s = len(trace), self.requests, self.state
        begin = int(s.whole[FED]) % self.limits.ring
        rows = slice(begin, begin + n)
        r.arrival[rows] = trace.arrival_s
        r.prompt[rows] = trace.prompt_tokens
        r.output[rows] = trace.output_tokens
        r.key[rows] = self.server.scheduler.keys(trace)
        r.computed[rows] = computed
        r.user[rows] = trace.user
        r.state[rows] = np.where(np.isfinite(trace.arrival_s), FUTURE, FOLLOWING)
        r.follow[rows] = -1
        if trace.follows is not None:
            after = np.nonzero(trace.follows >= 0)[0]
            r.follow[begin + trace.follows[after]] = begin + after
            if trace.think_s is not None:
                r.think[begin + trace.follows[after]] = trace.think_s[after]
        for column in (r.first, r.finish, r.scheduled, r.last):
            column[rows] = np.nan
        for column in (r.done, r.ready, r.preempted, r.hit, r.shared, r.blocks):
            column[rows] = 0
        r.until[rows] = -1
        r.stamp[rows] = -1
        if self.limits.unit_tokens and trace.unit_offsets is not None:
            r.units[: len(trace.units)] = trace.units
            r.unit_start[rows] = trace.unit_offsets[:-1]
            r.unit_end[rows] = trace.unit_offsets[1:]
        s.whole[FED] += n
        return rows

    def feed_one(
        self, trace: Trace, request: int, arrival_s: float | None = None, computed: int = 0
    ) -> None:
        """Add one request of a trace, arriving then or at another time: the router's way in.

        `computed` prompt tokens arrive with their cache.
        """
        r, s = self.requests, self.state
        i = int(s.whole[FED]) % self.limits.ring
        r.arrival[i] = trace.arrival_s[request] if arrival_s is None else arrival_s
        r.prompt[i] = trace.prompt_tokens[request]
        r.output[i] = trace.output_tokens[request]
        r.computed[i] = computed
        r.key[i] = self._keys(trace)[request]
        r.user[i] = trace.user[request]
        r.state[i], r.follow[i], r.until[i], r.stamp[i] = FUTURE, -1, -1, -1
        r.first[i] = r.finish[i] = r.scheduled[i] = r.last[i] = np.nan
        if self.limits.unit_tokens and trace.unit_offsets is not None:
            low, high = trace.unit_offsets[request], trace.unit_offsets[request + 1]
            r.units[low:high] = trace.units[low:high]
            r.unit_start[i], r.unit_end[i] = low, high
        s.whole[FED] += 1

    def _keys(self, trace: Trace) -> Array:
        if self._keyed is None or self._keyed[0] is not trace:
            self._keyed = (trace, self.server.scheduler.keys(trace))
        return self._keyed[1]

    def cached_prefix(self, trace: Trace, request: int) -> float:
        """Prompt tokens of a request that this instance's prefix cache holds now."""
        if not self.limits.unit_tokens or trace.unit_offsets is None:
            return 0.0
        low, high = trace.unit_offsets[request], trace.unit_offsets[request + 1]
        held = self.state.unit_refs[trace.units[low:high]] >= 0
        units = len(held) if held.all() else int(np.argmin(held))
        return float(units * self.limits.unit_tokens)

    @property
    def outstanding(self) -> int:
        """Requests fed and not finished."""
        return int(self.state.whole[FED] - self.state.whole[FINISHED])

    def advance(self, horizon_s: float = np.inf, longest: int = 1 << 40) -> None:
        """Simulate until `horizon_s`, or until nothing is left to do."""
        self.loop.advance(
            self.requests, self.state, self.tables, self.limits, float(horizon_s), longest
        )

    def produced(self, rows: Iterable[int], at_s: float) -> dict[int, int]:
        """Tokens that requests in some rows, not finished by `at_s`, had at that time.

        A step under way then has made nothing yet. Where the clock is past the time, the run is
        repeated up to that step: the loop keeps no count of what a step is about to undo.
        """
        rows, made = list(rows), {}
        if self.clock_s <= at_s or not rows:
            return {row: self._tokens(row) for row in rows}
        back_s = 0.05
        run = self._repeated(at_s - back_s)
        while run.clock_s > at_s:
            back_s *= 4.0
            run = self._repeated(at_s - back_s)
        while run.clock_s <= at_s:
            made = {row: run._tokens(row) for row in rows}
            whole = run.state.whole
            idle = whole[N_RUNNING] == 0 and whole[N_WAITING] == 0
            if idle and whole[NEXT] >= whole[FED]:
                break  # the last step ends at that very time but for rounding
            soonest = float(run.requests.arrival[whole[NEXT]]) if idle else 0.0
            run.advance(max(soonest, float(np.nextafter(run.clock_s, np.inf))))
        return made

    def _tokens(self, row: int) -> int:
        """Tokens of the request in a row after the newest step."""
        r = self.requests
        done, until = int(r.done[row]), int(r.until[row])
        if r.state[row] != DECODING or until < 0:
            return done
        left = (until - int(self.state.whole[STEP])) * float(self.tables.numbers[2])
        return max(done, int(r.output[row]) - math.ceil(left))

    def _repeated(self, until_s: float) -> Running:
        """Another instance that gets the same requests at the same times, up to a time."""
        r, n = self.requests, int(self.state.whole[FED])
        again = Running(
            self.server, capacity=self.limits.ring, unit_tokens=self.limits.unit_tokens,
            units=len(self.state.unit_refs), users=len(self.state.user_tag),
            unit_capacity=len(r.units),
        )  # fmt: skip
        again.loop = self.loop
        for name in ("arrival", "prompt", "output", "key", "computed", "user", "unit_start",
                     "unit_end"):  # fmt: skip
            getattr(again.requests, name)[:n] = getattr(r, name)[:n]
        again.requests.units[:] = r.units
        again.requests.state[:n] = FUTURE
        for column in (again.requests.follow, again.requests.until, again.requests.stamp):
            column[:n] = -1
        again.state.whole[FED] = n
        again.advance(until_s)
        return again

    def earliest_end_s(self) -> float:
        """A time before which no request here can end, given what has been fed.

        Where nobody can be admitted and no page runs short, the batch decodes as it is until its
        next end, and steps only grow longer with the context; otherwise no better bound than the
        clock is claimed.
        """
        s, t, limits = self.state, self.tables, self.limits
        clock, n = float(s.real[CLOCK]), int(s.whole[N_DECODING])
        open_slots = not limits.gang and s.whole[N_RUNNING] < limits.sequences
        admits = s.whole[N_WAITING] > 0 and open_slots and not s.whole[BLOCKED]
        unseen = s.whole[NEXT] < s.whole[FED]
        if n == 0 or s.whole[N_PREFILLING] or s.whole[N_ENDING] == 0 or admits or unseen:
            return clock
        # The top of the heap may be stale, which is earlier still.
        steps = int(s.ending_step[0] - s.whole[STEP])
        if not limits.gang:  # a preemption makes the steps shorter: no further than that
            steps = min(steps, int(affordable(s, limits, steps)))
        context = s.real[CONTEXT] / n
        now, _ = attention_s(t, n, context)
        later = t.attention[n, t.context > context]
        least = min(now, float(later.min())) if len(later) else now
        return clock + max(0, steps) * (float(t.decode[n]) + least) * (1.0 - 1e-9)

    @property
    def clock_s(self) -> float:
        """Simulated time."""
        return float(self.state.real[CLOCK])

    @property
    def finished(self) -> int:
        """Requests that are done, or were refused."""
        return int(self.state.whole[FINISHED])

    def whole(self, index: int) -> int:
        """One of the whole-number counters of `loop.records`."""
        return int(self.state.whole[index])

    def real(self, index: int) -> float:
        """One of the real counters of `loop.records`."""
        return float(self.state.real[index])


def _requests(n: int, units: int) -> Requests:
    real = ("arrival", "key", "think", "scheduled", "first", "finish", "last")
    small = ("state",)
    columns = {}
    for name in Requests._fields:
        if name == "units":
            columns[name] = np.zeros(max(units, 1), np.int64)
        else:
            kind = np.float64 if name in real else np.int8 if name in small else np.int64
            columns[name] = np.zeros(n, kind)
    return Requests(**columns)


def _state(n: int, sequences: int, block_steps: int, units: int, users: int, events: int) -> State:
    whole = np.zeros(WHOLE_SIZE, np.int64)
    whole[OLDEST] = whole[NEWEST] = whole[HOST_OLDEST] = whole[HOST_NEWEST] = -1
    return State(
        whole=whole, real=np.zeros(REAL_SIZE), waiting_key=np.zeros(n + 1),
        waiting=np.zeros(n + 1, np.int64),
        # Entries of preempted requests stay in the heap until they come up or it is full.
        ending_step=np.zeros(4 * sequences + 64, np.int64),
        ending=np.zeros(4 * sequences + 64, np.int64),
        pending_time=np.zeros(n + 1), pending=np.zeros(n + 1, np.int64),
        prefilling=np.zeros(sequences + 1, np.int64),
        running=np.zeros((4 * sequences + 16, 2), np.int64),
        residues=np.zeros(block_steps, np.int64), user_tag=np.zeros(max(users, 1)),
        unit_refs=np.full(max(units, 1), -1, np.int64),
        unit_previous=np.full(max(units, 1), -1, np.int64),
        unit_next=np.full(max(units, 1), -1, np.int64),
        host_held=np.zeros(max(units, 1), np.int64),
        host_previous=np.full(max(units, 1), -1, np.int64),
        host_next=np.full(max(units, 1), -1, np.int64), histogram=np.zeros(BINS),
        gang=np.zeros(sequences + 1, np.int64), log=np.zeros((events, len(LOG_COLUMNS))),
    )  # fmt: skip
