"""Interleaving where stages or their chunks hold unequal numbers of layers.

Chunk k of a model in p stages of v chunks lies on stage k mod p. For even stages the bubble is
(p - 1)(F + B) / v (Narayanan et al. 2021, section 2.2). Where chunks differ, stages wait for each
other in the steady state too: a formula of that kind (the slowest stage's time per micro-batch,
first chunks of the stages before it, last chunks of those after it), exact for even stages, misses
single layouts by up to 20%. So the order of the schedule is followed visit by visit, for up to
MOST_ROUNDS rounds of p micro-batches; from there on every round takes as long as the last. No step
is shorter than its micro-batches times the slowest stage.
"""

from __future__ import annotations

import numpy as np

from ..cost.features import Array
from .plan import Plans, TrainingPlan
from .stages import (
    balanced,
    even_chunks,
    in_flight_at,
    layers_at,
    listed,
    spread,
    stage_list,
    uneven,
)

MOST_ROUNDS = 6
"""Rounds of p micro-batches that are followed; later ones are as long as the last, within 0.8% of
a step of 16 rounds."""


def interleaved_unevenly(plans: Plans) -> Array:
    """Which plans have several chunks per stage and say how many layers stages have."""
    return uneven(plans) & (plans.virtual > 1)


def chunk_layers(plans: Plans, depth: int) -> list[Array]:
    """Layers of every chunk of each plan, shape (stages, chunks); of a stage's chunks the later
    ones are the fuller, unless the plan lists them."""
    out = []
    given = listed(plans)
    for i in range(len(plans)):
        p, v = int(plans.pipeline[i]), int(plans.virtual[i])
        if given[i]:
            out.append(plans.stages[i, : p * v].reshape(v, p).T.astype(int))
            continue
        one = plans.take(slice(i, i + 1))
        totals = [int(layers_at(one, depth, np.array([s]))[0]) for s in range(p)]
        out.append(np.array([spread(n, v) for n in totals]))
    return out


def chunk_list(plan: TrainingPlan, depth: int) -> list[int]:
    """Layers of every chunk of one plan, in the model's order.

    Raises
    ------
    InvalidPlan
        If the plan's own numbers do not add up to `depth`.
    """
    stage_list(plan, depth)
    p, v = plan.pipeline, plan.virtual
    if plan.uneven and not plan.balanced:
        return chunk_layers(Plans.of([plan]), depth)[0].T.ravel().tolist()
    return even_chunks(depth, p * v)


def balanced_chunks(depth: int, stages: int, chunks: int, *, last: float) -> tuple[int, ...]:
    """Layers of every chunk, in the model's order, that make the slowest stage as quick as can be.

    Parameters
    ----------
    last : float
        What the head costs, in layers: it stands in the last chunk of the last stage.

    Raises
    ------
    InvalidPlan
        If there are fewer layers than stages.
    """
    columns = []
    for s, count in enumerate(balanced(depth, stages, last=last)):
        extra = [0.0] * (chunks - 1) + [last if s == stages - 1 else 0.0]
        held = [0] * chunks
        for _ in range(count):
            held[min(range(chunks), key=lambda c: (round(held[c] + extra[c], 9), -c))] += 1
        columns.append(held)
    return tuple(columns[k % stages][k // stages] for k in range(stages * chunks))


def bubble_s(
    plans: Plans, depth: int, forward: Array, layer: Array, head: Array, micro_batches: Array
) -> Array:  # fmt: skip
    """Seconds of a step beyond `micro_batches` times its slowest stage.

    Parameters
    ----------
    forward, layer, head : array
        Seconds of a micro-batch forward through one layer, both ways through it, and both ways
        through head and embedding, a third of that forward.
    """
    out = np.zeros(len(plans))
    for i, layers in enumerate(chunk_layers(plans, depth)):
        front, back = layers * forward[i], layers * (layer[i] - forward[i])
        front[-1, -1] += head[i] / 3.0
        back[-1, -1] += head[i] * 2.0 / 3.0
        slowest = (front + back).sum(axis=1).max()
        rounds = max(micro_batches[i] / len(layers), 1.0)
        run = int(min(rounds, MOST_ROUNDS))
        step = _rounds_s(front.tolist(), back.tolist(), run)
        if rounds > run:
            less = _rounds_s(front.tolist(), back.tolist(), run - 1) if run > 1 else 0.0
            step += (rounds - run) * (step - less)
        out[i] = max(step - micro_batches[i] * slowest, 0.0)
    return out


def _rounds_s(forward: list[list[float]], backward: list[list[float]], rounds: int) -> float:
    """Seconds of `rounds` rounds of p micro-batches, given seconds by stage and chunk.

    A stage visits its chunks p micro-batches at a time, forward first to last and back last to
    first; `fore[s]` and `back[s]` hold the ends of its visits in order.
    """
    p, v = len(forward), len(forward[0])
    count = rounds * p * v
    fore, back = ([[] for _ in range(p)] for _ in range(2))
    warm = [2 * (p - s - 1) + (v - 1) * p for s in range(p)]
    free = [0.0] * p

    def visit(s: int) -> bool:
        """Whether stage s could make its next visit."""
        nf, nb = len(fore[s]), len(back[s])
        ahead = nf < min(warm[s] + nb + 1, count)
        k, done = (nf, fore) if ahead else (nb, back)
        turn = k // p % v
        chunk = turn if ahead else v - 1 - turn
        if s != (0 if ahead else p - 1):
            source, at = done[s - 1 if ahead else s + 1], k
        elif turn > 0:  # the visit before, at the other end of the pipeline
            source, at = done[p - 1 - s], k - p
        elif ahead:
            source, at = (), -1
        else:  # forward through the last chunk
            source, at = fore[s], k + (v - 1) * p
        if at >= len(source):
            return False
        start = max(free[s], source[at]) if at >= 0 else free[s]
        free[s] = start + (forward if ahead else backward)[s][chunk]
        done[s].append(free[s])
        return True

    while len(back[0]) < count:
        for s in (*range(p), *range(p - 1, -1, -1)):
            while len(back[s]) < count and visit(s):
                pass
    return max(free)


def flying_at(plans: Plans, depth: int, micro_batches: Array, stage: Array) -> Array:
    """Micro-batches whose activations a stage holds at once, in whole stages, chunks weighed by
    their layers.

    A stage begins with 2 (p - s - 1) + (v - 1) p visits of chunks, then goes back once for every
    visit forward; which chunks are held changes from visit to visit and repeats every p v.
    """
    out = in_flight_at(plans, micro_batches, stage)
    own = np.flatnonzero(interleaved_unevenly(plans))
    for i, layers in zip(own, chunk_layers(plans.take(own), depth), strict=True):
        p, v = layers.shape
        s, total = int(stage[i]), int(micro_batches[i]) * v
        warm = min(2 * (p - s - 1) + (v - 1) * p, total)
        turns = np.arange(max(min(p * v, total - warm), 1))
        forward = _visits(np.minimum(warm + turns + 1, total), p, v)
        held = (forward - _visits(turns, p, v)[:, ::-1]) @ layers[s]
        out[i] = held.max() / max(layers[s].sum(), 1)
    return out


def _visits(count: Array, stages: int, chunks: int) -> Array:
    """How often each chunk was visited in the first `count` visits, shape (counts, chunks)."""
    rounds, inside = np.divmod(count, stages * chunks)
    part = np.clip(inside[:, None] - stages * np.arange(chunks), 0, stages)
    return rounds[:, None] * stages + part
