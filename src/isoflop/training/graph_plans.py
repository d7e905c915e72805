"""Chen et al.'s sublinear plans on a model's own graph: segments between cuts, and recursion.

A plan is the slots in which every node is computed (`eviction.Slots`); its cost and peak come from
the same checker that replays every other schedule.

References
----------
Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174: algorithm 3
(a budget for each segment, searched over), and recursion (section 4.4).
"""

from __future__ import annotations

from collections.abc import Sequence

from .eviction import Slots, prune, retentions
from .layer_graph import LayerGraph
from .moccasin import Schedule, replay, slot

BUDGETS = 12
"""Segment sizes tried around the square root of the graph's."""


def _segments(step: LayerGraph, budget: float) -> list[tuple[int, int]]:
    """First and last node of segments that end at cuts and fill about `budget` bytes each."""
    out, start, held = [], 0, 0.0
    cuts = set(step.cuts)
    for v in range(step.forward - 1):
        held += step.graph.size[v]
        if v in cuts and held >= budget:
            out.append((start, v))
            start, held = v + 1, 0.0
    return [*out, (start, step.forward - 1)]


def _schedule(step: LayerGraph, again: Sequence[tuple[int, int, int]]) -> Schedule:
    """The schedule in which nodes first..last are computed again on the way to node `stage`."""
    slots: Slots = [[slot(v, v)] for v in range(len(step.graph.cost))]
    for stage, first, last in again:
        for v in range(first, last + 1):
            slots[v].append(slot(stage, v))
    slots = [sorted(set(at)) for at in slots]
    prune(step.graph, slots)
    found = retentions(step.graph, slots)
    cost, peak = replay(step.graph, found)
    return Schedule(intervals=found, cost=cost, peak=peak, proven=False)


def _back(step: LayerGraph, last: int) -> int:
    """The first backward node of a segment that ends with node `last`."""
    return 2 * step.forward - 1 - last


def segmented(step: LayerGraph, budget: float) -> Schedule:
    """Segments of about `budget` bytes keep their last output and are computed again, once."""
    parts = _segments(step, budget)
    # The last output of a segment is what it keeps; the last segment is not dropped at all.
    again = [(_back(step, last), first, last - 1) for first, last in parts[:-1]]
    return _schedule(step, again)


def sublinear(step: LayerGraph) -> Schedule:
    """The leanest of the plans by segments, over segment budgets: O(sqrt(n)) values held."""
    total = sum(step.graph.size[: step.forward])
    most = max(step.graph.size[: step.forward])
    sizes = [most * (total / most) ** (k / BUDGETS) for k in range(BUDGETS)]
    return min((segmented(step, b) for b in sizes), key=lambda s: (s.peak, s.cost))


def recursive(step: LayerGraph) -> Schedule:
    """Halves, and halves of halves, down to single segments between cuts."""
    parts = _segments(step, 0.0)
    again: list[tuple[int, int, int]] = []

    def solve(first: int, last: int, known: bool) -> None:
        """Go back through segments first..last whose input is held; `known`: just computed."""
        stage = _back(step, parts[last][1])
        if first == last:
            if not known:
                again.append((stage, parts[first][0], parts[first][1]))
            return
        middle = (first + last) // 2
        if not known:
            again.append((stage, parts[first][0], parts[middle][1]))
        solve(middle + 1, last, known)
        solve(first, middle, False)

    solve(0, len(parts) - 1, True)
    return _schedule(step, again)
