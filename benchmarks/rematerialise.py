"""Rematerialisation by retention intervals against the slot-by-slot formulation, on one solver.

    python -m benchmarks.rematerialise [seconds]

Both minimise the extra computation of random layered graphs under a memory budget with OR-tools
CP-SAT on one thread: Moccasin's O(n) integer variables (isoflop.training.moccasin), and Checkmate's
O(n^2) Booleans (Jain et al. 2020, arXiv 1910.02653: R[t, i] computes node i in stage t, S[t, i]
keeps it from stage t - 1; memory is accounted after every computation). Before them the schedule
found by dropping one value at a time and by windows of retention intervals, for which the graph may
have any size. Schedules of both retention-interval searches are replayed by the same checker.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from isoflop.errors import DoesNotFit, MissingExtra
from isoflop.training.moccasin import Graph, keep_everything, replay, solve
from isoflop.training.neighbourhood import search


def layered(n: int, seed: int = 0, width: int = 5) -> Graph:
    """Layers of `width` nodes, each reading one to three of the layer before, with some skips."""
    rng = np.random.default_rng(seed)
    needs: list[tuple[int, ...]] = []
    for v in range(n):
        layer = v // width
        if layer == 0:
            needs.append(())
            continue
        before = range((layer - 1) * width, layer * width)
        reads = set(rng.choice(before, int(rng.integers(1, 4)), replace=False).tolist())
        if layer > 3 and rng.random() < 0.2:
            reads.add(int(rng.integers(0, (layer - 2) * width)))
        needs.append(tuple(sorted(reads)))
    return Graph(
        cost=tuple(float(c) for c in rng.integers(1, 10, n)),
        size=tuple(float(s) for s in rng.integers(1, 10, n)), needs=tuple(needs),
    )  # fmt: skip


def checkmate(graph: Graph, budget: float, seconds: float) -> tuple[float | None, bool, int]:
    """Total cost, whether proven, and the number of variables of the O(n^2) formulation."""
    from ortools.sat.python import cp_model

    model: Any = cp_model.CpModel()
    n = len(graph.cost)
    keep = {(t, i): model.NewBoolVar("") for t in range(n) for i in range(t)}
    make = {(t, i): model.NewBoolVar("") for t in range(n) for i in range(t + 1)}
    users = [[v for v in range(n) if u in graph.needs[v]] for u in range(n)]
    for t in range(n):
        model.Add(make[t, t] == 1)
        for i in range(t + 1):
            for u in graph.needs[i]:
                # An input is kept into the stage or made in it, before i.
                model.AddBoolOr([make[t, i].Not(), make[t, u], *_maybe(keep, t, u)])
            if i < t:
                model.AddBoolOr([keep[t, i].Not(), make[t - 1, i], *_maybe(keep, t - 1, i)])
    count = len(keep) + len(make)
    limit, size = int(budget), [int(s) for s in graph.size]
    for t in range(n):
        used = sum(size[i] * keep[t, i] for i in range(t))
        for k in range(t + 1):
            # A value made or kept in the stage is freed after its last use there, unless kept on.
            used = used + size[k] * make[t, k]
            model.Add(used <= limit)
            for i in [*graph.needs[k], k]:
                if i == t:
                    continue
                free = model.NewBoolVar("")
                count += 1
                later = [make[t, v] for v in users[i] if k < v <= t]
                model.AddImplication(free, make[t, k])
                for x in later:
                    model.AddImplication(free, x.Not())
                if t + 1 < n:
                    model.AddImplication(free, keep[t + 1, i].Not())
                used = used - size[i] * free
    model.Minimize(sum(int(graph.cost[i]) * make[t, i] for t, i in make))
    solver: Any = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    status = solver.Solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, False, count
    return float(solver.ObjectiveValue()), status == cp_model.OPTIMAL, count


def _maybe(table: dict, t: int, i: int) -> list:
    return [table[t, i]] if (t, i) in table else []


def _windows(graph: Graph, budget: float, plain: float, seconds: float) -> None:
    """Print what eviction and windows find, replayed, and the bound below it."""
    began, cpu = time.perf_counter(), time.process_time()
    found = search(graph, budget, seconds=seconds)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    cost, peak = replay(graph, found.schedule.intervals)
    assert peak <= budget
    print(
        f"n={len(graph.cost):5d} budget 85%: evicted {found.start / plain - 1:+.2%}, "
        f"{found.windows} windows {cost / plain - 1:+.2%}, "
        f"no schedule below {found.bound / plain - 1:+.2%} "
        f"(gap {found.gap:.2%}), {wall:.1f} s, {cpu:.1f} CPU s",
        flush=True,
    )


def main() -> None:
    """Print both formulations at several sizes."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    sizes = [int(x) for x in sys.argv[2].split(",")] if len(sys.argv) > 2 else [25, 50, 100, 1000]
    for n in sizes:
        graph = layered(n)
        plain = keep_everything(graph)
        budget = float(int(0.85 * plain.peak))
        _windows(graph, budget, plain.cost, seconds)
        if n > 250:
            print(f"n={n:5d} whole: not built, above 1,000 integers", flush=True)
            continue
        began = time.perf_counter()
        try:
            found = solve(graph, budget, seconds=seconds)
            text = f"{found.cost / plain.cost - 1:+.2%} {'proven' if found.proven else 'best'}"
        except DoesNotFit:
            text = "nothing found"
        first = time.perf_counter() - began
        print(f"n={n:5d} whole: intervals {4 * n:7d} integers {text} {first:.1f} s", flush=True)
        began = time.perf_counter()
        cost, proven, count = checkmate(graph, budget, seconds)
        text = "nothing found" if cost is None else (
            f"{cost / plain.cost - 1:+.2%} {'proven' if proven else 'best'}"
        )  # fmt: skip
        second = time.perf_counter() - began
        print(f"        slot by slot {count:7d} Booleans {text} {second:.1f} s", flush=True)


if __name__ == "__main__":
    try:
        main()
    except MissingExtra as error:
        sys.exit(f"rematerialise: {error}")
