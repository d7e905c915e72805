"""Further sections of `isoflop explain`: data movement, attention I/O, span, formulas, systolic.

Each section is a function from (step, question) to a title, columns, rows of text and a closing
note; `SECTIONS` names them.

References
----------
Ivanov et al. 2021, Data Movement Is All You Need: operator classes and fusion.
Saha and Ye 2024, The I/O Complexity of Attention: Theta(N^2 d^2 / M) for M >= d^2.
Liu et al. 2025, The Serial Scaling Hypothesis: work, and the span that no hardware shortens.
Lai et al. 2023, Relax: costs as functions of symbolic shapes.
Jha et al. 2020, DRACO: utilisation of processing elements on systolic arrays.
Frantar et al. 2024, MARLIN: until which batch 4-bit weights pay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cost.features import Batch
from ..cost.operators.base import AttentionShape, GemmShape, IndexShape
from ..cost.step import StepModel
from ..cost.timing import linear
from ..formats import load_format
from ..units import show_bytes, show_flop, show_s
from .section import Section
from .work import convolutions, corrected_flop, training

if TYPE_CHECKING:
    from .explain import Question

WEIGHT_FORMATS = ("fp8", "int8", "int4-g128", "mxfp4", "nvfp4")
PAYS = 1.05
"""Speed-up from which a format is worth its error."""
QUERY_TILE = 128
"""Query rows of one attention tile, each of which reads all its keys once."""


def movement(step: StepModel, question: Question) -> Section:
    """Bytes by operator class, and what fusing elementwise kernels saves."""
    batch = _batch(step, question)
    cost = step.matrix.cost(batch)
    moved = cost["read"] + cost["written"]
    classes = {"contraction": 0.0, "normalisation": 0.0, "elementwise": 0.0}
    for op, b in zip(step.operators, moved, strict=True):
        kind = "elementwise" if op.kind in ("stream", "collective") else "contraction"
        if "norm" in op.name:
            kind = "normalisation"
        classes[kind] += float(b)
    fused = sum(classes.values())
    extra = unfused_extra_bytes(step, batch)
    total = fused + sum(extra.values())
    rows = [[k, show_bytes(v), f"{v / fused:.1%}", ""] for k, v in classes.items()]
    rows += [[f"saved: {k}", show_bytes(v), "", f"{v / total:.1%}"] for k, v in extra.items()]
    bandwidth = step.device.memory.bandwidth_bytes_per_s
    note = (
        f"Run one kernel per elementwise operation, the step would move {show_bytes(total)}; fused "
        f"it moves {show_bytes(fused)}, {1 - fused / total:.1%} less, or at least "
        f"{show_s((total - fused) / bandwidth)} at full bandwidth."
    )
    return "Data movement of the step", ["class", "moved", "share", "saved by fusion"], rows, note


def unfused_extra_bytes(step: StepModel, batch: Batch) -> dict[str, float]:
    """Bytes that fusion removes, by what is fused.

    Residual add and norm apart read and write the hidden state once more; an activation apart from
    its product writes and reads the gated width once more; attention apart writes and reads the
    score matrix twice (scores, then probabilities).
    """
    extra = {"residual add with norm": 0.0, "gate with product": 0.0, "attention scores": 0.0}
    cost = step.matrix.cost(batch)
    for i, op in enumerate(step.operators):
        if op.name == "residual and norm":
            extra["residual add with norm"] += (
                float(cost["read"][i]) * 0.5 + float(cost["written"][i]) * 0.5
            )
        elif op.name.endswith("activation"):
            extra["gate with product"] += 2.0 * float(cost["written"][i])
        elif isinstance(op.shape, AttentionShape) and not isinstance(op.shape, IndexShape):
            pairs = float(cost["flop"][i]) / (2.0 * (op.shape.head_dim + op.shape.v_head_dim))
            extra["attention scores"] += 4.0 * pairs * 2.0
    return extra


def io(step: StepModel, question: Question) -> Section:
    """Attention's memory traffic against the I/O lower bound for the on-chip memory."""
    n = float(question.context)
    rows = []
    for op in step.operators:
        shape = op.shape
        if not isinstance(shape, AttentionShape) or shape.selected or op.kind not in (
            "prefill", "mla_prefill",
        ):  # fmt: skip
            continue
        d = float(shape.head_dim)
        on_chip = step.device.compute.local_bytes / 2.0
        if on_chip <= 0:
            continue
        bound = max(4.0 * n * d, n * n * d * d / on_chip)
        tiled = 2.0 * n * d + 2.0 * n * d * np.ceil(n / QUERY_TILE) / 2.0
        regime = "M >= d^2" if on_chip >= d * d else "M < d^2"
        rows.append(
            [op.name, f"{d:.0f}", f"{on_chip:,.0f}", regime, show_bytes(2 * bound),
             show_bytes(2 * tiled), f"{tiled / bound:.2f}x"]
        )  # fmt: skip
    columns = ["operator", "head width d", "on-chip M (values)", "regime", "lower bound",
               "tiled kernel", "ratio"]  # fmt: skip
    note = (
        f"Per head and prompt of {question.context:,} tokens. The bound N^2 d^2 / M (with the "
        "compulsory 4 N d) holds up to a constant factor, so a ratio near one means that no other "
        "schedule moves much less; a second-level cache serves part of the kernel's re-reads."
    )
    if not rows:
        note = (
            f"The bound is that of attention over all keys: {step.model.name} has none, or the "
            "on-chip memory of the device is not known."
        )
    return "I/O of attention", columns, rows, note


