"""Layers per pipeline stage: spread evenly, by first and last stage, listed, or balanced.

Where layers do not divide, the later stages take one more: they hold fewer micro-batches in
flight. The first and the last stage may be given fewer, to make room for embedding and head.
"""

from __future__ import annotations

import numpy as np

from ..cost.features import Array
from ..errors import InvalidPlan
from .plan import SCHEDULES, Plans, TrainingPlan

DUALPIPE, GPIPE, ZERO_BUBBLE = (SCHEDULES.index(s) for s in ("dualpipe", "gpipe", "zero-bubble"))


def uneven(plans: Plans) -> Array:
    """Which plans say how many layers their stages have."""
    return (plans.first > 0) | (plans.last > 0) | listed(plans)


def listed(plans: Plans) -> Array:
    """Which plans list the layers of every chunk."""
    return np.any(plans.stages >= 0, axis=1, keepdims=False)


def layers_at(plans: Plans, depth: int, stage: Array) -> Array:
    """Layers of a stage, counted from 0, all its chunks together, of plans that say how many theirs
    have."""
    p = plans.pipeline
    given = (plans.first > 0).astype(int), (plans.last > 0).astype(int)
    between = np.maximum(p - given[0] - given[1], 1)
    rest = np.maximum(depth - plans.first - plans.last, 0)
    low, more = rest // between, rest % between
    place = stage - given[0]
    spread = low + (place >= between - more)
    out = np.where((stage == 0) & (plans.first > 0), plans.first, spread)
    out = np.where((stage == p - 1) & (plans.last > 0), plans.last, out)
    given = listed(plans)
    if given.any():
        width = plans.stages.shape[1]
        total = np.zeros_like(p)
        for chunk in range(int(plans.virtual[given].max())):
            at = stage + chunk * p
            here = plans.stages[np.arange(len(plans)), np.minimum(at, width - 1)]
            total = total + np.where((at < width) & (chunk < plans.virtual), here, 0)
        out = np.where(given, total, out)
    return out


def corner_stages(plans: Plans, depth: int) -> list[Array]:
    """Stages among which the one with most memory or layers lies.

    The first of every run of equal stages, where most micro-batches are in flight, and the last.
    """
    p = plans.pipeline
    between = np.maximum(p - (plans.first > 0) - (plans.last > 0), 1)
    rest = np.maximum(depth - plans.first - plans.last, 0)
    fuller = (plans.first > 0) + between - rest % between
    corners = [np.zeros_like(p), np.minimum(1, p - 1), np.minimum(fuller, p - 1), p - 1]
    most = int(p[listed(plans)].max(initial=0))
    return corners + [np.minimum(s, p - 1) for s in range(2, most - 1)]


def in_flight_at(plans: Plans, micro_batches: Array, stage: Array) -> Array:
    """Micro-batches whose activations a stage holds at once, in whole stages.

    GPipe keeps all; 1F1B p - s (Narayanan et al. 2021); zero-bubble p, since a stage that starts
    late puts off as many weight gradients (Qi et al. 2023, ZB-H1); interleaving
    1 + (p-1)/(p v) times as many on the first (Korthikanti et al. 2022, section 4.2.3); DualPipe
    p + 1 on all (DeepSeek-V3, table 2).
    """
    p, v = plans.pipeline.astype(float), plans.virtual.astype(float)
    more = (p - 2.0 * stage + p * v - 1.0) / v
    most = np.where(v > 1, more, p - stage)
    most = np.where(plans.schedule == ZERO_BUBBLE, p, most)
    most = np.where(plans.schedule == DUALPIPE, p + 1.0, most)
    most = np.where(plans.schedule == GPIPE, micro_batches, most)
    return np.minimum(most, micro_batches)


def stage_list(plan: TrainingPlan, depth: int) -> list[int]:
    """Layers of every stage of one plan; chunks of a stage counted together.

    Raises
    ------
    InvalidPlan
        If the plan's own numbers do not add up to `depth`.
    """
    p, v = plan.pipeline, plan.virtual
    if plan.uneven and not plan.balanced:
        one = Plans.of([plan])
        out = [int(layers_at(one, depth, np.array([s]))[0]) for s in range(p)]
        if sum(out) != depth or min(out) < 1:
            raise InvalidPlan(
                f"The stages hold {' + '.join(map(str, out))} = {sum(out)} layers and the model "
                f"has {depth}. Give each stage at least one, and all of them {depth} together."
            )
        return out
    sizes = even_chunks(depth, p * v)
    return [sum(sizes[s::p]) for s in range(p)]


def even_chunks(depth: int, chunks: int) -> list[int]:
    """Layers of every chunk in the model's order, where a plan does not say."""
    if depth % chunks and (depth + 2) % chunks == 0:
        # Embedding and head each take the place of a layer.
        even = (depth + 2) // chunks
        return [even - (k == 0) - (k == chunks - 1) for k in range(chunks)]
    return spread(depth, chunks)


def spread(layers: int, places: int) -> list[int]:
    """As evenly as can be, the later places the fuller."""
    low, more = divmod(layers, places)
    return [low + (k >= places - more) for k in range(places)]


def balanced(depth: int, stages: int, *, first: float = 0.0, last: float = 0.0) -> tuple[int, ...]:
    """Layers per stage that make the slowest stage as quick as can be.

    Parameters
    ----------
    first, last : float
        What embedding and head cost, in layers.

    Raises
    ------
    InvalidPlan
        If there are fewer layers than stages.
    """
    if depth < stages:
        raise InvalidPlan(f"{depth} layers cannot fill {stages} stages.")
    extra = [0.0] * stages
    extra[0] += first
    extra[-1] += last
    counts = [1] * stages
    # Adding each layer where the stage stays quickest is optimal: loads only grow. Of equal
    # stages the later one, which holds fewer micro-batches in flight, takes it.
    for _ in range(depth - stages):
        at = min(range(stages), key=lambda s: (round(counts[s] + extra[s], 9), -s))
        counts[at] += 1
    return tuple(counts)
