"""A rematerialisation of a large graph by dropping one retained value at a time.

A schedule is the set of slots in which nodes are computed: every such set that holds each node's
own slot is valid, since a computation reads the latest copies before it, and only its memory
differs. From the schedule that computes everything once, the value dropped at the worst moment is
the one that relieves the most memory per cost of having it again; its inputs are held longer or
computed again as well, whichever does better. No limit on copies.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

import numpy as np
from attrs import frozen

from .moccasin import Graph, Retention, Schedule, replay, slot

Slots = list[list[int]]
"""For each node the slots in which it is computed, in order."""


def stage(at: int) -> int:
    """The node that is being reached in a slot."""
    return (math.isqrt(8 * at + 1) - 1) // 2


def users(graph: Graph) -> list[list[int]]:
    """For each node the nodes that read it."""
    out: list[list[int]] = [[] for _ in graph.cost]
    for v, inputs in enumerate(graph.needs):
        for u in inputs:
            out[u].append(v)
    return out


def holds(slots: Slots, node: int, readers: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) of each copy of a node: the shortest that serve all its readers."""
    starts = slots[node]
    ends = list(starts)
    for v in readers:
        for t in slots[v]:
            k = bisect_left(starts, t) - 1
            ends[k] = max(ends[k], t)
    return list(zip(starts, ends, strict=True))


def retentions(graph: Graph, slots: Slots) -> tuple[Retention, ...]:
    """All copies in order of computation."""
    read = users(graph)
    found = (
        Retention(node=v, start=s, end=e)
        for v in range(len(slots)) for s, e in holds(slots, v, read[v])
    )  # fmt: skip
    return tuple(sorted(found, key=lambda r: r.start))


def prune(graph: Graph, slots: Slots) -> None:
    """Forget computations, after each node's first, that nothing reads."""
    read = users(graph)
    for v in reversed(range(len(slots))):
        copies = holds(slots, v, read[v])
        slots[v] = [s for k, (s, e) in enumerate(copies) if k == 0 or e > s]


@frozen
class _Profile:
    """Every copy held, and the most memory in use in each stage."""

    owner: np.ndarray
    start: np.ndarray
    end: np.ndarray
    size: np.ndarray

    def events(self) -> tuple[np.ndarray, np.ndarray]:
        """Slots computed, in order, and the memory held in each."""
        order = np.argsort(self.start)
        at = self.start[order]
        rise = np.cumsum(self.size[order])
        by_end = np.argsort(self.end)
        fall = np.concatenate(([0.0], np.cumsum(self.size[by_end])))
        return at, rise - fall[np.searchsorted(self.end[by_end], at)]

    def excess(self, budget: float, firsts: np.ndarray) -> float:
        """Sum over the stages of the memory above the budget."""
        at, used = self.events()
        peak = np.maximum.reduceat(used, np.searchsorted(at, firsts))
        return float(np.maximum(peak - budget, 0.0).sum())

    def replaced(self, nodes: Iterable[int], graph: Graph, new: list) -> _Profile:
        """With the copies of some nodes exchanged."""
        keep = ~np.isin(self.owner, list(nodes))
        extra = np.array([(v, s, e) for v, s, e in new], dtype=np.int64).reshape(-1, 3)
        return _Profile(
            np.concatenate((self.owner[keep], extra[:, 0])),
            np.concatenate((self.start[keep], extra[:, 1])),
            np.concatenate((self.end[keep], extra[:, 2])),
            np.concatenate((self.size[keep], [graph.size[v] for v in extra[:, 0]])),
        )


