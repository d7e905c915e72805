"""Large-neighbourhood search for rematerialisations of graphs too large for one exact model.

From a schedule that fits (`eviction.evict`, or the greedy one), the retention intervals of the
nodes alive around a place of the topological order are freed, everything else keeps its slots, and
the window is solved by the retention-interval model of Moccasin (Bartan et al. 2023, arXiv
2304.14463) with one copy more than each node has; inputs from outside may be held shorter or
longer. Windows slide over the order; what is not dearer is kept. A lower bound comes from a
relaxation with one Boolean per gap between two readers.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any

import numpy as np
from attrs import frozen

from ..errors import DoesNotFit, MissingExtra
from .eviction import Slots, evict, holds, prune, retentions, users
from .moccasin import (
    Graph,
    Schedule,
    greedy,
    keep_everything,
    replay,
    slot,
    whole_number_scale,
)


@frozen(kw_only=True)
class Searched:
    """What a search found.

    Attributes
    ----------
    schedule : Schedule
        Replayed; `proven` where its cost equals `bound`, or one window held the whole graph and
        was closed, then with at most one copy per node above the start's (two at least).
    start : float
        Cost of the schedule it started from.
    bound : float
        No schedule within the budget costs less, with any number of copies.
    windows, improved : int
        Windows solved, and those that made the schedule cheaper.
    """

    schedule: Schedule
    start: float
    bound: float
    windows: int
    improved: int

    @property
    def gap(self) -> float:
        """(cost - bound) / cost."""
        return (self.schedule.cost - self.bound) / self.schedule.cost


def search(
    graph: Graph, budget: float, *, seconds: float = 60.0, window: int = 100,
    window_seconds: float = 3.0,
) -> Searched:  # fmt: skip
    """The cheapest schedule found with peak at most `budget` within a time.

    `seconds` counts the windows; the start and the bound come before it (`evict` says how long;
    the bound takes `window_seconds` at most).

    Raises
    ------
    DoesNotFit
        If no schedule to start from is found within the budget.
    MissingExtra
        If OR-tools is not installed.
    """
    _cp_model()
    first = evict(graph, budget) or greedy(graph, budget)
    if first is None:
        plain = keep_everything(graph)
        raise DoesNotFit(
            f"No schedule within {budget:.4g} bytes was found to start from; holding everything "
            f"to its last use needs {plain.peak:.4g}. Raise the budget.",
            needed_bytes=plain.peak, available_bytes=budget,
        )  # fmt: skip
    bound = lower_bound(graph, budget, window_seconds)
    slots: Slots = [[] for _ in graph.cost]
    for r in first.intervals:
        slots[r.node].append(r.start)
    prune(graph, slots)
    best = _cost(graph, slots)
    end = time.monotonic() + seconds
    tried = improved = unchanged = 0
    n = len(slots)
    places = [n // 2] if n <= window else list(range(0, n, max(1, window // 4)))
    closed, whole = False, n <= window
    # A whole pass over the order without gain ends the search.
    while best > bound + 1e-9 and unchanged < len(places) and time.monotonic() < end:
        left = end - time.monotonic()
        free = _alive(graph, slots, places[tried % len(places)], window)
        found, closed = solve_window(
            graph, budget, slots, free, left if whole else min(window_seconds, left)
        )
        tried += 1
        unchanged += 1
        if found is not None and (cost := _cost(graph, found)) <= best:
            if cost < best:
                improved, unchanged = improved + 1, 0
            slots, best = found, cost
        if whole:
            break
    final = retentions(graph, slots)
    cost, peak = replay(graph, final)
    proven = cost <= bound + 1e-9 or (closed and whole)
    return Searched(
        schedule=Schedule(intervals=final, cost=cost, peak=peak, proven=proven),
        start=first.cost, bound=bound, windows=tried, improved=improved,
    )  # fmt: skip


def _alive(graph: Graph, slots: Slots, place: int, most: int) -> list[int]:
    """At most `most` nodes: those between whose first computation and last use node `place` is
    computed (those computed again first), then their inputs, then the nearest in the order."""
    at = slot(place, place)
    read = users(graph)
    across = [v for v in range(len(slots)) if slots[v][0] <= at <= holds(slots, v, read[v])[-1][1]]
    across.sort(key=lambda v: (len(slots[v]) == 1, -holds(slots, v, read[v])[-1][1]))
    inputs = [u for v in across for u in graph.needs[v]]
    near = sorted(range(len(slots)), key=lambda v: abs(v - place))
    return sorted(list(dict.fromkeys([*across, *inputs, *near]))[:most])


def _cost(graph: Graph, slots: Slots) -> float:
    return sum(c * len(at) for c, at in zip(graph.cost, slots, strict=True))


def _cp_model() -> Any:
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise MissingExtra("Rematerialisation by constraint programming", "cp") from None
    return cp_model


def solve_window(
    graph: Graph, budget: float, slots: Slots, free: list[int], seconds: float
) -> tuple[Slots | None, bool]:
    """The cheapest slots for some nodes, all other computations as they are.

    Returns the slots of all nodes (None if none were found in time) and whether the window was
    solved to the end.
    """
    cp_model = _cp_model()
    build = _Window(cp_model.CpModel(), cp_model, graph, budget, slots, free)
    solver: Any = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(seconds, 0.01)
    solver.parameters.num_workers = 1
    status = solver.Solve(build.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, False
    out = [list(at) for at in slots]
    for v in free:
        out[v] = sorted(solver.Value(s) for s, _, a in build.copies[v] if solver.Value(a))
    prune(graph, out)
    return out, status == cp_model.OPTIMAL


class _Window:
    """The model of one window: `copies` are (start, end, used) of the free nodes, `edges` the
    (start, end) of their inputs outside, whose ends only are free."""

    def __init__(
        self, model: Any, cp_model: Any, graph: Graph, budget: float, slots: Slots, free: list[int]
    ) -> None:
        self.model, self.cp, self.graph, self.slots, self.free = model, cp_model, graph, slots, free
        self.inside = set(free)
        self.read = users(graph)
        self.scale = whole_number_scale((*graph.size, budget), 1e6)
        self.horizon = slot(len(slots) - 1, len(slots) - 1)
        self.spans: list[Any] = []
        self.demands: list[int] = []
        self.copies: dict[int, list[tuple[Any, Any, Any]]] = {v: self._copies(v) for v in free}
        outside = {u for v in free for u in graph.needs[v]} - self.inside
        self.edges = {u: self._edges(u) for u in sorted(outside)}
        self._fixed(outside)
        for v in free:
            for s, _, a in self.copies[v]:
                for u in graph.needs[v]:
                    self._covered(u, s, a)
            for w in self.read[v]:
                if w not in self.inside:
                    for t in slots[w]:
                        self._covered(v, t, None)
        model.AddCumulative(self.spans, self.demands, math.floor(budget * self.scale))
        price = whole_number_scale(graph.cost, 1e4)
        model.Minimize(
            sum(round(graph.cost[v] * price) * a for v in free for _, _, a in self.copies[v])
        )

    def _demand(self, v: int) -> int:
        return max(1, math.ceil(self.graph.size[v] * self.scale))

    def _copies(self, v: int) -> list[tuple[Any, Any, Any]]:
        model, n = self.model, len(self.slots)
        held = holds(self.slots, v, self.read[v])
        out: list[tuple[Any, Any, Any]] = []
        later = self.cp.Domain.FromValues([slot(i, v) for i in range(v + 1, n)] or [slot(v, v)])
        for k in range(max(2, len(held) + 1) if v + 1 < n else 1):
            s = model.NewIntVarFromDomain(later, "") if k else model.NewConstant(slot(v, v))
            e = model.NewIntVar(0, self.horizon, "")
            a = model.NewBoolVar("") if k else model.NewConstant(1)
            length = model.NewIntVar(1, self.horizon + 1, "")
            self.spans.append(model.NewOptionalIntervalVar(s, length, e + 1, a, ""))
            self.demands.append(self._demand(v))
            if k:
                model.AddImplication(a, out[-1][2])
                model.Add(s > out[-1][1]).OnlyEnforceIf(a)
                model.AddHint(a, k < len(held))
            if k < len(held):
                if k:
                    model.AddHint(s, held[k][0])
                model.AddHint(e, held[k][1])
            out.append((s, e, a))
        return out

    def _edges(self, u: int) -> list[tuple[int, Any]]:
        """Copies of an input outside: each held for its readers outside at least."""
        others = [w for w in self.read[u] if w not in self.inside]
        least = holds(self.slots, u, others)
        now = holds(self.slots, u, self.read[u])
        out = []
        for k, (s, e) in enumerate(least):
            last = least[k + 1][0] - 1 if k + 1 < len(least) else self.horizon
            end = self.model.NewIntVar(e, last, "")
            self.model.AddHint(end, now[k][1])
            length = self.model.NewIntVar(1, self.horizon + 1, "")
            self.spans.append(self.model.NewIntervalVar(s, length, end + 1, ""))
            self.demands.append(self._demand(u))
            out.append((s, end))
        return out

    def _fixed(self, outside: set[int]) -> None:
        """What the rest holds: the memory of its copies, one interval per step of the sum."""
        change: dict[int, int] = {}
        for v in range(len(self.slots)):
            if v in self.inside or v in outside:
                continue
            for s, e in holds(self.slots, v, self.read[v]):
                change[s] = change.get(s, 0) + self._demand(v)
                change[e + 1] = change.get(e + 1, 0) - self._demand(v)
        at = sorted(t for t, d in change.items() if d)
        level = np.cumsum([change[t] for t in at]).tolist()
        for (s, e), used in zip(pairwise(at), level, strict=False):
            if used:
                self.spans.append(self.model.NewFixedSizeIntervalVar(s, e - s, ""))
                self.demands.append(int(used))

    def _covered(self, u: int, at: Any, when: Any) -> None:
        """One copy of u is held in slot `at`, if `when`."""
        model = self.model
        covers = [] if when is None else [when.Not()]
        if u in self.inside:
            for s, e, a in self.copies[u]:
                c = model.NewBoolVar("")
                model.AddImplication(c, a)
                model.Add(s < at).OnlyEnforceIf(c)
                model.Add(e >= at).OnlyEnforceIf(c)
                covers.append(c)
        else:
            for s, e in self.edges[u]:
                c = model.NewBoolVar("")
                model.Add(at > s).OnlyEnforceIf(c)
                model.Add(e >= at).OnlyEnforceIf(c)
                covers.append(c)
        model.AddBoolOr(covers)


def lower_bound(graph: Graph, budget: float, seconds: float = 10.0) -> float:
    """A cost no schedule within `budget` undercuts, whatever its number of copies.

    Each node is computed in its own slot, where it and its inputs are in memory, and every value
    read later is either in memory too or computed again before its next first-time reader. One
    Boolean per value and pair of consecutive readers says that it is let go between them; it
    costs the value's own computation. In every own slot what is not let go must fit. What a second
    computation reads is left out, so this is a relaxation.
    """
    cp_model = _cp_model()
    model: Any = cp_model.CpModel()
    n = len(graph.cost)
    # Rounded so that the relaxation stays one: sizes and costs down, the budget up.
    scale = whole_number_scale((*graph.size, budget), 1e6)
    sizes = [math.floor(s * scale) for s in graph.size]
    price = whole_number_scale(graph.cost, 1e4)
    across: list[list[tuple[int, Any]]] = [[] for _ in range(n)]
    paid = []
    for u, readers in enumerate(users(graph)):
        for a, b in pairwise([u, *readers]):
            if b - a < 2:
                continue
            gone = model.NewBoolVar("")
            paid.append(math.floor(graph.cost[u] * price) * gone)
            for i in range(a + 1, b):
                across[i].append((sizes[u], gone))
    for i in range(n):
        load = sizes[i] + sum(sizes[u] for u in graph.needs[i]) + sum(s for s, _ in across[i])
        over = load - math.ceil(budget * scale)
        if over > 0:
            model.Add(sum(s * gone for s, gone in across[i]) >= over)
    model.Minimize(sum(paid))
    solver: Any = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    status = solver.Solve(model)
    if status == cp_model.INFEASIBLE:
        raise DoesNotFit(
            f"No schedule fits in {budget:.4g} bytes: a node with its inputs needs more.",
            needed_bytes=max(
                graph.size[i] + sum(graph.size[u] for u in graph.needs[i]) for i in range(n)
            ),
            available_bytes=budget,
        )
    extra = max(0.0, float(solver.BestObjectiveBound()))
    # Costs are whole where the scale is 1; then so is the bound.
    return sum(graph.cost) + (math.ceil(extra - 1e-6) if price == 1 else extra / price)
