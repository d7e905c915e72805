"""Weight-only kernels: fewer bytes of weights, products still at 16 bits."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from attrs import evolve

from ...cost.features import Array, Batch
from ...cost.operators.base import GemmShape
from ...cost.step import StepModel
from ...errors import InvalidInput
from ..method import Method, MethodReport

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PAYS = 1.05
"""Least gain of a step that counts as paying."""


@final
class WeightOnly(Method):
    """What narrow weights with 16-bit products gain, by decoding batch.

    A kernel that expands weights while it streams them moves 4 bits per weight and a scale per
    group, and multiplies as 16-bit weights do: the gain is the ratio of bytes while memory bounds
    the product, and fades as the batch brings it to the compute roof. `kernel_gain` is that of all
    linear layers but the output head, which stays at 16 bits; `step_gain` is what is left of it in
    a whole decoding step, with attention, head and host; `roof` is the share of the linear layers'
    time, at narrow weights, that products at the matrix rate would take alone. The expansion
    itself is free here: what it costs is part of the measured 16-bit kernels' share of bandwidth
    only as far as both streams are alike.

    Checked against what the paper states: close to the largest gain (3.87 for groups of 128) up to
    16 to 32 sequences on an A10, less but still much up to 64 and 128, and up to 2.8 times in
    vLLM. Predicted for Llama 2 7B on an A10: 3.7 at 16, 3.5 at 32, 2.8 at 64 and 1.9 at 128 in the
    linear layers; 3.2 in the whole step at one sequence, 2.7 at 16.

    References
    ----------
    Frantar et al. 2024, MARLIN, arXiv 2408.11743.
    """

    title: ClassVar[str] = "until which batch narrow weights with 16-bit products pay"
    reference: ClassVar[str] = "MARLIN, arXiv 2408.11743"
    example: ClassVar[str] = "llama-2-7b --on a10 --engine vllm"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "group": (128.0, "weights that share a scale"),
        "context": (128.0, "cached tokens of a sequence"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        if settings["group"] != round(settings["group"]):
            raise InvalidInput(f"A group has a whole number of weights, not {settings['group']}.")
        name = f"int4-g{settings['group']:.0f}"
        wide, narrow = _with_weights(step, "bf16"), _with_weights(step, name)
        b = np.array(BATCHES, float)
        batch = Batch(decode_sequences=b, decode_context=settings["context"])
        kernel = _linear_s(wide, batch) / _linear_s(narrow, batch)
        whole = wide.step_s(batch) / narrow.step_s(batch)
        roof = _products_s(narrow, batch) / _linear_s(narrow, batch)
        records = [
            {"batch": int(n), "kernel_gain": float(k), "step_gain": float(w),
             "step_s": float(s), "roof": float(min(r, 1.0))}
            for n, k, w, s, r in zip(b, kernel, whole, narrow.step_s(batch), roof)
        ]  # fmt: skip
        pays = [r["batch"] for r in records if r["step_gain"] >= PAYS]
        text = (
            f"{name} weights speed a decoding step up {whole.max():.2f} times at most, and pay "
            f"({PAYS - 1:.0%} or more) until {max(pays)} sequences." if pays
            else f"{name} weights pay at no batch here."
        )  # fmt: skip
        return MethodReport(
            title=f"Weights of {name} against bf16, by batch", records=records, conclusion=text,
            columns=("batch", "kernel_gain", "step_gain", "step_s", "roof"),
        )  # fmt: skip


def _with_weights(step: StepModel, name: str) -> StepModel:
    """The step with other weights."""
    formats = evolve(step.plan.formats, weights=name, experts="")
    return evolve(step, plan=evolve(step.plan, formats=formats))


def _rows(step: StepModel) -> Array:
    return np.array([isinstance(op.shape, GemmShape) and op.part != "head"
                     for op in step.operators])  # fmt: skip


def _linear_s(step: StepModel, batch: Batch) -> Array:
    """Seconds of the linear layers, the output head aside."""
    return step.operator_s(batch)[_rows(step)].sum(axis=0)


def _products_s(step: StepModel, batch: Batch) -> Array:
    """Seconds that their products take at the highest matrix rate."""
    flop = step.matrix.cost(batch)["flop"][_rows(step)]
    return (flop / step.peaks.flop_per_s[_rows(step)][:, np.newaxis]).sum(axis=0)


METHOD = WeightOnly()
