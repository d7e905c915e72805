"""What a little more of one thing would change, in the closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attrs import evolve

from .candidates import evaluate
from .curve import Candidate, Load
from .slo import Promise

CHANGE = 1.2


def sensitivity(
    best: Candidate, load: Load, promises: Sequence[Promise], fleet: int
) -> list[dict[str, Any]]:
    """Devices and time per token of the best plan with 20% more bandwidth, memory, rate, traffic.

    Each row: what changed, the fewest devices of the same plan that keep the promises in the
    closed form, its mean time per token, and the largest load one replica carries.
    """
    step = best.step
    memory, rates = step.device.memory, step.device.rates
    who = "clients" if load.clients else "traffic"
    cases = {
        "as it is": (step.device, load),
        "20% more memory bandwidth": (evolve(step.device, memory=evolve(
            memory, bandwidth_bytes_per_s=memory.bandwidth_bytes_per_s * CHANGE)), load),
        "20% more memory": (evolve(step.device, memory=evolve(
            memory, capacity_bytes=memory.capacity_bytes * CHANGE)), load),
        "20% more matrix rate": (evolve(step.device, rates=evolve(
            rates, dense_flop_per_s={k: v * CHANGE for k, v in rates.dense_flop_per_s.items()})),
            load),
        f"20% more {who}": (step.device, _times(load, CHANGE)),
        f"twice the {who}": (step.device, _times(load, 2)),
    }  # fmt: skip
    rows = []
    for what, (device, demand) in cases.items():
        found, rejected, _ = evaluate(
            step.model, device, step.cluster, step.engine, step.plan, demand, promises, 16 * fleet,
            load.longest, split=best.prefills > 0, shared=step.shared,
        )  # fmt: skip
        same = [c for c in found if (c.max_sequences, c.max_tokens, c.share, c.prefills > 0) ==
                (best.max_sequences, best.max_tokens, best.share, best.prefills > 0)]  # fmt: skip
        if same:
            c = same[0]
            rows.append({"change": what, "devices": c.devices, "tpot_s": c.tpot_s,
                         "batch": c.batch})  # fmt: skip
        else:
            why = rejected[0].why if rejected else "no longer fits"
            rows.append({"change": what, "devices": None, "tpot_s": None, "batch": None,
                         "why": why})  # fmt: skip
    return rows


def _times(load: Load, factor: float) -> Load:
    """The load with so many times the requests, or clients."""
    return evolve(load, requests_per_s=load.requests_per_s * factor,
                  clients=math.ceil(load.clients * factor))  # fmt: skip
