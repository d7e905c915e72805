"""The plain loop over several instances, which may fail: one step at a time on each.

It says what the jumping loop must do behind routers, in closed loops, in two pools and among
failures. The step that begins first is always the next one taken; what a step brings about waits
in a list until its time has come, so nothing that a failure prevents has to be undone.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import Factory, define, evolve

from ..cost.features import Array
from .outages import Outage
from .reference import Reference, Request
from .server import Server
from .traffic import Trace
from .transfer import transfer_s

Choose = Callable[[Sequence[Any], Trace, int], int]
"""A router's rule; started by the caller."""

END, FAILURE, ARRIVAL = range(3)
"""What happens first at one instant."""


@define(eq=False)
class _Place:
    """An instance, what it has been given, and what its requests had before its last step."""

    pool: int
    number: int
    instance: Reference
    given: list[Request] = Factory(list)
    before: dict[int, int] = Factory(dict)
    dead: bool = False

    def step(self) -> list[Request]:
        """One step; the requests that end with it."""
        self.before = {id(r): r.done for r in self.given}
        open_ = [r for r in self.given if not math.isfinite(r.finish)]
        self.instance.step()
        return [r for r in open_ if math.isfinite(r.finish)]

    def lost(self, at: float) -> list[tuple[Request, int]]:
        """What has not ended by a failure, each with the tokens it had by then."""
        late = self.instance.now > at  # a step is under way
        return [(r, self.before.get(id(r), 0) if late else r.done)
                for r in self.given if not r.finish <= at]  # fmt: skip


@define(eq=False)
class _Plain:
    """Instances in one or two pools; `stage` is the pool that a request goes to next."""

    trace: Trace
    pools: list[tuple[Server, int, Choose]]
    outages: Sequence[Outage]
    views: list[Trace] = Factory(list)  # the requests as each pool sees them
    places: list[_Place] = Factory(list)
    queue: list[tuple[float, int, int, Any]] = Factory(list)
    first: dict[int, float] = Factory(dict)
    finish: dict[int, float] = Factory(dict)
    taken: int = 0

    def run(self) -> tuple[Array, Array]:
        """Times of the first and last token of every request."""
        number = 0
        for pool, (_, count, _) in enumerate(self.pools):
            for _ in range(count):
                self.places.append(_Place(pool, number, self._instance(pool)))
                number += 1
        for i, t in enumerate(self.trace.arrival_s):
            if math.isfinite(t):
                self._push(float(t), ARRIVAL, i, (0, None))
        for k, o in enumerate(self.outages):
            if o.kind == "fail":
                self._push(o.start_s, FAILURE, k, o)
        while self.queue or any(p.instance.busy for p in self.places):
            place = min(self.places, key=lambda p: p.instance.next_s)
            if not self.queue or self.queue[0][0] > place.instance.next_s:
                for r in place.step():
                    self._push(r.finish, END, r.index, (place, r))
                continue
            at, what, index, about = self.queue.pop(0)
            if what == ARRIVAL:
                self._arrive(at, index, *about)
            elif what == FAILURE:
                self._fail(at, about)
            elif not about[0].dead:
                self.end(*about)
        n = range(len(self.trace))
        return np.array([self.first[i] for i in n]), np.array([self.finish[i] for i in n])

    def _push(self, at: float, what: int, index: int, about: Any) -> None:
        insort(self.queue, (at, what, index, about), key=lambda e: e[:3])

    def _instance(self, pool: int) -> Reference:
        unknown = np.full(len(self.trace), np.inf)
        return Reference(
            self.pools[pool][0],
            evolve(self.views[pool], arrival_s=unknown, follows=None, think_s=None),
        )

    def _arrive(self, at: float, i: int, stage: int, source: _Place | None) -> None:
        here = [p for p in self.places if p.pool == stage]
        out = {o.replica: o.end_s for o in self.outages if o.start_s <= at < o.end_s}
        up = [p for p in here if p.number not in out]
        if not up:  # the first to return takes it; a cache that has come needs its source no more
            self._push(min(out[p.number] for p in here), ARRIVAL, i, (stage, None))
            return
        server, _, choose = self.pools[stage]
        place = up[choose([p.instance for p in up], self.views[stage], i)]
        r = place.instance.take(i, at, self.taken)
        view = self.views[stage]
        r.prompt, r.output = int(view.prompt_tokens[i]), int(view.output_tokens[i])
        r.key = float(server.scheduler.keys(view)[i])
        r.computed = r.prompt if stage == 1 else 0
        self.taken += 1
        place.given.append(r)

    def _fail(self, at: float, outage: Outage) -> None:
        place = next(p for p in self.places if p.number == outage.replica)
        place.dead = True
        again = self.lose(place, at)
        new = _Place(place.pool, place.number, self._instance(place.pool))
        self.places[self.places.index(place)] = new
        for i in again:
            self._push(at, ARRIVAL, i, (0, None))

    def ended(self, r: Request) -> None:
        """A request has ended for good, and those that follow it arrive."""
        i = r.index
        self.finish[i] = r.finish
        follows, think = self.trace.follows, self.trace.think_s
        for j in np.nonzero(follows == i)[0] if follows is not None else ():
            pause = 0.0 if think is None else float(think[j])
            self._push(r.finish + pause, ARRIVAL, int(j), (0, None))

    def end(self, place: _Place, r: Request) -> None:
        """A request has ended on an instance that lives."""
        raise NotImplementedError

    def lose(self, place: _Place, at: float) -> list[int]:
        """Requests that start again because an instance failed."""
        raise NotImplementedError