def span(step: StepModel, question: Question) -> Section:
    """Work, span and the time that no added parallel hardware removes."""
    batch = _batch(step, question)
    work = float(step.matrix.total("flop", batch))
    launches = float(
        sum(op.count for op, t in zip(step.operators, step.operator_s(batch), strict=True) if t > 0)
    )
    depth = 0.0
    for op in step.operators:
        reduce = op.shape.k if isinstance(op.shape, GemmShape) else 64
        depth += op.count * (1.0 + np.ceil(np.log2(max(reduce, 2))))
    floor = launches * step.device.overhead.launch_s
    seconds = float(step.step_s(batch))
    rows = [
        ["work", show_flop(work), ""],
        ["span (dependent operations)", f"{depth:,.0f}", "log-depth reductions, all layers"],
        ["average parallelism", f"{work / depth:,.3g}", "work over span"],
        ["dependent kernels", f"{launches:,.0f}", ""],
        ["serial floor of the step", show_s(floor), f"{floor / seconds:.0%} of the step today"],
    ]
    note = (
        f"Even with unlimited parallel hardware a token needs {launches:,.0f} kernels one after "
        f"the other; a thousand generated tokens need at least {show_s(1000 * floor)} at "
        f"{show_s(step.device.overhead.launch_s)} each. Only fewer layers, fewer tokens or larger "
        "fused kernels shorten that."
    )
    return "Work and span", ["quantity", "value", "note"], rows, note


def formulas(step: StepModel, question: Question) -> Section:
    """The step's cost as formulas in batch B and context S, read off the coefficients."""
    rows = []
    for resource in ("flop", "read", "written", "sent"):

        def at(b: float, s: float, resource: str = resource) -> float:
            if question.phase == "decode":
                features = Batch(decode_sequences=b, decode_context=s - 1.0)
            else:
                features = Batch(prefill_sequences=b, prefill_tokens=s)
            return float(step.matrix.total(resource, features))

        rows.append([resource, _polynomial(at, question.phase == "decode")])
    note = "B sequences, S tokens of context; exact while no sliding window or expert choice binds."
    return "Cost as formulas", ["resource", "value"], rows, note


def _polynomial(at: Callable[[float, float], float], decode: bool) -> str:
    """Coefficients of 1, B, B S (and B S^2 for prompts), solved from exact values."""
    names = ["", "B", "B S"] if decode else ["", "B", "B S", "B S^2"]
    points = [(1.0, 64.0), (2.0, 64.0), (3.0, 128.0), (2.0, 96.0)][: len(names)]
    basis = [[1.0, b, b * s, b * s * s][: len(names)] for b, s in points]
    values = np.linalg.solve(np.array(basis), np.array([at(b, s) for b, s in points]))
    scale = np.abs(values).max()
    terms = [f"{v:.4g} {n}".strip() for v, n in zip(values, names, strict=True)
             if scale and abs(v) > 1e-9 * scale]  # fmt: skip
    return " + ".join(terms) or "0"


