"""Sections about FLOP that do not tell the time: corrected FLOP, convolutions, training passes.

References
----------
Asperti et al. 2021, Dissecting FLOPs along Input Dimensions for GreenAI Cost Estimations,
arXiv 2107.11949: alpha-FLOPs.
Chen et al. 2023, Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks,
arXiv 2303.03667: FLOP and achieved FLOP/s of dense, depthwise and partial convolutions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..cost.features import Batch
from ..cost.kernels.gemm import gemm_time_s
from ..cost.operators.training import training_operators
from ..cost.step import StepModel
from ..cost.timing import linear
from ..formats import load_format
from ..units import show_bytes, show_flop, show_flop_rate, show_s

if TYPE_CHECKING:
    from .explain import Question
    from .sections import Section

RESOLUTIONS = (56, 28, 14, 7)
CHANNELS = (96, 192, 384, 768)
"""Stages of the usual four-stage vision backbone: 56x56x96 down to 7x7x768."""
IMAGES = 32
PARTIAL = 4
"""A partial convolution touches one channel in four (FasterNet)."""
KERNEL = 3


def corrected_flop(step: StepModel, question: Question) -> Section:
    """FLOP per operator, and the FLOP that a saturated product would do in its time.

    alpha = time x rate / FLOP. Asperti et al. fit alpha as a power of the parallel surface; here
    the kernel models give it for each operator, so it also holds where memory or launches bound.
    """
    batch = question.steps(question.batch / (step.plan.data * step.plan.pipeline))
    flop = step.matrix.cost(batch)["flop"]
    seconds = step.operator_s(batch)
    rows = []
    total = np.zeros(2)
    rate = step.device.matrix_rate(step.plan.formats.of("weights"))[0]
    for op, f, t in zip(step.operators, flop, seconds, strict=True):
        if op.kind not in ("gemm", "moe", "prefill", "decode", "mla_prefill", "mla_decode"):
            continue
        if float(f) <= 0:
            continue
        worth = float(t) * rate
        total += (float(f), worth)
        rows.append([op.name, show_flop(float(f)), f"{worth / float(f):.2f}", show_flop(worth)])
    note = (
        f"Products and attention do {show_flop(total[0])}; in their time the device could do "
        f"{show_flop(total[1])} at its dense rate: alpha {total[1] / total[0]:.2f}. Comparing "
        "models by FLOP is fair only where alpha is the same."
    )
    return "Corrected FLOP", ["operator", "FLOP", "alpha", "alpha-FLOP"], rows, note


def convolutions(step: StepModel, question: Question) -> Section:
    """Dense, depthwise and partial 3x3 convolutions: FLOP, bytes, time and achieved FLOP/s.

    Dense ones are products (implicit GEMM), priced by the calibrated kernel; depthwise ones have
    no product to speak of and run on the vector units at memory bandwidth; partial ones are dense
    over a quarter of the channels and leave the others in place.
    """
    del question
    p = step.timer.calibration.gemm["bf16"]
    shape = step.timer.shape
    rate = step.device.matrix_rate(load_format("bf16"))[0] * step.timer.headroom
    vector = step.device.rates.vector_flop_per_s
    rows = []
    speeds: dict[str, list[float]] = {"dense": [], "depthwise": [], "partial": []}
    for side, channels in zip(RESOLUTIONS, CHANNELS, strict=True):
        pixels = float(IMAGES * side * side)
        for kind in speeds:
            c = channels // PARTIAL if kind == "partial" else channels
            flop = 2.0 * KERNEL**2 * pixels * c * (1 if kind == "depthwise" else c)
            moved = 2.0 * 2.0 * pixels * c
            if kind == "depthwise":
                bandwidth = shape.bandwidth_bytes_per_s * p.memory
                seconds = p.fixed + max(flop / vector, moved / bandwidth)
            else:
                seconds = float(gemm_time_s(p, shape, pixels, float(c), float(c * KERNEL**2),
                                            rate_flop_per_s=rate))  # fmt: skip
            speeds[kind].append(flop / seconds)
            rows.append([
                f"{side}x{side}x{channels} {kind}", show_flop(flop), show_bytes(moved),
                f"{flop / moved:.3g}", show_s(seconds), show_flop_rate(flop / seconds),
            ])  # fmt: skip
    mean = {k: float(np.exp(np.mean(np.log(v)))) for k, v in speeds.items()}
    note = (
        f"On average depthwise convolutions achieve {mean['depthwise'] / mean['dense']:.1%} of the "
        f"FLOP/s of dense ones and partial ones {mean['partial'] / mean['dense']:.0%}: fewer FLOP, "
        "but slow ones. Batch of 32 images, bf16."
    )
    columns = ["convolution", "FLOP", "moved", "FLOP/B", "time", "achieved"]
    return "Convolutions: FLOP and achieved FLOP/s", columns, rows, note


def training(step: StepModel, question: Question) -> Section:
    """One training pass of the batch on this rank: forward, both gradients, optimizer."""
    from attrs import evolve

    plan = evolve(step.plan, pipeline=1, context=1)
    ops = training_operators(step.model, plan)
    n = float(question.batch)
    batch = Batch(prefill_sequences=n, prefill_tokens=float(question.context),
                  sampled_rows=np.array(n * question.context))  # fmt: skip
    rate = step.device.matrix_rate(step.plan.formats.of("weights"))[0]
    rows = []
    whole, work = 0.0, 0.0
    parts = {"forward": ops.forward, "input gradients": ops.input_gradient,
             "weight gradients": ops.weight_gradient}  # fmt: skip
    for name, found in parts.items():
        flop = sum(op.count * float(linear(op.flop, batch)) for op in found)
        moved = sum(op.count * float(linear(op.read, batch) + linear(op.written, batch))
                    for op in found)  # fmt: skip
        seconds = sum(op.count * float(step.timer.seconds(op, batch)) for op in found)
        whole, work = whole + seconds, work + flop
        bound = "compute" if flop / rate > moved / step.device.memory.bandwidth_bytes_per_s else (
            "memory")  # fmt: skip
        rows.append([name, show_flop(flop), show_bytes(moved), show_s(seconds), bound])
    # Adam in mixed precision: read gradient, master weight and two moments, write the last three
    # and the 16-bit weight: 2 + 12 + 12 + 2 bytes per parameter.
    parameters = step.model.parameters / plan.tensor
    moved = 28.0 * parameters
    seconds = moved / step.device.memory.bandwidth_bytes_per_s
    rows.append(["optimizer (Adam)", show_flop(12.0 * parameters), show_bytes(moved),
                 show_s(seconds), "memory"])  # fmt: skip
    note = (
        f"{show_s(whole + seconds)} for {n:.0f} sequences of {question.context:,} tokens without "
        f"communication, {work / rate / (whole + seconds):.0%} of the dense rate. For whole runs "
        "over many devices ask `isoflop plan`."
    )
    return "A training pass", ["pass", "FLOP", "moved", "time", "bound"], rows, note
