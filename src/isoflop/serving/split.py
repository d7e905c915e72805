"""A run of two pools: who computes which prompt, who decodes it, and what failures undo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np
from attrs import define, evolve, field

from ..cost.features import Array
from .following import followers, furthest_behind
from .loop.records import BIN_LOW, BIN_WIDTH, BUSY
from .outages import Outage
from .pool import Life, Pool
from .report import Collected
from .router import find_router
from .server import Server
from .traffic import Trace
from .transfer import transfer_s

FAILURE, ARRIVAL = 0, 1
"""What happens first at one instant."""
PROMPTS, REST = 0, 1
"""Which pool a request goes to next."""

Event = tuple[float, int, int, int]
"""Time; FAILURE or ARRIVAL; outage or request; PROMPTS or REST."""


@define(kw_only=True, eq=False)
class SplitRun:
    """The instances of both kinds, and how far each request has got.

    Attributes
    ----------
    prompting, decoding : Server
    routers : (str, str)
    lost_tokens : float
        Tokens whose cache was lost with an instance.
    """

    prompting: Server
    decoding: Server
    trace: Trace
    prefills: int
    decodes: int
    routers: tuple[str, str]
    outages: Sequence[Outage]
    events: int
    rerouted: int = 0
    lost_tokens: float = 0.0
    prefill: Pool = field(init=False)
    decode: Pool = field(init=False)
    came_s: Array = field(init=False)  # arrival of every request, known as they come
    sent_s: Array = field(init=False)  # time that a request's cache is on its way
    token_s: Array = field(init=False)  # its newest token outside a pool: sampled, or lost
    # Requests whose caches are on their way: from where, since when.
    sending: dict[int, tuple[Life, float]] = field(factory=dict)
    after: dict[int, list[float]] = field(factory=dict)  # by life: `token_s` as each row came
    queue: list[Event] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        n = len(self.trace)
        # An instance for prompts ends a request with its first token; one for decoding gets the
        # cache sent, and shares no prefixes.
        prompts = evolve(self.trace, output_tokens=np.ones(n, np.int64))
        rest = evolve(self.trace, units=np.zeros(0, np.int64), unit_offsets=None, unit_tokens=0)
        failures = sum(o.kind == "fail" for o in self.outages)
        self.prefill, self.decode = (
            Pool(
                servers=[server] * count, trace=trace, router=find_router(router, stream),
                # A request may come back to an instance after each failure of others.
                capacity=(failures + 1) * n + 1, expected=math.ceil(n / count),
                outages=self.outages, first=stream * self.prefills, events=self.events,
            )
            for stream, (server, count, trace, router) in enumerate(zip(
                (self.prompting, self.decoding), (self.prefills, self.decodes), (prompts, rest),
                self.routers,
            ))
        )  # fmt: skip
        self.came_s = self.trace.arrival_s.copy()
        self.sent_s = self._transfers()
        self.token_s = np.full(n, np.nan)

    @property
    def lives(self) -> list[Life]:
        """Instances of both pools, then those that failed."""
        pools = self.prefill, self.decode
        return [*(x for p in pools for x in p.alive), *(x for p in pools for x in p.ended)]

    def run(self) -> None:
        """Everything to its end."""
        if self.trace.follows is None and not self.outages:
            self._run_one_after_the_other()
        else:
            self._run_together()

    def busy_of_prompts(self) -> float:
        """Share of the prefill instances' time in steps."""
        busy = sum(m.running.real(BUSY) for m in self.prefill.lives)
        first = self._first_s()
        span = float(first.max() - self.came_s.min())
        return min(1.0, busy / max(span * self.prefills, 1e-12))

    def collected(self) -> Collected:
        """Times of every request over both pools."""
        first = self._first_s()
        finish, hit = np.full(len(self.trace), np.nan), np.zeros(len(self.trace))
        for life in self.prefill.lives:
            rows, requests = _kept(life)
            r = life.running.requests
            np.fmax.at(finish, requests, r.finish[rows])
            earliest = r.first[rows] == first[requests]
            hit[requests[earliest]] = r.hit[rows[earliest]]
        for life in self.decode.lives:
            rows, requests = _kept(life)
            finish[requests] = life.running.requests.finish[rows]
        self._note_moves()
        extra = self.prompting.step.engine.arrival_s
        output = np.asarray(self.trace.output_tokens, float)
        return Collected(
            ttft_s=first - self.came_s + extra, e2e_s=finish - self.came_s + extra,
            tpot_s=np.where(output > 1, (finish - first) / np.maximum(output - 1, 1), np.nan),
            arrival_s=self.came_s, finish_s=finish, output_tokens=float(output.sum()),
            prompt_tokens=float(self.trace.prompt_tokens.sum()), requests=len(self.trace),
            hit_tokens=float(hit.sum()), last_s=float(finish.max()),
            first_s=float(self.came_s.min()),
        )  # fmt: skip

    def _run_one_after_the_other(self) -> None:
        """All prompts, then all decoding: exact while no arrival depends on an end."""
        n, output = len(self.trace), self.trace.output_tokens
        self._hand_out(self.prefill, np.arange(n), self.trace.arrival_s, computed=False)
        self.token_s = self._first_s()
        arrival = self.token_s + np.where(output > 1, self.sent_s, 0)
        order = np.argsort(arrival, kind="stable")
        self._hand_out(self.decode, order[output[order] > 1], arrival, computed=True)

    def _hand_out(self, pool: Pool, order: Array, arrival_s: Array, *, computed: bool) -> None:
        """Route requests in order of their arrival, and run the pool to its end."""
        before = self.token_s
        if pool.router.watches:
            for i in order:
                held = int(pool.trace.prompt_tokens[i]) if computed else 0
                pool.send(int(i), float(arrival_s[i]), held)
        else:
            running = [x.running for x in pool.alive]
            places = np.array([pool.router.choose(running, pool.trace, int(i)) for i in order], int)
            for j, life in enumerate(pool.alive):
                part = order[places == j]
                if len(part):
                    mine = evolve(pool.trace.take(part), arrival_s=arrival_s[part])
                    life.running.feed(mine, computed=mine.prompt_tokens if computed else 0)
                    life.requests = part.tolist()
        for life in pool.alive:
            life.running.advance()
            self.after[id(life)] = before[life.requests].tolist()

    def _run_together(self) -> None:
        """Both pools in order of time, as requests arrive, move over and let others arrive."""
        after = followers(self.trace)
        self.queue = [(float(t), ARRIVAL, i, PROMPTS) for i, t in enumerate(self.trace.arrival_s)
                      if np.isfinite(t)]  # fmt: skip
        self.queue += [(o.start_s, FAILURE, k, PROMPTS) for k, o in enumerate(self.outages)
                       if o.kind == "fail"]  # fmt: skip
        heapify(self.queue)
        while True:
            members = [*self.prefill.alive, *self.decode.alive]
            last = furthest_behind(members, self.queue[0][0] if self.queue else np.inf)
            if last is not None:
                self._note_ends(last, after)
            elif not self.queue:
                return
            else:
                at, what, index, stage = heappop(self.queue)
                if what == FAILURE:
                    self._fail(self.outages[index], after)
                else:
                    self._arrive(index, at, stage)

    def _arrive(self, i: int, at: float, stage: int) -> None:
        """A request, or its cache, has come: it goes to an instance or waits for one to return."""
        pool = self.decode if stage == REST else self.prefill
        if stage == REST and i in self.sending:
            _, self.token_s[i] = self.sending.pop(i)
        elif stage == PROMPTS:
            self.came_s[i] = min(self.came_s[i], at)
        if not pool.up(at):
            heappush(self.queue, (pool.next_return_s(at), ARRIVAL, i, stage))
            return
        life = pool.send(i, at, int(pool.trace.prompt_tokens[i]) if stage == REST else 0)
        self.after.setdefault(id(life), []).append(float(self.token_s[i]))

    def _note_ends(self, life: Life, after: dict[int, list[tuple[int, float]]]) -> None:
        """Send caches over, and let those arrive that follow what has ended for good."""
        prompts = any(life is x for x in self.prefill.alive)
        for i, end_s in life.newly_ended():
            if prompts and self.decode.trace.output_tokens[i] > 1:
                self.sending[i] = life, end_s
                heappush(self.queue, (end_s + float(self.sent_s[i]), ARRIVAL, i, REST))
                continue
            for j, think_s in after.get(i, ()):
                heappush(self.queue, (end_s + think_s, ARRIVAL, j, PROMPTS))

    def _fail(self, outage: Outage, after: dict[int, list[tuple[int, float]]]) -> None:
        """An instance fails: what it had, or was sending, is computed again."""
        at = outage.start_s
        prompts = self.prefill.has(outage.replica)
        life = (self.prefill if prompts else self.decode).fail(outage)
        r, made = life.running.requests, {}
        for row, had in life.running.produced(life.lost, at).items():
            i = life.requests[row]
            if prompts:
                made[i] = 0
                self.lost_tokens += float(r.prompt[row] if r.done[row] > 0 else r.ready[row])
                continue
            # The first token came along; static batches hold ended ones, which end again.
            made[i] = min(max(1, had), int(r.output[row]) - 1)
            self.lost_tokens += float(r.prompt[row]) + made[i] - 1
        for i, tokens in made.items():
            if tokens:
                self.token_s[i] = at
        for i in [i for i, (source, _) in self.sending.items() if source is life]:
            _, end_s = self.sending.pop(i)
            if i not in made:  # computed, but not all there
                made[i], self.token_s[i] = 1, end_s
                self.lost_tokens += float(self.prefill.trace.prompt_tokens[i])
        self._start_again(made, at, after)

    def _start_again(
        self, made: dict[int, int], at: float, after: dict[int, list[tuple[int, float]]]
    ) -> None:
        """Requests go back to the prefill pool, with the tokens they have as part of the prompt."""
        prompt, output = (np.array(x) for x in (self.decode.trace.prompt_tokens,
                                                self.decode.trace.output_tokens))  # fmt: skip
        for i, tokens in made.items():
            prompt[i] += tokens
            output[i] -= tokens
        self.prefill.trace = evolve(self.prefill.trace, prompt_tokens=prompt)
        self.decode.trace = evolve(self.decode.trace, prompt_tokens=prompt, output_tokens=output)
        self.sent_s = self._transfers()
        # A step under way may have ended requests whose caches or followers are due.
        undone = {*made, *(j for i in made for j, _ in after.get(i, ()))}
        self.queue = [e for e in self.queue if e[1] == FAILURE or e[2] not in undone]
        self.queue += [(at, ARRIVAL, i, PROMPTS) for i in made]
        heapify(self.queue)
        self.rerouted += len(made)

    def _transfers(self) -> Array:
        return transfer_s(self.prompting.step, self.decode.trace.prompt_tokens, self.decoding.step)

    def _first_s(self) -> Array:
        """When every request had its first token."""
        first = np.full(len(self.trace), np.nan)
        for life in self.prefill.lives:
            rows, requests = _kept(life)
            np.fmin.at(first, requests, life.running.requests.first[rows])
        return first

    def _note_moves(self) -> None:
        """Count the time between a token outside a pool and going on in one as a gap.

        That is the time from a first token to the start of decoding, and from a failure, less than
        a step after the newest token, to the next token.
        """
        for life in self.lives:
            began = life.running.requests.first[: len(life.requests)]
            gaps = began - np.array(self.after.get(id(life), []))
            if any(life is x for x in self.prefill.lives):
                gaps = gaps[_kept(life)[0]]
            gaps = gaps[np.isfinite(gaps)]
            slots = (np.log(np.maximum(gaps, 1e-5)) - BIN_LOW) / BIN_WIDTH
            bins = life.running.state.histogram
            np.add.at(bins, np.clip(slots.astype(int), 0, len(bins) - 1), 1.0)


def _kept(life: Life) -> tuple[Array, Array]:
    """Rows whose requests were not lost there, and the requests."""
    rows = np.array([k for k in range(len(life.requests)) if k not in life.lost], int)
    return rows, np.array(life.requests, int)[rows]
