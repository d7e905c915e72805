"""Device seconds of one micro-batch through one average layer, for all plans of a space.

They depend on few degrees (tensor, sequence parallelism, expert degrees, micro-batch, context), so
a space of millions of plans needs the kernel models at some hundred shapes only: a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from attrs import define, field, frozen

from ..cost.features import Array, Batch
from ..cost.kernels.gemm import gemm_time_s
from ..cost.operators.base import GemmShape, MoeShape, Operator
from ..cost.operators.training import training_operators
from ..cost.timing import KernelTimer, linear
from ..errors import InvalidPlan
from ..formats import NumberFormat
from ..hardware import Accelerator
from ..models import ModelSpec
from ..plans import Formats, Plan
from .plan import Plans, Recipe, TrainingJob

COLUMNS = (
    "gemm_f", "attention_f", "stream_f", "experts_f", "around_f", "scan_f", "cast_f",
    "gemm_d", "attention_d", "stream_d", "experts_d", "around_d", "scan_d", "cast_d",
    "gemm_w", "experts_w", "scan_w",
    "again_gemm", "again_experts", "again_stream",
    "head_f", "head_b", "embedding", "core", "kernels", "flop", "head_flop", "core_flop",
)  # fmt: skip
"""Seconds per layer by kind: forward, gradient of inputs (d) and of weights (w); whole-model head
and embedding; `around` the products of routed experts stand kernels that move their tokens; casts
round operands to 8 or 4 bits; `core` is what selective recomputation repeats
and `again` what the recipe's modules do; kernels and FLOP are counts."""


GEMM_SHARE, ATTENTION_SHARE, MEMORY_SHARE = 0.75, 0.5, 0.85
"""Shares of peak on devices without a tile model; estimates, no such device was measured."""


class TrainingTimer(KernelTimer):
    """Kernel times of training libraries, which choose among tiles for every operand format."""

    def _parameters(self, table: dict[str, Any], fmt: NumberFormat, rate_name: str) -> Any:
        return table.get("bf16") or next(iter(table.values()))

    @cached_property
    def _untiled(self) -> bool:
        """Few large arrays (TPU, systolic): the tile models of GPUs do not hold."""
        return self.device.kind in ("tpu", "npu", "systolic")

    def _gemm(self, op: Operator, batch: Batch) -> Array:
        return self._roofline(op, batch, GEMM_SHARE) if self._untiled else super()._gemm(op, batch)

    def _prefill(self, op: Operator, batch: Batch) -> Array:
        if self._untiled:
            return self._roofline(op, batch, ATTENTION_SHARE)
        return super()._prefill(op, batch)

    def all_seconds(self, ops: Sequence[Operator], batch: Batch) -> Sequence[Array]:
        """`seconds` of several operators; products of one shape are priced once."""
        if self._untiled:
            return [self.seconds(op, batch) for op in ops]
        # Grouped products take as long in all three passes.
        first: list[Operator] = []
        place = []
        for op in ops:
            same = (i for i, o in enumerate(first)
                    if op.kind == "moe" and o.shape == op.shape
                    and o.weight_format == op.weight_format)  # fmt: skip
            at = next(same, len(first))
            first += [op] if at == len(first) else []
            place.append(at)
        return list(self.stacked(first, batch)[place])

    def _roofline(self, op: Operator, batch: Batch, share: float) -> Array:
        """The larger of the time of the FLOP and of the bytes, at estimated shares of peak."""
        rate = self._rate(op.rate)[0] if op.rate is not None else self.shape.bf16_flop_per_s
        moved = linear(op.read, batch) + linear(op.written, batch)
        memory = moved / (MEMORY_SHARE * self.shape.bandwidth_bytes_per_s)
        return np.maximum(linear(op.flop, batch) / (rate * share), memory)

    def _moe(self, op: Operator, batch: Batch) -> Array:
        """Products of balanced experts, one after another."""
        s = op.shape
        if self._untiled:
            return self._roofline(op, batch, GEMM_SHARE)
        assert isinstance(s, MoeShape)
        assert op.weight_format is not None
        rate, name = self._rate(op.weight_format)
        p = self._parameters(self.calibration.gemm, op.weight_format, name)
        # Of every expert, whether it is here or not.
        rows = linear(s.rows, batch) * s.experts_per_token / s.experts_total
        width = op.weight_format.bytes_per_value
        total = np.zeros(batch.shape)
        for n, k in (((2 if s.gated else 1) * s.inner, s.hidden), (s.hidden, s.inner)):
            total = total + s.experts * gemm_time_s(
                p, self.shape, rows, float(n), float(k), rate_flop_per_s=rate,
                weight_bytes_per_value=width, activation_bytes_per_value=min(width, 2.0),
            )  # fmt: skip
        return total


