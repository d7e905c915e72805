"""Kinetics: what a budget of attended tokens buys as contexts grow."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.step import StepModel
from ..method import Method, MethodReport

CONTEXTS = (2048, 8192, 16384, 32768, 65536, 131072)


@final
class SparseAttention(Method):
    """Decoding steps that read a fixed number of cached tokens instead of all.

    With blocks, finding the tokens costs one pass over the blocks' representatives, 1 / block of
    the keys. Both are priced by the engine, so weights, launches and batch count too; Kinetics'
    own eFLOPs (compute plus memory at 562.5 FLOP per byte) leave weight reads out.

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

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        contexts = np.array([c for c in CONTEXTS if c <= step.model.max_context], float)
        batch = np.array(settings["batch"])
        full = step.decode_s(batch, contexts)
        # Keys of block representatives are half of what a cached token holds.
        seen = np.minimum(settings["budget"] + 0.5 * contexts / settings["block"], contexts)
        sparse = step.decode_s(batch, seen)
        records = [
            {"context": int(c), "dense_s": float(a), "sparse_s": float(b), "gain": float(a / b)}
            for c, a, b in zip(contexts, full, sparse)
        ]
        pays = [r["context"] for r in records if r["gain"] > 1.05]
        text = (
            f"A budget of {settings['budget']:.0f} tokens pays from a context of {min(pays):,} on, "
            f"{records[-1]['gain']:.2f} times at {records[-1]['context']:,}." if pays
            else "At these contexts the cache is too small a part of the step."
        )  # fmt: skip
        return MethodReport(title=f"Decoding at batch {settings['batch']:.0f}",
                            columns=("context", "dense_s", "sparse_s", "gain"),
                            records=records, conclusion=text)  # fmt: skip


METHOD = SparseAttention()
