"""What bounds the steps of an instance: each kind of step, and every second of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..cost.features import Array, Batch
from ..cost.matrix import roofline_s
from .loop.records import LOG_COLUMNS

if TYPE_CHECKING:
    from ..cost.step import StepModel

RESOURCES = ("compute", "memory", "network", "overhead")
IDLE = "idle"


def bound_shares(step: StepModel, batch: Batch, kernels_s: Array | None = None) -> dict[str, Array]:
    """Share of each step's time in operators bound by a resource; `overhead` is host and launches.

    Shapes are those of the batch; the shares of a step add up to 1. `kernels_s` are the seconds of
    its operators, shape (operators, *batch.shape), where they are known already.
    """
    parts = roofline_s(step.matrix, step.peaks, batch)
    names = list(parts)
    winner = np.argmax(np.stack([parts[n] for n in names]), axis=0)
    kernels = kernels_s
    if kernels is None:
        kernels = step.engine.scale(step.device.family) * step.operator_s(batch)
    overhead = step.overhead_s(batch)
    total = kernels.sum(axis=0) + overhead
    shares = {name: np.zeros(total.shape) for name in RESOURCES}
    for i, name in enumerate(names):
        at = np.where(winner == i, kernels, 0.0).sum(axis=0)
        shares[name if name in shares else "overhead"] += at / total
    shares["overhead"] += overhead / total
    return shares


def logged_batch(step: StepModel, log: Array) -> Batch:
    """The steps of an event log as one batch each, per attention group and pipeline stage."""
    at = {name: log[:, i] for i, name in enumerate(LOG_COLUMNS)}
    decoding = at["decoding"] / (step.plan.data * step.plan.pipeline)
    prompts = at["kind"] > 0
    return Batch(
        decode_sequences=decoding, decode_context=np.where(decoding > 0, at["context"], 0.0),
        prefill_sequences=prompts.astype(float),
        prefill_tokens=np.where(prompts, at["amount"], 0.0) / step.plan.data,
    )  # fmt: skip


def over_time(step: StepModel, log: Array, bins: int = 120) -> tuple[Array, dict[str, Array]]:
    """Edges of equal stretches of a run, (bins + 1,), and what bound each of them.

    Shares of a stretch's time by resource, (bins,), and `idle` for the time without a step. A run
    of decoding steps counts evenly over its length.
    """
    start, seconds = log[:, 0], log[:, 1]
    edges = np.linspace(float(start[0]), float((start + seconds)[-1]), bins + 1)
    times = np.stack([start, start + seconds], axis=1).ravel()
    shares = bound_shares(step, logged_batch(step, log))
    width = np.diff(edges)
    found = {}
    for name, share in shares.items():
        spent = np.cumsum(share * seconds)
        passed = np.stack([np.concatenate([[0.0], spent[:-1]]), spent], axis=1).ravel()
        found[name] = np.diff(np.interp(edges, times, passed)) / width
    found[IDLE] = np.maximum(0.0, 1.0 - sum(found.values()))
    return edges, found


def with_pauses(log: Array) -> Array:
    """The log with a row of zeros from the end of each step that none follows at once.

    A row holds until the next one begins, so the pauses show.
    """
    ends = log[:, 0] + log[:, 1]
    gaps = np.append(log[1:, 0], np.inf) - ends > 1e-9
    pauses = np.zeros((int(gaps.sum()), log.shape[1]))
    pauses[:, 0] = ends[gaps]
    both = np.concatenate([log, pauses])
    return both[np.argsort(both[:, 0], kind="stable")]