class _State:
    def __init__(self, graph: Graph, budget: float) -> None:
        n = len(graph.cost)
        self.graph, self.budget, self.read = graph, budget, users(graph)
        self.slots: Slots = [[slot(v, v)] for v in range(n)]
        self.firsts = np.array([slot(i, 0) for i in range(n)])
        self.profile = self._all()
        self.excess = self.profile.excess(budget, self.firsts)

    def _all(self) -> _Profile:
        kept = retentions(self.graph, self.slots)
        return _Profile(
            np.array([r.node for r in kept]), np.array([r.start for r in kept]),
            np.array([r.end for r in kept]), np.array([self.graph.size[r.node] for r in kept]),
        )  # fmt: skip

    def changed(self, added: Iterable[int], i: int, *, undo: bool = False) -> _Profile:
        """The profile once nodes are computed (or no longer) in stage i; slots are left changed."""
        for v in added:
            if undo:
                self.slots[v].remove(slot(i, v))
            else:
                insort(self.slots[v], slot(i, v))
        touched = {*added, *(u for v in added for u in self.graph.needs[v])}
        new = [(v, s, e) for v in touched for s, e in holds(self.slots, v, self.read[v])]
        return self.profile.replaced(touched, self.graph, new)

    def take(self, added: Iterable[int], i: int, *, undo: bool = False) -> None:
        self.profile = self.changed(added, i, undo=undo)
        self.excess = self.profile.excess(self.budget, self.firsts)

    def live(self, node: int, at: int) -> bool:
        """Whether a copy is held in a slot, or computed in it."""
        k = bisect_right(self.slots[node], at) - 1
        return k >= 0 and holds(self.slots, node, self.read[node])[k][1] >= at

    def closure(self, node: int, i: int, depth: int) -> frozenset[int]:
        """A node and what is computed with it, down to a depth, where it is not held."""
        out, front = {node}, [node]
        for _ in range(depth):
            front = sorted({
                u for v in front for u in self.graph.needs[v]
                if u not in out and not self.live(u, slot(i, v))
                and slot(i, u) not in self.slots[u]
            })  # fmt: skip
            out |= set(front)
            if not front:
                break
        return frozenset(out)

    def relief(self, added: frozenset[int], i: int) -> float:
        """Excess taken away per cost added."""
        trial = self.changed(added, i).excess(self.budget, self.firsts)
        for v in added:
            self.slots[v].remove(slot(i, v))
        return (self.excess - trial) / max(sum(self.graph.cost[v] for v in added), 1e-30)

    def candidates(self) -> set[tuple[frozenset[int], int]]:
        """What may be computed again to drop a value at the worst moment."""
        at, used = self.profile.events()
        worst = int(at[int(np.argmax(used))])
        p = self.profile
        over = (p.start < worst) & (p.end > worst)
        out: set[tuple[frozenset[int], int]] = set()
        for u in p.owner[over].tolist():
            reads = [t for v in self.read[u] for t in self.slots[v]]
            if worst in reads:
                continue
            i = stage(min(t for t in reads if t > worst))
            if slot(i, u) > worst and slot(i, u) not in self.slots[u]:
                out |= {(self.closure(u, i, d), i) for d in (0, 1, 2, 4, len(self.read))}
        return out


def evict(graph: Graph, budget: float) -> Schedule | None:
    """A schedule within `budget` with any number of copies; None where dropping gets stuck.

    Deterministic. About n^2 steps of work; a graph of 1,000 nodes takes tens of seconds.
    """
    state = _State(graph, budget)
    while state.excess > 0:
        # Sorted, so that equal moves are taken in the same order in every run.
        moves = sorted(state.candidates(), key=lambda m: (m[1], sorted(m[0])))
        scored = [(state.relief(*m), m) for m in moves]
        best = max(scored, key=lambda x: x[0], default=None)
        if best is None or best[0] <= 0:
            return None
        state.take(*best[1])
    _without_needless(state)
    prune(graph, state.slots)
    found = retentions(graph, state.slots)
    cost, peak = replay(graph, found)
    return Schedule(intervals=found, cost=cost, peak=peak, proven=False)


def _without_needless(state: _State) -> None:
    """Take computations back, the dearest first, where memory allows."""
    again = [(state.graph.cost[v], v, s) for v, at in enumerate(state.slots) for s in at[1:]]
    for _, v, s in sorted(again, reverse=True):
        i = stage(s)
        trial = state.changed([v], i, undo=True)
        if trial.excess(state.budget, state.firsts) > 0:
            insort(state.slots[v], s)
        else:
            state.profile = trial
    state.excess = state.profile.excess(state.budget, state.firsts)
