"""Cephalo: unequal GPUs, their share of the batch decided apart from their share of the state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

from attrs import evolve, frozen

from ...errors import DoesNotFit
from ...hardware import load_accelerator
from ..method import MethodReport, Setting, TrainingMethod

STATE_BYTES = 16.0
"""Weights, gradients and Adam's state per parameter in mixed precision."""


@frozen(kw_only=True)
class Worker:
    """One device: seconds and bytes per sequence, and its memory."""

    name: str
    sequence_s: float
    fixed_s: float
    sequence_bytes: float
    capacity_bytes: float


@frozen(kw_only=True)
class Assignment:
    """Sequences and state bytes per worker, and the step they give."""

    sequences: tuple[int, ...]
    state_bytes: tuple[float, ...]
    step_s: float


def balance(workers: Sequence[Worker], batch: int, state_bytes: float) -> Assignment:
    """Split a batch and a sharded state over unequal workers so that the slowest ends soonest.

    Within a time t worker i computes at most floor((t - fixed) / each) sequences, and as many as
    fit; what its activations leave of its memory holds state. t is feasible if the batch is
    computed and the state held; the smallest feasible t is one of finitely many, found by halving
    over them, hence exact. Micro-batches of one sequence: activations of one at a time.

    Raises
    ------
    DoesNotFit
        If the workers together cannot hold the state and one sequence each.
    """
    active = [w for w in workers if w.capacity_bytes > w.sequence_bytes]
    room = sum(w.capacity_bytes - w.sequence_bytes for w in active)
    if room < state_bytes:
        raise DoesNotFit(
            f"The workers hold {room / 2**30:,.0f} GiB beside one sequence each; the model's state "
            f"takes {state_bytes / 2**30:,.0f} GiB. Add devices or a sharded optimizer in 8 bits.",
            needed_bytes=state_bytes, available_bytes=room,
        )  # fmt: skip
    times = sorted({w.fixed_s + k * w.sequence_s for w in active for k in range(1, batch + 1)})
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        if sum(_most(w, times[middle]) for w in active) >= batch:
            high = middle
        else:
            low = middle + 1
    limit = times[low]
    counts = [_most(w, limit) if w in active else 0 for w in workers]
    # Give back what is too much, the slowest first.
    order = sorted(range(len(workers)), key=lambda i: -workers[i].sequence_s)
    for i in order:
        spare = sum(counts) - batch
        counts[i] -= min(counts[i], spare)
    held = [w.capacity_bytes - (w.sequence_bytes if n else 0.0) for w, n in zip(workers, counts)]
    total = sum(held)
    took = [w.fixed_s + n * w.sequence_s for w, n in zip(workers, counts) if n]
    return Assignment(
        sequences=tuple(counts), state_bytes=tuple(state_bytes * h / total for h in held),
        step_s=max(took),
    )  # fmt: skip


def _most(w: Worker, limit_s: float) -> int:
    return max(0, math.floor((limit_s - w.fixed_s) / w.sequence_s + 1e-9))


@final
class Cephalo(TrainingMethod):
    """An unequal cluster trained by even shares, by shares of speed, and by both apart.

    The cluster is the asked-for device and two slower ones, `second` and `third` of each per
    device. Even sharding makes the smallest memory the limit; sharding by speed alone overfills
    fast devices; deciding compute and state apart keeps all busy.

    References
    ----------
    Guo et al. 2024, Cephalo, arXiv 2411.01075.
    """

    title: ClassVar[str] = "unequal GPUs: the batch split apart from the state"
    reference: ClassVar[str] = "Cephalo, arXiv 2411.01075"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "batch": (128.0, "sequences of a step"),
        "v100": (4.0, "V100 16 GB beside the devices asked for"),
        "t4": (4.0, "T4 beside them"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        kinds = [
            (setting.device.id, setting.count), ("v100-sxm2-16gb", round(settings["v100"])),
            ("t4", round(settings["t4"])),
        ]  # fmt: skip
        workers: list[Worker] = []
        for name, count in kinds:
            worker = _worker(evolve(setting, device=load_accelerator(name)).alone())
            workers += [evolve(worker, name=f"{name} {i}") for i in range(count)]
        batch = round(settings["batch"])
        state = STATE_BYTES * setting.model.parameters
        best = balance(workers, batch, state)
        even = -(-batch // len(workers))
        records: list[dict[str, Any]] = []
        place = 0
        for name, count in kinds:
            if not count:
                continue
            w = workers[place]
            need = state / len(workers) + w.sequence_bytes
            records.append({
                "device": name, "count": count, "sequence_s": w.sequence_s,
                "sequences": best.sequences[place], "state_bytes": best.state_bytes[place],
                "even_fits": need <= w.capacity_bytes,
                "even_s": w.fixed_s + even * w.sequence_s,
            })  # fmt: skip
            place += count
        slow = max(r["even_s"] for r in records)
        fits = all(r["even_fits"] for r in records)
        return MethodReport(
            title=f"{batch} sequences over {len(workers)} unequal devices",
            columns=("device", "count", "sequence_s", "sequences", "state_bytes", "even_fits",
                     "even_s"),
            records=records,
            conclusion=f"Split by speed and memory apart, a step takes {best.step_s:.3g} s; even "
            f"shares take {slow:.3g} s" + ("." if fits else " and do not fit the smallest memory."),
        )  # fmt: skip


def _worker(one: Setting) -> Worker:
    first, second = one.compute_s(1), one.compute_s(2)
    model = one.model
    # Whole layers computed again: a boundary per layer, and one layer's insides.
    kept = 2.0 * one.sequence_tokens * model.hidden * model.depth
    inside = 34.0 * one.sequence_tokens * model.hidden
    each = max(second - first, 1e-9)
    return Worker(
        name=one.device.id, sequence_s=each * 4.0 / 3.0, fixed_s=max(first - each, 0.0),
        sequence_bytes=kept + inside, capacity_bytes=0.9 * one.device.memory.capacity_bytes,
    )  # fmt: skip


METHOD = Cephalo()