def systolic(step: StepModel, question: Question) -> Section:
    """Utilisation of processing elements by each product on a weight-stationary array."""
    array = step.device.compute.array or (128, 128)
    height, width = float(array[0]), float(array[-1])
    batch = _batch(step, question)
    rows = []
    for op in step.operators:
        if not isinstance(op.shape, GemmShape):
            continue
        m = float(linear(op.shape.rows, batch))
        if m <= 0:
            continue
        share = pe_utilization(m, op.shape.n * op.shape.batch, op.shape.k, height, width)
        rows.append([op.name, f"{m:,.0f}", f"{op.shape.n:,}", f"{op.shape.k:,}", f"{share:.1%}"])
    note = (
        f"Array of {height:.0f} x {width:.0f}, weights stationary: edge tiles waste elements and "
        "each tile fills and drains over rows + columns cycles, so few rows leave it idle."
    )
    return "PE utilisation", ["product", "rows", "n", "k", "busy"], rows, note


def weight_gain(step: StepModel, name: str, batches: Sequence[int]) -> dict[str, Any]:
    """What weights in the format `name` change: bytes of one rank, step seconds, until when.

    MARLIN's question (Frantar et al. 2024): until which batch does a weight format pay.
    """
    from attrs import evolve

    from ..cost.memory import weight_bytes

    sizes = np.array(batches, float) / (step.plan.data * step.plan.pipeline)
    batch = Batch(decode_sequences=sizes, decode_context=2048.0)
    plan = evolve(step.plan, formats=evolve(step.plan.formats, weights=name, experts=""))
    other = StepModel(model=step.model, plan=plan, device=step.device, cluster=step.cluster,
                      engine=step.engine)  # fmt: skip
    wide, narrow = step.step_s(batch), other.step_s(batch)
    pays = [b for b, g in zip(batches, wide / narrow) if g > PAYS]
    return {
        "format": name, "wide_s": wide.tolist(), "seconds": narrow.tolist(),
        "gain": (wide / narrow).tolist(), "pays_until": max(pays) if pays else None,
        "wide_bytes": weight_bytes(step.model, step.plan, step.operators),
        "bytes": weight_bytes(other.model, other.plan, other.operators),
    }  # fmt: skip


def weights(step: StepModel, question: Question) -> Section:
    """Speed-up of narrower weight formats by batch, and until which batch each one pays."""
    from attrs import evolve

    batches = np.array(question.batches, float)
    local = question.steps(batches / (step.plan.data * step.plan.pipeline))
    base = step.step_s(local)
    columns = ["weights", "bits", *(str(b) for b in question.batches), "pays until"]
    rows = []
    for name in WEIGHT_FORMATS:
        fmt = load_format(name)
        plan = evolve(step.plan, formats=evolve(step.plan.formats, weights=name, experts=""))
        other = StepModel(model=step.model, plan=plan, device=step.device, cluster=step.cluster,
                          engine=step.engine)  # fmt: skip
        gain = base / other.step_s(local)
        pays = [b for b, g in zip(question.batches, gain, strict=True) if g > PAYS]
        rows.append([name, f"{fmt.bits_per_value:.3g}", *(f"{g:.2f}x" for g in gain),
                     str(max(pays)) if pays else "never"])  # fmt: skip
    note = (
        f"Step time with {step.plan.formats.weights} weights over step time with each format. "
        "Weight-only formats move fewer bytes but multiply at 16 bits, so their gain fades as the "
        "batch makes products compute-bound."
    )
    return "Weight formats by batch", columns, rows, note


def pe_utilization(m: float, n: float, k: float, height: float, width: float) -> float:
    """Share of processing-element cycles that multiply, for (m x k)(k x n), weights stationary.

    Each of ceil(k/height) ceil(n/width) tiles streams m rows and takes m + height + width - 1
    cycles to fill and drain.
    """
    tiles = np.ceil(k / height) * np.ceil(n / width)
    cycles = tiles * (m + height + width - 1.0)
    return float(m * n * k / (cycles * height * width))


def _batch(step: StepModel, question: Question) -> Batch:
    return question.steps(question.batch / (step.plan.data * step.plan.pipeline))


SECTIONS: dict[str, Callable[[StepModel, Question], Section]] = {
    "movement": movement,
    "io": io,
    "span": span,
    "formulas": formulas,
    "systolic": systolic,
    "weights": weights,
    "alpha": corrected_flop,
    "convolutions": convolutions,
    "training": training,
}
