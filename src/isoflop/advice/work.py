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
from ..cost.kernels.convolution import (
    ConvolutionKind,
    convolution_bytes,
    convolution_flop,
    convolution_time_s,
    load_convolutions,
)
from ..cost.operators.training import training_operators
from ..cost.step import StepModel
from ..cost.timing import linear
from ..formats import load_format
from ..units import show_bytes, show_flop, show_flop_rate, show_s
from .section import Section

if TYPE_CHECKING:
    from .explain import Question

RESOLUTIONS = (56, 28, 14, 7)
CHANNELS = (96, 192, 384, 768)
"""Stages of the usual four-stage vision backbone: 56x56x96 down to 7x7x768."""
IMAGES = 32
KERNEL = 3


def corrected_flop(step: StepModel, question: Question) -> Section:
    """FLOP per operator, and the FLOP that a saturated product would do in its time.

    alpha = time x rate / FLOP. Asperti et al. fit alpha as a power of the parallel surface (see
    `convolutions`); here the kernel models give it for each operator, so it also holds where
    memory or launches bound.
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

    Kernels fitted on measured convolutions, at this device's rates. alpha is the fitted surface
    correction of Asperti et al. for equal FLOP, 1 at 7x7.
    """
    del question
    fitted = load_convolutions()
    product, shape = step.timer.calibration.gemm["bf16"], step.timer.shape
    rates = step.device.rates
    rate = step.device.matrix_rate(load_format("bf16"))[0] * step.timer.headroom
    surface = next(c for c in fitted.corrections if c.kernel == KERNEL)
    rows = []
    speeds: dict[ConvolutionKind, list[float]] = {"dense": [], "depthwise": [], "partial": []}
    for side, channels in zip(RESOLUTIONS, CHANNELS, strict=True):
        pixels = float(IMAGES * side * side)
        for kind in speeds:
            flop = convolution_flop(kind, pixels, channels, KERNEL)
            moved = convolution_bytes(kind, pixels, channels, KERNEL)
            seconds = convolution_time_s(
                fitted.parameters, product, shape, kind, pixels, channels, KERNEL,
                rate_flop_per_s=rate, vector_flop_per_s=rates.vector_flop_per_s,
            )  # fmt: skip
            speeds[kind].append(flop / seconds)
            rows.append([
                f"{side}x{side}x{channels} {kind}", show_flop(flop), show_bytes(moved),
                f"{flop / moved:.3g}", show_s(seconds), show_flop_rate(flop / seconds),
                f"{surface.alpha(side * side):.2f}" if kind == "dense" else "-",
            ])  # fmt: skip
    mean = {k: float(np.exp(np.mean(np.log(v)))) for k, v in speeds.items()}
    measured = step.device.family == "hopper"
    note = (
        f"On average depthwise convolutions achieve {mean['depthwise'] / mean['dense']:.1%} of the "
        f"FLOP/s of dense ones and partial ones {mean['partial'] / mean['dense']:.0%}: fewer FLOP, "
        f"but slow ones. Batch of {IMAGES} images, bf16. "
        + (
            f"Kernels measured on an H200; an H100, not fitted, is met within "
            f"{max(fitted.other_device_error.values()):.0%} by kind. "
            if measured else "Analytic: Hopper's kernels at this device's rates. "
        )
        + f"alpha: time of a FLOP of one image against a 7x7 surface, ((S_K + {surface.beta} "
        f"(S - S_K)) / S) ** {surface.gamma}, within {surface.median_error:.0%} of the measured "
        "series."
    )  # fmt: skip
    columns = ["convolution", "FLOP", "moved", "FLOP/B", "time", "achieved", "alpha"]
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