@define(kw_only=True, slots=False, eq=False)
class ComputeTable:
    """Seconds by shape, computed once per (tensor, sequence parallel, experts) and reused."""

    job: TrainingJob
    recipe: Recipe
    device: Accelerator
    _rows: dict[tuple[int, ...], tuple[Array, Array]] = field(factory=dict)
    _compiled: dict[Plan, list[tuple[str, Operator]]] = field(factory=dict)
    _dense: dict[tuple[int, int], tuple[Array, Array]] = field(factory=dict)

    def columns(self, plans: Plans) -> dict[str, Array]:
        """COLUMNS of every plan.

        Raises
        ------
        InvalidPlan
            If a plan does not divide the model.
        """
        sp = plans.sequence_parallel.astype(int)
        key = (
            (plans.tensor.astype(np.int64) * 2 + sp) * 4096 + plans.expert
        ) * 1024 + plans.expert_tensor
        keys, which = _unique(key)
        out = np.empty((len(plans), len(COLUMNS)))
        for i, code in enumerate(keys):
            mask = np.flatnonzero(which == i) if len(keys) > 1 else slice(None)
            code = int(code)
            ep, etp, tp, sq = (code // 1024 % 4096, code % 1024, code // 1024 // 4096 // 2,
                               code // 1024 // 4096 % 2)  # fmt: skip
            micro = (plans.micro_batch.astype(np.int64) * 65536 + plans.context)[mask]
            shapes, back = _unique(micro)
            out[mask] = self._table((tp, sq, ep, etp), shapes)[back]
        return dict(zip(COLUMNS, out.T, strict=True))

    def prepare(self, plans: Plans) -> None:
        """Price every shape of `plans` at once, which later calls then find."""
        table = np.stack([
            plans.tensor, plans.sequence_parallel, plans.expert, plans.expert_tensor,
            plans.micro_batch, plans.context,
        ]).astype(np.int64)  # fmt: skip
        code = table[0]
        for row, most in zip(table[1:], (2, 1024, 1024, 65536, 1024), strict=True):
            code = code * most + row
        values = _unique(code)[0]
        first = _first(code, values)
        self.columns(plans.take(first))

    def _table(self, key: tuple[int, ...], shapes: Array) -> Array:
        known = self._rows.get(key)
        if known is None:
            known = self._rows[key] = (shapes, self._price(key, shapes // 65536, shapes % 65536))
        missing = shapes[~np.isin(shapes, known[0])]
        if len(missing):
            values = self._price(key, missing // 65536, missing % 65536)
            order = np.argsort(np.concatenate([known[0], missing]))
            known = self._rows[key] = (
                np.concatenate([known[0], missing])[order],
                np.concatenate([known[1], values])[order],
            )
        return known[1][np.searchsorted(known[0], shapes)]

    def _price(self, key: tuple[int, ...], micro_batch: Array, context: Array) -> Array:
        tp, sq, ep, etp = key
        group = ep * etp
        if ep > 1 and group % tp:
            raise InvalidPlan(
                f"Experts over {ep} x {etp} ranks do not fill whole tensor groups of {tp}; choose "
                "an expert degree that the tensor degree divides."
            )
        # Most kernels know nothing of expert degrees: they are priced once for all of them.
        shapes = micro_batch * 65536 + context
        dense = self._dense.get((tp, sq))
        missing = np.setdiff1d(shapes, dense[0] if dense else np.zeros(0, np.int64))
        if len(missing):
            values = self._kernels(key, missing, routed=False)
            known = np.concatenate([dense[0], missing]) if dense else missing
            rows = np.concatenate([dense[1], values]) if dense else values
            order = np.argsort(known)
            dense = self._dense[tp, sq] = known[order], rows[order]
        assert dense is not None
        rest = dense[1][np.searchsorted(dense[0], shapes)]
        return rest + self._kernels(key, shapes, routed=True)

    def _kernels(self, key: tuple[int, ...], shapes: Array, *, routed: bool) -> Array:
        """COLUMNS of the kernels of routed experts, or of all others; shape (shapes, columns)."""
        tp, sq, ep, etp = key
        micro_batch, context = shapes // 65536, shapes % 65536
        formats = Formats(
            weights=self.recipe.format, head="fp16" if self.recipe.format == "fp16" else "bf16",
            activations="fp16" if self.recipe.format == "fp16" else "bf16",
        )  # fmt: skip
        plan = Plan(tensor=tp, data=max(1, ep * etp // tp) if ep > 1 else 1, expert=ep,
                    sequence_parallel=bool(sq), formats=formats)  # fmt: skip
        chosen = [
            (x, op) for x, op in self._operators(plan) if op.name.startswith(ROUTED) == routed
        ]
        if not chosen:
            return np.zeros((len(shapes), len(COLUMNS)))
        timer = TrainingTimer(device=self.device, plan=plan)
        width = self.job.sequence_tokens
        tokens = micro_batch * width / context
        split = Batch(prefill_sequences=micro_batch, prefill_tokens=width / context,
                      sampled_rows=tokens)  # fmt: skip
        whole = Batch(prefill_sequences=micro_batch, prefill_tokens=float(width),
                      sampled_rows=tokens)  # fmt: skip
        c: dict[str, Any] = dict.fromkeys(COLUMNS, 0.0)
        for full, batch in ((False, split), (True, whole)):
            mine = [(x, op) for x, op in chosen if (op.kind in ("prefill", "mla_prefill")) == full]
            share = context if full else 1.0
            seconds = timer.all_seconds([op for _, op in mine], batch)
            for (suffix, op), each in zip(mine, seconds, strict=True):
                if op.part == "head" and not self.recipe.padded_vocabulary:
                    each = each * _misaligned(op)
                flop = op.count * linear(op.flop, batch) / share
                _place(c, op, suffix, op.count * each / share, flop, self.job.model.depth)
                if suffix == "f" and _repeated(op, self.recipe):
                    kinds = {"gemm": "again_gemm", "moe": "again_experts"}
                    kind = kinds.get(op.kind, "again_stream")
                    c[kind] = c[kind] + op.count * each / share / self.job.model.depth
        if not self.recipe.fused_attention and not routed:
            c["kernels"] = c["kernels"] + _split_softmax(self.job.model, tp, micro_batch)
        return np.stack([np.broadcast_to(c[k], tokens.shape) for k in COLUMNS], axis=1)

    def _operators(self, plan: Plan) -> list[tuple[str, Operator]]:
        """Operators of the three passes, each with its letter in COLUMNS."""
        known = self._compiled.get(plan)
        if known is None:
            ops = training_operators(
                self.job.model, plan, unfused_attention=not self.recipe.fused_attention,
                sequence_tokens=self.job.sequence_tokens,
            )  # fmt: skip
            passes = ("f", ops.forward), ("d", ops.input_gradient), ("w", ops.weight_gradient)
            known = self._compiled[plan] = [(letter, op) for letter, g in passes for op in g]
        return known


def _split_softmax(model: ModelSpec, tensor: int, micro_batch: Array) -> Array:
    """Kernels per layer beyond one where the fused softmax of unfused attention does not run.

    Megatron-LM's takes four rows of heads x sequences per block; a rank that holds another number
    casts, scales, masks, normalises and casts back in kernels of their own.
    """
    split = sum(
        g.count * (g.mixer.heads / tensor * micro_batch % ROWS_PER_BLOCK > 0)
        for g in model.layers if g.mixer.kind == "attention"
    )  # fmt: skip
    return (SOFTMAX_KERNELS - 1.0) * np.asarray(split, float) / model.depth


def expert_kernels(job: TrainingJob, recipe: Recipe, plans: Plans) -> Array:
    """Kernels per average layer that routing and grouped products launch besides, where no graph
    replays them."""
    each = 0.0 if recipe.fixed_capacity or recipe.graphs == "iteration" else KERNELS_PER_EXPERT
    routing = ROUTING_KERNELS if recipe.graphs == "none" else 0.0
    local = sum(
        g.count * (routing + each * g.ffn.experts / plans.expert)
        for g in job.model.layers if g.ffn.kind == "moe"
    )  # fmt: skip
    return local / job.model.depth + np.zeros(len(plans))


ROUTING_KERNELS, KERNELS_PER_EXPERT = 60.0, 8.0
"""Small kernels of top-k, permutation and padding per layer, and per local expert where each
expert's products are launched one by one; estimates from open training stacks."""
REPEATED = {
    "layernorm": ("residual and norm",),
    "mla_up_proj": ("query up projection", "key/value up projection", "rope and cache write"),
    "mlp": ("gate and up projection", "up projection", "activation", "down projection"),
    "shared_experts": ("shared ",),
    "moe": ("routed experts", "shared ", "expert input projection", "expert output projection"),
    "core_attn": (),
    "moe_act": ("routed experts activation",),
}
"""How the names of the kernels begin that a recomputed module runs again; the attention core has a
column of its own."""


def _repeated(op: Operator, recipe: Recipe) -> bool:
    """Whether a forward kernel is of a module that the recipe recomputes."""
    names = (name for m in recipe.recompute_modules for name in REPEATED[m])
    return op.name.startswith(tuple(names))


def _misaligned(op: Operator) -> float:
    """Factor on a 16-bit product whose rows do not start at multiples of 16 bytes.

    Kernels then load fewer values at a time, down to one (NVIDIA's guide to matrix multiplication,
    "Tensor Core requirements"; Anthony et al. 2024, arXiv 2401.14489, section VI).
    """
    if op.kind != "gemm" or not isinstance(op.shape, GemmShape):
        return 1.0
    at_once = math.gcd(math.gcd(int(op.shape.n), int(op.shape.k)), ALIGNED_VALUES)
    return (ALIGNED_VALUES / at_once) ** ALIGNMENT_EXPONENT


ALIGNED_VALUES, ALIGNMENT_EXPONENT = 8, 0.6
"""16-bit values in one aligned load, and the power of what is lost; fitted on heads of 50,257,
12,564 and 6,282 columns."""
ROWS_PER_BLOCK = 4
SOFTMAX_KERNELS = 5.0
"""Rows of one block of Megatron-LM's fused softmax, and kernels in its place."""
ROUTED = "routed experts"
"""How the names of all kernels begin that the expert degrees shape."""


def _place(c: dict, op: Operator, suffix: str, seconds: Array, flop: Array, depth: int) -> None:
    """Add one operator's seconds to its column."""
    if op.part == "head":
        c["head_f" if suffix == "f" else "head_b"] = (
            c["head_f" if suffix == "f" else "head_b"] + seconds
        )
        c["head_flop"] = c["head_flop"] + flop
        return
    if op.part == "embedding":
        c["embedding"] = c["embedding"] + seconds
        return
    kind = {"gemm": "gemm", "moe": "experts", "scan": "scan"}.get(op.kind, "stream")
    kind = "around" if kind == "stream" and op.name.startswith(ROUTED) else kind
    kind = "cast" if "quantize" in op.name else kind
    core = op.kind in ("prefill", "mla_prefill") or op.name.startswith("attention ")
    if core:
        kind = "attention"
        if suffix == "f":
            c["core"] = c["core"] + seconds / depth
            c["core_flop"] = c["core_flop"] + flop / depth
    name = f"{kind}_{suffix}"
    if suffix == "f":
        c["kernels"] = c["kernels"] + op.count / depth
    c["flop"] = c["flop"] + (flop / depth if suffix == "f" else 0.0)
    c[name] = c[name] + seconds / depth


def _unique(values: Array) -> tuple[Array, Array]:
    """Sorted distinct values and each element's position, quick where few values repeat often."""
    if len(values) < 4096:
        return np.unique(values, return_inverse=True)
    sample = np.unique(values[:: max(1, len(values) // 2048)])
    while True:
        at = np.minimum(np.searchsorted(sample, values), len(sample) - 1)
        miss = sample[at] != values
        if not miss.any():
            return sample, at
        sample = np.union1d(sample, values[miss])


def _first(code: Array, values: Array) -> Array:
    """A position of each of the sorted distinct `values` in `code`."""
    out = np.zeros(len(values), np.int64)
    out[np.searchsorted(values, code)] = np.arange(len(code))
    return out


@frozen(kw_only=True)
class Network:
    """Links of a fleet as training collectives see them.

    Attributes
    ----------
    node : int
        Devices that share the fast tier.
    inner_bytes_per_s, outer_bytes_per_s : float
        Per device and direction: inside the fast tier, through its network adapter.
    inner_latency_s, outer_latency_s : float
    """

    node: int
    inner_bytes_per_s: float
    outer_bytes_per_s: float
    inner_latency_s: float
    outer_latency_s: float
    in_switch: bool = False
