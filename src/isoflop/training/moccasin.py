"""Rematerialisation of any graph by constraint programming over retention intervals.

Nodes are computed once in a given topological order and may be recomputed before a later node.
Time is cut into events: event (i, j), j <= i, is the slot in which node j may be computed while
node i is being reached, so there are n (n + 1) / 2 slots and no two nodes share one. Each node has
at most `copies` retention intervals, integer variables from the slot of a computation to the last
slot that uses it: O(n) variables where slot-by-slot formulations have O(n^2) of them. Memory is a
cumulative constraint over the intervals.

References
----------
Bartan et al. 2023, Moccasin: Efficient Tensor Rematerialization for Neural Networks,
arXiv 2304.14463.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from ..errors import DoesNotFit, InvalidInput, MissingExtra


@frozen(kw_only=True)
class Graph:
    """A graph in topological order.

    Attributes
    ----------
    cost, size : tuple of float
        Of computing each node, and of holding its output.
    needs : tuple of tuple of int
        Nodes that each node reads, all before it.
    """

    cost: tuple[float, ...]
    size: tuple[float, ...]
    needs: tuple[tuple[int, ...], ...]

    def __attrs_post_init__(self) -> None:
        if not len(self.cost) == len(self.size) == len(self.needs) > 0:
            raise InvalidInput("A graph has a cost, a size and a list of inputs for every node.")
        for v, inputs in enumerate(self.needs):
            if any(not 0 <= u < v for u in inputs):
                raise InvalidInput(f"Node {v} reads a node that does not come before it.")


@frozen(kw_only=True)
class Retention:
    """Node `node` computed at slot `start` and held to slot `end`."""

    node: int
    start: int
    end: int


@frozen(kw_only=True)
class Schedule:
    """A rematerialisation.

    Attributes
    ----------
    intervals : tuple of Retention
        In order of computation.
    cost : float
        Of all computations.
    peak : float
    proven : bool
        Whether no cheaper schedule exists (with at most `copies` intervals per node).
    """

    intervals: tuple[Retention, ...]
    cost: float
    peak: float
    proven: bool


def slot(i: int, j: int) -> int:
    """The slot in which node j may be computed on the way to node i."""
    return i * (i + 1) // 2 + j


def replay(graph: Graph, intervals: Sequence[Retention]) -> tuple[float, float]:
    """Cost and peak of a schedule, checked event by event.

    Raises
    ------
    InvalidInput
        If a computation lacks an input, a copy is not held in the slot that computes it, or a node
        is never computed.
    """
    done: set[int] = set()
    peak = cost = 0.0
    for r in sorted(intervals, key=lambda r: r.start):
        if r.end < r.start:
            raise InvalidInput(f"Node {r.node} is not held while it is computed.")
        now = [x for x in intervals if x.start <= r.start <= x.end]
        held = {x.node for x in now if x.start < r.start}
        missing = [u for u in graph.needs[r.node] if u not in held]
        if missing:
            raise InvalidInput(f"Node {r.node} is computed without node {missing[0]}.")
        peak = max(peak, sum(graph.size[x.node] for x in now))
        cost += graph.cost[r.node]
        done.add(r.node)
    if len(done) < len(graph.cost):
        raise InvalidInput("The schedule leaves a node out.")
    return cost, peak


def keep_everything(graph: Graph) -> Schedule:
    """Each node computed once and held to its last use."""
    n = len(graph.cost)
    last = list(range(n))
    for v, inputs in enumerate(graph.needs):
        for u in inputs:
            last[u] = max(last[u], v)
    found = tuple(Retention(node=v, start=slot(v, v), end=slot(last[v], last[v])) for v in range(n))
    cost, peak = replay(graph, found)
    return Schedule(intervals=found, cost=cost, peak=peak, proven=True)


RULES = tuple((d, c) for d in (0.0, 0.5, 1.0, 2.0) for c in (0.5, 1.0, 2.0, 4.0))
"""Exponents of distance and of recomputation cost in what the greedy schedule drops."""


def greedy(graph: Graph, budget: float) -> Schedule | None:
    """The cheapest of several greedy schedules within `budget`; None if all get stuck."""
    tried = (_greedy(graph, budget, *rule) for rule in RULES)
    return min((s for s in tried if s is not None), key=lambda s: s.cost, default=None)


def _greedy(graph: Graph, budget: float, far: float, dear: float) -> Schedule | None:
    """Drop what is large, used late and cheap to have again.

    Before each node the inputs that are missing are computed again with theirs, in order. Where
    memory is short, one of the values the next computations do not read goes. A starting point for
    the solver, and an answer where it finds none.
    """
    n = len(graph.cost)
    users: list[list[int]] = [[] for _ in range(n)]
    for v, inputs in enumerate(graph.needs):
        for u in inputs:
            users[u].append(v)
    held: dict[int, list[int]] = {}  # node: [slot of its computation, slot of its last use]
    out: list[Retention] = []

    def drop(u: int) -> None:
        start, last = held.pop(u)
        out.append(Retention(node=u, start=start, end=last))

    for i in range(n):
        missing: set[int] = set()
        todo = [i]
        while todo:
            for u in graph.needs[todo.pop()]:
                if u not in held and u not in missing:
                    missing.add(u)
                    todo.append(u)
        sequence = [*sorted(missing), i]
        for place, j in enumerate(sequence):
            wanted = {u for v in sequence[place:] for u in graph.needs[v]}
            load = sum(graph.size[u] for u in held) + graph.size[j]
            while load > budget:
                spare = [u for u in held if u not in wanted]
                if not spare:
                    return None
                nearest = {u: next((v for v in users[u] if v > i), 2 * n) for u in spare}
                value = {
                    u: (nearest[u] - i) ** far * graph.size[u] / _again(graph, u, held) ** dear
                    for u in spare
                }
                worst = max(spare, key=lambda u: value[u])
                load -= graph.size[worst]
                drop(worst)
            now = slot(i, j)
            for u in graph.needs[j]:
                held[u][1] = now
            held[j] = [now, now]
            rest = {u for v in sequence[place + 1 :] for u in graph.needs[v]}
            for u in [u for u in held if u not in rest and u != i and not _later(users[u], i)]:
                drop(u)
    for u in list(held):
        drop(u)
    found = tuple(sorted(out, key=lambda r: r.start))
    cost, peak = replay(graph, found)
    return Schedule(intervals=found, cost=cost, peak=peak, proven=False)


def _again(graph: Graph, node: int, held: dict[int, list[int]]) -> float:
    """Cost of computing a node again from what is held now."""
    cost, todo, seen = 0.0, [node], {node}
    while todo:
        v = todo.pop()
        cost += graph.cost[v]
        for u in graph.needs[v]:
            if u not in held and u not in seen:
                seen.add(u)
                todo.append(u)
    return cost


def _later(users: Sequence[int], i: int) -> bool:
    return any(v > i for v in users)


def solve(
    graph: Graph, budget: float, *, copies: int = 2, seconds: float = 30.0, workers: int = 1
) -> Schedule:
    """Least total cost with peak at most `budget`.

    Raises
    ------
    DoesNotFit
        If no schedule with at most `copies` computations per node fits.
    MissingExtra
        If OR-tools is not installed.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise MissingExtra("Rematerialisation by constraint programming", "cp") from None
    model: Any = cp_model.CpModel()
    n = len(graph.cost)
    horizon = slot(n - 1, n - 1)
    # Whole numbers stay as they are; others are cut finely, sizes upwards.
    scale = whole_number_scale((*graph.size, budget), 1e6)
    sizes = [max(1, math.ceil(s * scale)) for s in graph.size]
    price = whole_number_scale(graph.cost, 1e4)
    starts: dict[tuple[int, int], Any] = {}
    ends: dict[tuple[int, int], Any] = {}
    used: dict[tuple[int, int], Any] = {}
    spans, demands = [], []
    for v in range(n):
        slots = cp_model.Domain.FromValues([slot(i, v) for i in range(v, n)])
        for k in range(copies):
            s = model.NewIntVarFromDomain(slots, f"s{v},{k}")
            e = model.NewIntVar(0, horizon, f"e{v},{k}")
            a = model.NewBoolVar(f"a{v},{k}")
            # At least its own slot: an output takes memory while it is computed, read or not.
            length = model.NewIntVar(1, horizon + 1, "")
            spans.append(model.NewOptionalIntervalVar(s, length, e + 1, a, ""))
            demands.append(sizes[v])
            starts[v, k], ends[v, k], used[v, k] = s, e, a
            if k:
                model.AddImplication(a, used[v, k - 1])
                model.Add(s > ends[v, k - 1]).OnlyEnforceIf(a)
        model.Add(starts[v, 0] == slot(v, v))
        model.Add(used[v, 0] == 1)
    for v in range(n):
        for u in graph.needs[v]:
            for k in range(copies):
                covers = []
                for m in range(copies):
                    c = model.NewBoolVar("")
                    model.AddImplication(c, used[u, m])
                    model.Add(starts[u, m] < starts[v, k]).OnlyEnforceIf(c)
                    model.Add(ends[u, m] >= starts[v, k]).OnlyEnforceIf(c)
                    covers.append(c)
                model.AddBoolOr([*covers, used[v, k].Not()])
    model.AddCumulative(spans, demands, math.floor(budget * scale))
    model.Minimize(sum(round(graph.cost[v] * price) * used[v, k] for v, k in used))
    start = greedy(graph, budget)
    if start is not None:
        counts = Counter(r.node for r in start.intervals)
        start = start if max(counts.values()) <= copies else None
    if start is not None:
        _hint(model, start, starts, ends, used)
    solver: Any = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    status = solver.Solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        if start is not None:
            return start
        plain = keep_everything(graph)
        raise DoesNotFit(
            f"No schedule with at most {copies} computations per node was found within "
            f"{budget:.4g} bytes in {seconds:g} s; holding everything to its last use needs "
            f"{plain.peak:.4g}. Raise the budget, the copies or the time.",
            needed_bytes=plain.peak, available_bytes=budget,
        )  # fmt: skip
    found = tuple(sorted(
        (Retention(node=v, start=solver.Value(starts[v, k]), end=solver.Value(ends[v, k]))
         for v, k in used if solver.Value(used[v, k])), key=lambda r: r.start,
    ))  # fmt: skip
    cost, peak = replay(graph, found)
    return Schedule(intervals=found, cost=cost, peak=peak, proven=status == cp_model.OPTIMAL)