class _Replicas(_Plain):
    """What a failure interrupts starts from nothing."""

    def end(self, place: _Place, r: Request) -> None:
        self.first[r.index] = r.first
        self.ended(r)

    def lose(self, place: _Place, at: float) -> list[int]:
        return [r.index for r, _ in place.lost(at)]


class _Split(_Plain):
    """Prompts and first tokens in one pool, the rest in the other; tokens once made are kept."""

    def end(self, place: _Place, r: Request) -> None:
        i = r.index
        if place.pool == 1:
            self.ended(r)
            return
        self.first.setdefault(i, r.first)
        if self.views[1].output_tokens[i] == 1:
            self.ended(r)
            return
        sent = transfer_s(self.pools[0][0].step, np.array(r.prompt), self.pools[1][0].step)
        self._push(r.finish + float(sent), ARRIVAL, i, (1, place))

    def lose(self, place: _Place, at: float) -> list[int]:
        made = {}
        for r, done in place.lost(at):
            if place.pool == 1:
                done = min(max(done, 1), r.output - 1)
            made[r.index] = done if place.pool == 1 else 0
        for event in list(self.queue):
            if event[1] == ARRIVAL and event[3][1] is place and event[0] > at:
                self.queue.remove(event)  # its cache is not all there
                made[event[2]] = 1
        prompt, output = (np.array(x) for x in (self.views[1].prompt_tokens,
                                                self.views[1].output_tokens))  # fmt: skip
        for i, n in made.items():
            prompt[i] += n
            output[i] -= n
        self.views[0] = evolve(self.views[0], prompt_tokens=prompt)
        self.views[1] = evolve(self.views[1], prompt_tokens=prompt, output_tokens=output)
        return list(made)


def run_replicas(
    server: Server, trace: Trace, replicas: int, choose: Choose, outages: Sequence[Outage] = ()
) -> tuple[Array, Array]:
    """The plain loop on several replicas, requests that follow others and outages included.

    Times of the first and last token of every request.
    """
    return _Replicas(trace, [(server, replicas, choose)], outages, [trace]).run()


def run_split(
    prompting: Server, decoding: Server, trace: Trace, prefills: int, decodes: int,
    choose: tuple[Choose, Choose], outages: Sequence[Outage] = (),
) -> tuple[Array, Array]:  # fmt: skip
    """The plain loop on instances for prompts and instances for the rest.

    Times of the first and last token of every request.
    """
    ones = evolve(trace, output_tokens=np.ones(len(trace), np.int64))
    whole = evolve(trace, units=np.zeros(0, np.int64), unit_offsets=None, unit_tokens=0)
    return _Split(
        trace, [(prompting, prefills, choose[0]), (decoding, decodes, choose[1])], outages,
        [ones, whole],
    ).run()  # fmt: skip
