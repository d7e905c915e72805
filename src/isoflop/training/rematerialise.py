"""Recomputing activations: plans for a chain of layers, and a checker that replays any plan.

References
----------
Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174: segments of
sqrt(n) layers, and recursion.
Beaumont et al. 2019, Optimal checkpointing for heterogeneous chains, arXiv 1911.13214: the
dynamic program over (first layer, last layer, memory) used as the optimum here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

from attrs import frozen

from ..errors import DoesNotFit, InvalidInput

Action = tuple[Literal["forward", "keep", "backward", "drop"], int]
"""forward: compute layer i's output and forget its input's successors; keep: the same and hold the
output; backward: needs layer i's input; drop: forget layer i's output."""


@frozen(kw_only=True)
class Layer:
    """One layer of a chain.

    Attributes
    ----------
    forward : float
        Cost of computing its output from its input.
    size : float
        Bytes of its output.
    """

    forward: float
    size: float


@frozen(kw_only=True)
class Recomputation:
    """A plan and what it costs.

    Attributes
    ----------
    actions : tuple of Action
    forward : float
        Total forward cost, first computation included.
    peak : float
        Most bytes of layer outputs held at once.
    """

    actions: tuple[Action, ...]
    forward: float
    peak: float


def replay(chain: Sequence[Layer], actions: Sequence[Action]) -> Recomputation:
    """Run a plan and measure it.

    Layer i reads output i - 1 (the input of the chain is always there and free). `backward` of
    layer i needs output i - 1 and the backward of i + 1 done, and comes last to first.

    Raises
    ------
    InvalidInput
        If an action lacks what it needs, or a layer's backward never comes.
    """
    held: dict[int, float] = {}
    cost = peak = 0.0
    expected = len(chain) - 1
    for kind, i in actions:
        if not 0 <= i < len(chain):
            raise InvalidInput(f"The plan names layer {i} of {len(chain)}.")
        if kind in ("forward", "keep", "backward") and i > 0 and i - 1 not in held:
            raise InvalidInput(f"The plan does {kind} of layer {i} without its input.")
        if kind in ("forward", "keep"):
            cost += chain[i].forward
            held[i] = chain[i].size
            peak = max(peak, sum(held.values()))
            if kind == "forward":
                held.pop(i - 1, None)
        elif kind == "drop":
            held.pop(i, None)
        else:
            if i != expected:
                raise InvalidInput(f"The plan goes back through layer {i} before {expected}.")
            expected -= 1
            held.pop(i, None)
    if expected != -1:
        raise InvalidInput(f"The plan never goes back through layer {expected}.")
    return Recomputation(actions=tuple(actions), forward=cost, peak=peak)


def _all_of(
    kind: Literal["forward", "keep", "backward", "drop"], layers: Iterable[int]
) -> list[Action]:
    return [(kind, i) for i in layers]


def store_all(chain: Sequence[Layer]) -> Recomputation:
    """No recomputation."""
    n = len(chain)
    actions = _all_of("keep", range(n))
    actions += _all_of("backward", reversed(range(n)))
    return replay(chain, actions)


def segments(chain: Sequence[Layer], length: int = 0) -> Recomputation:
    """Chen et al.: keep the last output of every segment, recompute inside when going back.

    `length` 0 takes sqrt(n): memory 2 sqrt(n) outputs for one more forward pass.
    """
    n = len(chain)
    size = length or max(1, round(math.sqrt(n)))
    starts = list(range(0, n, size))
    ends = [min(s + size, n) - 1 for s in starts]
    actions: list[Action] = []
    for start, end in zip(starts[:-1], ends[:-1]):
        actions += _through(start, end)
    for start, end in zip(reversed(starts), reversed(ends)):
        actions += _all_of("keep", range(start, end + 1))
        actions += _all_of("backward", range(end, start - 1, -1))
    return replay(chain, actions)


def _through(start: int, end: int) -> list[Action]:
    """Compute output `end` from what `start` reads, which stays; nothing between stays."""
    return [*_all_of("keep", [start]), *_all_of("forward", range(start + 1, end + 1))]


def recursive(chain: Sequence[Layer]) -> Recomputation:
    """Chen et al.'s recursion by halves: log2(n) outputs held, log2(n) / 2 more forward passes."""
    actions: list[Action] = []

    def solve(start: int, end: int) -> None:
        if start == end:
            actions.extend([("keep", start), ("backward", start)])
            return
        middle = (start + end) // 2
        actions.extend(_through(start, middle))
        solve(middle + 1, end)
        actions.append(("drop", middle))
        solve(start, middle)

    solve(0, len(chain) - 1)
    return replay(chain, actions)


def optimal(chain: Sequence[Layer], budget: float, *, levels: int = 200) -> Recomputation:
    """Least recomputation whose peak stays within `budget`, by dynamic programming.

    Memory is cut into `levels` steps and sizes are rounded up to them, so a plan may be missed by
    one step and never exceeds the budget.

    Raises
    ------
    DoesNotFit
        If even the leanest plan needs more.
    """
    unit = budget / levels
    sizes = [math.ceil(layer.size / unit - 1e-9) for layer in chain]

    @cache
    def best(start: int, end: int, room: int) -> tuple[float, int]:
        """Least forward cost to go back through start..end, and the first output kept.

        Its input is held and not counted; `room` is free. The choice end means store all.
        """
        if sum(sizes[start : end + 1]) <= room:
            return sum(layer.forward for layer in chain[start : end + 1]), end
        found, choice = math.inf, -1
        walked = 0.0
        for k in range(start, end):
            walked += chain[k].forward
            # Walking to k holds two neighbouring outputs at a time.
            step = max(sizes[j] + (sizes[j - 1] if j > start else 0) for j in range(start, k + 1))
            if step > room or sizes[k] > room:
                continue
            after = best(k + 1, end, room - sizes[k])[0]
            before = best(start, k, room)[0]
            if walked + after + before < found:
                found, choice = walked + after + before, k
        return found, choice

    def build(start: int, end: int, room: int) -> list[Action]:
        _, k = best(start, end, room)
        if k == end:
            actions = _all_of("keep", range(start, end + 1))
            return actions + _all_of("backward", range(end, start - 1, -1))
        return [*_through(start, k), *build(k + 1, end, room - sizes[k]), ("drop", k),
                *build(start, k, room)]  # fmt: skip

    n = len(chain)
    if not math.isfinite(best(0, n - 1, levels)[0]):
        least = recursive(chain).peak
        raise DoesNotFit(
            f"No plan goes through {n} layers within {budget:.4g} bytes; recursion by halves needs "
            f"{least:.4g}.",
            needed_bytes=least, available_bytes=budget,
        )  # fmt: skip
    return replay(chain, build(0, n - 1, levels))
