"""Kinetics: what a budget of attended tokens buys as contexts grow."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.features import Array
from ...cost.step import StepModel
from ...errors import InvalidInput
from ...models import ModelSpec
from ..method import Method, MethodReport

INTENSITY = 562.5
"""FLOP per byte of a B200, 4,500 TFLOP/s over 8 TB/s (Kinetics, section 2)."""
CONTEXTS = (2048, 8192, 16384, 32768, 65536, 131072)


@final
class SparseAttention(Method):
    """Decoding steps that read a fixed number of cached tokens instead of all.

    With blocks, finding the tokens costs one pass over the blocks' representatives, 1 / block of
    the keys. Both are priced by the engine, so weights, launches and batch count too. `eflop_gain`
    is the same saving in Kinetics' own unit, compute plus cache bytes at 562.5 FLOP per byte, which
    leaves weight reads out: per token 2 P + 2 r n D + 2 I n D with n cached tokens of D values,
    r query heads per KV head. `attention` is the part of a dense token that the cache makes up.

    Checked: eFLOP per token summed over an answer equals the paper's closed form; as it claims,
    attention and not parameters dominates long answers of small models, and a budget pays there.
    How accuracy depends on the budget is measured, not modelled: `isoflop spend --choose test-time`
    compares strategies at equal cost.

    References
    ----------
    Sadhukhan et al. 2025, Kinetics, arXiv 2506.05333, section 4.
    """

    title: ClassVar[str] = "what a budget of attended tokens buys as contexts grow"
    reference: ClassVar[str] = "Kinetics, arXiv 2506.05333"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "budget": (1024.0, "cached tokens a step attends to"),
        "block": (16.0, "tokens per block of the search"),
        "batch": (32.0, "decoding sequences"),
    }

    example: ClassVar[str] = "qwen3-8b --on h200"

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        if any(g.mixer.index_topk for g in step.model.layers):
            raise InvalidInput(
                f"{step.model.name} chooses the tokens it attends to itself, and is priced so: see "
                f"isoflop explain {step.model.id} --context. Name a model that reads its whole "
                "cache."
            )
        contexts = np.array([c for c in CONTEXTS if c <= step.model.max_context], float)
        batch = np.array(settings["batch"])
        full = step.decode_s(batch, contexts)
        # Keys of block representatives are half of what a cached token holds.
        seen = np.minimum(settings["budget"] + 0.5 * contexts / settings["block"], contexts)
        sparse = step.decode_s(batch, seen)
        unit, dense_part = eflop(step.model, contexts)
        thin, _ = eflop(step.model, seen)
        records = [
            {"context": int(c), "dense_s": float(a), "sparse_s": float(b), "gain": float(a / b),
             "attention": float(share), "eflop_gain": float(gain)}
            for c, a, b, share, gain in zip(contexts, full, sparse, dense_part, unit / thin)
        ]  # fmt: skip
        pays = [r["context"] for r in records if r["gain"] > 1.05]
        text = (
            f"A budget of {settings['budget']:.0f} tokens pays from a context of {min(pays):,} on, "
            f"{records[-1]['gain']:.2f} times at {records[-1]['context']:,}." if pays
            else "At these contexts the cache is too small a part of the step."
        )  # fmt: skip
        return MethodReport(title=f"Decoding at batch {settings['batch']:.0f}",
                            columns=("context", "dense_s", "sparse_s", "gain", "attention",
                                     "eflop_gain"),
                            records=records, conclusion=text)  # fmt: skip


def eflop(model: ModelSpec, cached: Array) -> tuple[Array, Array]:
    """Kinetics' eFLOP of one decoded token at `cached` tokens, and attention's share of them.

    Cached keys and values are counted at two bytes a value.
    """
    values, scores = 0.0, 0.0
    for g in model.layers:
        m = g.mixer
        if m.kind == "attention":
            width = m.head_dim + (m.v_head_dim or m.head_dim)
            values += g.count * m.kv_heads * width
            scores += g.count * m.heads * width
        elif m.kind == "mla":  # all heads on one latent, which is key and value
            values += g.count * (m.kv_rank + m.rope_dim)
            scores += g.count * m.heads * (2 * m.kv_rank + m.rope_dim)
    n = np.asarray(cached, float)
    attention = 2.0 * n * scores + INTENSITY * 2.0 * n * values
    total = 2.0 * model.active_parameters + attention
    return total, attention / total


METHOD = SparseAttention()