def _hint(model: Any, start: Schedule, starts: dict, ends: dict, used: dict) -> None:
    """Tell the solver a schedule that fits."""
    seen: Counter[int] = Counter()
    for r in start.intervals:
        k = seen[r.node]
        seen[r.node] += 1
        model.AddHint(starts[r.node, k], r.start)
        model.AddHint(ends[r.node, k], r.end)
    for (v, k), a in used.items():
        model.AddHint(a, k < seen[v])


def whole_number_scale(values: Sequence[float], resolution: float) -> float:
    """Factor that turns values into whole numbers, exactly where they are whole already."""
    if all(float(v).is_integer() for v in values) and max(values) < resolution:
        return 1.0
    return resolution / max(values)


def training_chain(forward: Sequence[float], size: Sequence[float]) -> Graph:
    """A chain of layers forward and backward: backward i reads backward i + 1 and output i - 1.

    The gradient of layer i takes twice its forward cost and has the size of its input.
    """
    n = len(forward)
    cost = [*forward, *(2.0 * f for f in reversed(forward))]
    sizes = [*size, *reversed([size[0], *size[:-1]])]
    needs: list[tuple[int, ...]] = [() if i == 0 else (i - 1,) for i in range(n)]
    for j in range(n):
        i = n - 1 - j
        inputs = [n + j - 1] if j else [n - 1]
        if i > 0 and i - 1 not in inputs:
            inputs.append(i - 1)
        needs.append(tuple(sorted(inputs)))
    return Graph(cost=tuple(cost), size=tuple(sizes), needs=tuple(needs))
