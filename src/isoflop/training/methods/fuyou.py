"""Fuyou: one GPU, host memory and NVMe, with the activations to swap chosen by cost."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from attrs import frozen

from ...cost.features import Array
from ..method import MethodReport, Setting, TrainingMethod

WEIGHT_BYTES = 2.0
GRADIENT_BYTES = 2.0
STATE_BYTES = 12.0
"""fp32 weights and two moments of Adam, read and written once per step."""
ACTIVATION_FACTOR = 34.0
"""Bytes of activations per token and hidden unit of a layer (Korthikanti et al. 2022), less the
attention matrix that fused kernels do not keep."""


@frozen(kw_only=True)
class _Machine:
    compute_s: float  # forward of one step
    parameters: float
    activation_bytes: float  # beyond one boundary per layer
    pcie: float
    read: float
    write: float
    adam: float  # bytes per second of optimizer state


@final
class Fuyou(TrainingMethod):
    """Step time of fine-tuning a model far larger than its GPU, by what overlaps.

    Weights live on SSD, states too; every layer is fetched over SSD and PCIe beside the compute of
    the one before. `synchronous` runs the optimizer after the backward pass; `overlapped` updates a
    layer on the CPU as soon as its gradient arrives. A share x of the activations is swapped out
    (PCIe, then SSD) and the rest computed again; the step is the largest of what compute, PCIe and
    SSD need in each pass, piecewise linear in x, and the chosen x is its exact minimum.

    References
    ----------
    Liao et al. 2024, Adding NVMe SSDs to Enable and Accelerate 100B Model Fine-tuning on a Single
    GPU, arXiv 2403.06504.
    """

    title: ClassVar[str] = "one GPU with NVMe: overlap, and activation swapping chosen by cost"
    reference: ClassVar[str] = "Fuyou, arXiv 2403.06504"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "batch": (16.0, "sequences of a step"),
        "ssds": (12.0, "NVMe drives"),
        "ssd_read": (6.5, "GB/s of one drive, reading"), "ssd_write": (3.5, "GB/s, writing"),
        "pcie": (21.0, "GB/s per direction that the link reaches"),
        "adam": (40.0, "GB/s of optimizer state that the CPU updates"),
    }  # fmt: skip

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        s, one = settings, setting.alone()
        batch = int(s["batch"])
        job = one.compute_s(batch)
        model = setting.model
        tokens = batch * setting.sequence_tokens
        machine = _Machine(
            compute_s=job / 3.0, parameters=float(model.parameters),
            activation_bytes=ACTIVATION_FACTOR * tokens * model.hidden * model.depth,
            pcie=s["pcie"] * 1e9, read=s["ssds"] * s["ssd_read"] * 1e9,
            write=s["ssds"] * s["ssd_write"] * 1e9, adam=s["adam"] * 1e9,
        )  # fmt: skip
        flop = 3.0 * 2.0 * model.active_parameters * tokens
        records: list[dict[str, Any]] = []
        for name, swap, overlapped in (
            ("recompute all, synchronous", 0.0, False), ("swap all, synchronous", 1.0, False),
            ("recompute all, overlapped", 0.0, True), ("swap all, overlapped", 1.0, True),
            ("chosen, overlapped", None, True),
        ):  # fmt: skip
            x = best_swap(machine) if swap is None else swap
            forward, backward, after = passes(machine, np.array(x), overlapped)
            total = float(forward + backward + after)
            records.append({
                "way": name, "swapped": float(x), "forward_s": float(forward),
                "backward_s": float(backward), "optimizer_s": float(after), "step_s": total,
                "tflop_per_s": flop / total / 1e12,
            })  # fmt: skip
        first, last = records[0], records[-1]
        return MethodReport(
            title=f"{model.name}, {batch} sequences, {s['ssds']:.0f} drives",
            columns=("way", "swapped", "forward_s", "backward_s", "optimizer_s", "step_s",
                     "tflop_per_s"),
            records=records,
            conclusion=f"Overlap and {last['swapped']:.0%} of the activations swapped make a step "
            f"{first['step_s'] / last['step_s']:.2f} times as fast as recomputing all with the "
            "optimizer afterwards.",
        )  # fmt: skip


def passes(m: _Machine, swapped: Array, overlapped: bool) -> tuple[Array, Array, float]:
    """Seconds of forward, backward and what follows, at a swapped share of the activations."""
    weights = WEIGHT_BYTES * m.parameters
    out = swapped * m.activation_bytes
    forward = np.maximum.reduce([
        np.full_like(out, m.compute_s), np.full_like(out, weights / m.pcie), out / m.pcie,
        weights / m.read + out / m.write,
    ])  # fmt: skip
    gradients = GRADIENT_BYTES * m.parameters
    states = STATE_BYTES * m.parameters
    compute = 2.0 * m.compute_s + (1.0 - swapped) * m.compute_s
    inward = (weights + out) / m.pcie
    outward = np.full_like(out, gradients / m.pcie)
    disk = (weights + out) / m.read
    update = states / m.adam
    traffic = states / m.read + (states + weights) / m.write
    if overlapped:
        backward = np.maximum.reduce([
            compute, inward, outward, disk + traffic, np.full_like(out, update)
        ])  # fmt: skip
        return forward, backward, 0.0
    backward = np.maximum.reduce([compute, inward, outward, disk])
    return forward, backward, max(update, traffic)


def best_swap(m: _Machine) -> float:
    """The share of activations whose swapping makes the overlapped step shortest.

    The step is convex and piecewise linear in it, so the minimum lies at an end or a crossing;
    golden-section search finds it to a millionth.
    """
    low, high = 0.0, 1.0
    ratio = (np.sqrt(5.0) - 1.0) / 2.0

    def total(x: float) -> float:
        forward, backward, after = passes(m, np.array(x), True)
        return float(forward + backward) + after

    while high - low > 1e-7:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if total(a) <= total(b) else (a, high)
    return min((0.0, 1.0, (low + high) / 2.0), key=total)


METHOD = Fuyou()
